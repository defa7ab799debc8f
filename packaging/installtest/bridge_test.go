//go:build install

package installtest

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"postern/proxy/proxytest/netlab"
)

// bridge lays a network in which the machine is a bridge that its own services
// make, as they do at boot.
func (s *site) bridge() {
	s.t.Helper()
	// Client and server in one subnet, and the machine with two bare ports.
	client, err := netlab.NewHost("client")
	must(s.t, err)
	gateway, err := netlab.NewHost("gateway")
	must(s.t, err)
	server, err := netlab.NewHost("server")
	must(s.t, err)
	for _, host := range []*netlab.Host{client, gateway, server} {
		s.t.Cleanup(func() { must(s.t, host.Close()) })
	}
	address := netip.MustParseAddr
	s.net = &netlab.Network{Client: client, Gateway: gateway, Server: server,
		Client4: address("10.1.0.2"), Client6: address("2001:db8:1::2"), Server4: address("10.1.0.25"), Server6: address("2001:db8:1::25")}
	prefixes := func(bits4, bits6 netip.Addr) []netip.Prefix {
		return []netip.Prefix{netip.PrefixFrom(bits4, 24), netip.PrefixFrom(bits6, 64)}
	}
	must(s.t, netlab.Connect(netlab.End{Host: client, Interface: "eth0", Addresses: prefixes(s.net.Client4, s.net.Client6)},
		netlab.End{Host: gateway, Interface: "lan0"}))
	must(s.t, netlab.Connect(netlab.End{Host: server, Interface: "eth0", Addresses: prefixes(s.net.Server4, s.net.Server6)},
		netlab.End{Host: gateway, Interface: "wan0"}))
	for _, key := range []string{"net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"} {
		// Where br_netfilter is compiled in it is on in every new namespace.
		if err := gateway.Sysctl(key, "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
			s.t.Fatal(err)
		}
	}
	s.serve()
}

// The service that makes the bridge is of the machine's own, and starts when others
// of the network do.
const bridgeService = `[Unit]
Before=network.target
After=network-pre.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -ec 'ip link add br0 type bridge && ip link set lan0 master br0 && ip link set wan0 master br0 && \
  ip addr add 10.1.0.1/24 dev br0 && ip addr add 2001:db8:1::1/64 dev br0 nodad && ip link set br0 up'
[Install]
WantedBy=multi-user.target
`

func TestABridgeIsGuardedFromTheMomentItIsThere(t *testing.T) {
	s := newBridgingSite(t)
	s.installOlder()
	s.run("systemctl", "enable", "bridge.service")
	s.configure("block", "")
	// As with a network that takes its time.
	s.write("/etc/systemd/system/postern-intercept-online.service.d/late.conf", "[Service]\nExecStartPre=/bin/sleep 2\n", 0o644)
	s.run("systemctl", "enable", "postern.target")
	s.shutdown()

	s.bridge()
	s.dialing = 100 * time.Millisecond // so that there is a first packet at every moment
	l := s.tries()                     // while it boots
	s.boot(s.net.Gateway)
	s.eventually("all has started", patience, func() bool {
		return s.isActive(units...) == "active active active active active"
	})
	s.eventually("a message gets through", patience, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.sent > 0
	})
	l.end()
	s.dialing = time.Minute
	s.guarded()
	if f := s.send(s.net.Server4, 0, "seen"); !f.accepted {
		t.Errorf("%+v", f)
	} else {
		sessions := s.servers[s.net.Server4].Sessions()
		if last := sessions[len(sessions)-1].Remote.String(); netip.MustParseAddrPort(last).Addr() != s.net.Client4 {
			t.Errorf("the server sees %s", last)
		}
	}
}
