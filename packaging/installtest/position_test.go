//go:build install

package installtest

import (
	"errors"
	"net/netip"
	"testing"
	"time"
)

// A position is where a machine stands, with Postern installed and configured.
type position struct {
	name    string
	prepare func(t *testing.T) *site
	downs   []string // what when_down can be there
}

var positions = []position{
	{"router", onRouter, []string{"block", "pass"}},
	{"bridge", onBridge, []string{"block", "pass"}},
	{"router by redirect", onRedirectingRouter, []string{"block"}},
}

func (s *site) installOlder() {
	s.t.Helper()
	older, _ := packages(s.t, "deb")
	s.install(older)
}

func onRouter(t *testing.T) *site {
	s := newSite(t, "bookworm")
	s.installOlder()
	return s
}

func onBridge(t *testing.T) *site {
	s := newBridgingSite(t)
	s.installOlder()
	s.run("systemctl", "enable", "--now", "bridge.service")
	must(t, errors.Join( // which pass needs
		s.net.Gateway.Sysctl("net.ipv4.ip_forward", "1"),
		s.net.Gateway.Sysctl("net.ipv6.conf.all.forwarding", "1"),
		s.net.Gateway.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), s.net.Server4),
		s.net.Gateway.AddRoute(netip.MustParsePrefix("::/0"), s.net.Server6)))
	return s
}

// onRedirectingRouter changes the sockets as postern.toml says.
func onRedirectingRouter(t *testing.T) *site {
	s := newSite(t, "bookworm")
	s.installOlder()
	s.intercept = "method = \"redirect\"\ninterfaces = [\"lan0\"]"
	s.write("/etc/systemd/system/postern.socket.d/listen.conf", "[Socket]\nListenStream=\nListenStream=0.0.0.0:2525\nListenStream=[::]:2525\n", 0o644)
	s.run("systemctl", "daemon-reload")
	return s
}

// each runs the test in each position, under each when_down, with what connections
// meet then.
func each(t *testing.T, test func(*site, string, func(*site))) {
	for _, p := range positions {
		for _, word := range p.downs {
			t.Run(p.name+", "+word, func(t *testing.T) {
				s := p.prepare(t)
				s.configure(word, "")
				s.start()
				s.guarded()
				s.use()
				test(s, word, map[string]func(*site){"block": (*site).blocked, "pass": (*site).open}[word])
			})
		}
	}
}

func newBridgingSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, dialing: time.Minute, intercept: `interfaces = ["br0"]`, machine: newMachine(t, "bookworm")}
	s.makePKI()
	s.bridge()
	s.write("/etc/systemd/system/bridge.service", bridgeService, 0o644)
	s.boot(s.net.Gateway)
	return s
}
