package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/proxy"
	"postern/proxy/proxytest"
)

// certified makes a configuration of doc in a directory of its own, DIR in it,
// with edge.pem, edge.key and root.pem. The name of the directory is always the
// same, for lines are broken by the length of what is in them; /run is the lab's.
func certified(t *testing.T, doc string, leaf proxytest.Leaf) (config, dir string) {
	t.Helper()
	dir = "/run/postern"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	pki, err := proxytest.NewPKI("Test")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.Issue(leaf)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := proxytest.WriteCertificate(dir, "edge", cert); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.WriteRoot(dir); err != nil {
		t.Fatal(err)
	}
	if _, _, err := pki.Root.Write(dir, "ca"); err != nil {
		t.Fatal(err)
	}
	config = filepath.Join(dir, "postern.toml")
	if err := os.WriteFile(config, []byte(strings.ReplaceAll(doc, "DIR", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	return config, dir
}

var edge = proxytest.Leaf{Names: []string{"mail.hospital.example", "*.hospital.example"}}

const edgeOnly = `
[[tls.certificate]]
name = "edge"
cert = "DIR/edge.pem"
key = "DIR/edge.key"
[tls.trust]
ca = "DIR/root.pem"
`

func TestCheckSaysInWordsWhatAConfigurationDoes(t *testing.T) {
	doc, err := os.ReadFile("testdata/check/everything.toml")
	if err != nil {
		t.Fatal(err)
	}
	path, _ := certified(t, string(doc), edge)
	h := gateway(t) // it forwards, as when_down = "pass" needs
	got := on(t, h, "check", "--config", path)
	if got.code != exitFinding || got.stderr != "" { // one has expired
		t.Errorf("exit %d\n%s", got.code, got.stderr)
	}
	golden(t, "check/everything.txt", got.stdout)

	got = on(t, h, "check", "--format", "json", "--config", path)
	if got.code != exitFinding || got.stderr != "" {
		t.Errorf("exit %d\n%s", got.code, got.stderr)
	}
	golden(t, "check/everything.json", got.stdout)
}

func TestCheckOfASoundConfigurationIsFine(t *testing.T) {
	for name, doc := range map[string]string{
		"least": `intercept.interfaces = ["lan0"]`,
		"observe": `mode = "observe"
intercept = {method = "redirect", interfaces = ["lan0"]}
listen.addresses = ["0.0.0.0:2525"]
[resolver]
[[rule]]
name = "open"
to_networks = ["192.0.2.1"]
tls = "off"
`,
		"own": `intercept = {method = "redirect", interfaces = ["lo"], user = "root"}`,
		"front": `intercept.method = "none"
listen = {upstream = "mail.example:25", addresses = ["192.0.2.1:25"]}
tls.min_version = "1.3"`,
	} {
		path := write(t, doc)
		got := postern(t, "check", "--config", path)
		if got.code != exitFine || got.stderr != "" {
			t.Errorf("%s: exit %d\n%s", name, got.code, got.stderr)
		}
		golden(t, "check/"+name+".txt", strings.ReplaceAll(got.stdout, path, "/etc/postern/postern.toml"))
	}
}

func TestCheckPrintsEveryFaultWithItsLine(t *testing.T) {
	for _, c := range []struct{ doc, want string }{
		{`mode = "strict"
[intercept]
interfaces = []
[[rule]]
name = "a"
verify = "ca"
`, `postern.toml:1: mode: "strict" found, expected "enforce" or "observe"
postern.toml:3: intercept.interfaces: none found, expected the interfaces where the connections come in
postern.toml:6: rule "a": verify: a demand found beside tls = "opportunistic", expected tls = "forced": whoever strips STARTTLS would be rid of the demand, too
`},
		{`intercept.interfaces = ["lan0"]
[[tls.certificate]]
name = "edge"
cert = "/nonexistent/cert.pem"
key = "/nonexistent/key.pem"
[tls.trust]
ca = "/nonexistent/roots.pem"
[[rule]]
name = "a"
tls = "forced"
verify = "ca"
ca = "/nonexistent/ca.pem"
`, `postern.toml:4: tls.certificate "edge": cert: open /nonexistent/cert.pem: no such file or directory
postern.toml:5: tls.certificate "edge": key: open /nonexistent/key.pem: no such file or directory
postern.toml:7: tls.trust.ca: open /nonexistent/roots.pem: no such file or directory
postern.toml:12: rule "a": ca: open /nonexistent/ca.pem: no such file or directory
`},
	} {
		path := write(t, c.doc)
		got := postern(t, "check", "--config", path)
		if said := strings.ReplaceAll(got.stderr, path, "postern.toml"); got.code != exitUsage || got.stdout != "" || said != c.want {
			t.Errorf("exit %d\n%s%s", got.code, got.stdout, said)
		}
		got = postern(t, "check", "--config", path, "--format", "json")
		var result checked
		if err := json.Unmarshal([]byte(got.stdout), &result); err != nil || got.code != exitUsage || got.stderr != "" {
			t.Errorf("%v, exit %d\n%s%s", err, got.code, got.stdout, got.stderr)
		}
		if result.Sound || len(result.Errors) != strings.Count(c.want, "\n") || result.Errors[0].Line == 0 || result.Rules != nil {
			t.Errorf("%+v", result)
		}
	}
}

func TestCheckFindsWhatInterceptionMissesOnThisMachine(t *testing.T) {
	const passes = `intercept = {interfaces = ["lan0"], when_down = "pass"}
`
	const no4 = `postern.toml:1: intercept.when_down: pass needs a machine that forwards IPv4, and net.ipv4.ip_forward is 0: ` +
		`sysctl -w net.ipv4.ip_forward=1, or when_down = "block", or no IPv4 address in listen.addresses
`
	no6 := strings.NewReplacer("IPv4", "IPv6", "ipv4.ip_forward", "ipv6.conf.all.forwarding").Replace(no4)
	for name, c := range map[string]struct {
		doc            string
		forward, flow6 string
		want           string
	}{
		"both":              {passes, "1", "1", ""},
		"neither":           {passes, "0", "0", no4 + no6},
		"IPv4 alone":        {passes, "1", "0", no6},
		"IPv6 alone":        {passes, "0", "1", no4},
		"no IPv6 wanted":    {passes + `listen.addresses = ["127.0.0.1:2525"]`, "1", "0", ""},
		"blocked, not sent": {`intercept.interfaces = ["lan0"]`, "0", "0", ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := gateway(t)
			if err := errors.Join(h.Sysctl("net.ipv4.ip_forward", c.forward), h.Sysctl("net.ipv6.conf.all.forwarding", c.flow6)); err != nil {
				t.Fatal(err)
			}
			path := write(t, c.doc)
			code, first := exitFine, " is sound.\n"
			if c.want != "" {
				code, first = exitFinding, " is sound, but not for this machine.\n"
			}
			got := on(t, h, "check", "--config", path)
			if said := strings.ReplaceAll(got.stderr, path, "postern.toml"); got.code != code || said != c.want ||
				!strings.HasPrefix(got.stdout, path+first) {
				t.Errorf("exit %d\n%s%s", got.code, got.stdout, said)
			}
			got = on(t, h, "check", "--config", path, "--format", "json")
			var result checked
			if err := json.Unmarshal([]byte(got.stdout), &result); err != nil || got.code != code || got.stderr != "" {
				t.Errorf("%v, exit %d\n%s%s", err, got.code, got.stdout, got.stderr)
			}
			if result.Sound != (c.want == "") || len(result.Errors) != strings.Count(c.want, "\n") || result.Rules == nil {
				t.Errorf("%+v", result)
			}
			// And interception says the same.
			if up := on(t, h, "intercept", "up", "--config", path); up.code != code {
				t.Errorf("up: %+v", up)
			}
		})
	}
}

// What the machine carries for others and Postern is not told to take goes past it.
func TestCheckWarnsOfAFamilyThatTheMachineCarriesAndSourcesLeaveOut(t *testing.T) {
	const warning = "warning: %s:1: intercept.sources: no %s network found, and this machine carries %s: such connections go past Postern\n"
	for name, c := range map[string]struct {
		sources        string
		forward, flow6 string
		want           string // the family
	}{
		"IPv6":                  {`["10.0.0.0/8"]`, "1", "1", "IPv6"},
		"IPv4":                  {`["2001:db8::/32"]`, "1", "1", "IPv4"},
		"one that is not there": {`["10.0.0.0/8"]`, "1", "0", ""},
		"both":                  {`["10.0.0.0/8", "2001:db8::/32"]`, "1", "1", ""},
		"everything":            {`[]`, "1", "1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := gateway(t)
			if err := errors.Join(h.Sysctl("net.ipv4.ip_forward", c.forward), h.Sysctl("net.ipv6.conf.all.forwarding", c.flow6)); err != nil {
				t.Fatal(err)
			}
			path := write(t, `intercept = {interfaces = ["lan0"], sources = `+c.sources+`}`)
			got := on(t, h, "check", "--config", path)
			if got.code != exitFine || got.stderr != "" || strings.Contains(got.stdout, "warning: ") != (c.want != "") ||
				c.want != "" && !strings.Contains(got.stdout, fmt.Sprintf(warning, path, c.want, c.want)) {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestABridgeCarriesBothFamilies(t *testing.T) {
	m := carrier{bridge: func(name string) bool { return name == "br0" }}
	in := proxy.Intercept{Method: "tproxy", Interfaces: []string{"lan0", "br0"}, Sources: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	if err := leftOut(proxy.Config{Intercept: in}, m); err == nil || !strings.Contains(err.Error(), "carries IPv6") {
		t.Error(err)
	}
	in.Interfaces = in.Interfaces[:1]
	if err := leftOut(proxy.Config{Intercept: in}, m); err != nil {
		t.Error(err)
	}
}

func TestCheckSaysWhatClientsAreShownOfAnAuthority(t *testing.T) {
	words := shownWords(proxy.TLS{Authority: proxy.Authority{Cert: "/ca.pem", Key: "/ca.key"}})
	for _, says := range []string{"named as the server's own", "/ca.pem", `inspect = "watch"`} {
		if !strings.Contains(words, says) {
			t.Errorf("%q is not in %q", says, words)
		}
	}
}

func TestCheckLooksAtTheMachineWithoutPrivilege(t *testing.T) {
	path := write(t, `intercept = {interfaces = ["lan0"], when_down = "pass"}`)
	check := func() said { return postern(t, "check", "--config", path) }
	if with, without := check(), withoutCapability(check); with != without {
		t.Errorf("with CAP_NET_ADMIN %+v, without %+v", with, without)
	}
}

func TestCheckWarnsOfWhatWillBeAFaultSomeDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		soon := edge
		soon.NotAfter = time.Now().Add(10 * 24 * time.Hour)
		path, _ := certified(t, `intercept.interfaces = ["lan0"]`+edgeOnly, soon)
		got := postern(t, "check", "--config", path)
		if want := "warning: " + path + `:4: tls.certificate "edge": cert: expires on 2000-01-11` + "\n"; got.code != exitFine || !strings.Contains(got.stdout, want) {
			t.Errorf("exit %d\n%s", got.code, got.stdout)
		}
	})
}

func TestARuleHoldsThroughItsLastDayAndIsAFindingFromTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the clock stands at 2000-01-01 00:00 UTC
		today := time.Now().Format(time.DateOnly)
		path := write(t, `intercept.interfaces = ["lan0"]
[[rule]]
name = "old"
to_networks = ["192.0.2.1"]
tls = "off"
owner = "it"
expires = `+today)
		if got := postern(t, "check", "--config", path); got.code != exitFine || !strings.Contains(got.stdout, "until "+today) {
			t.Errorf("exit %d\n%s", got.code, got.stdout)
		}
		time.Sleep(24 * time.Hour)
		if got := postern(t, "check", "--config", path); got.code != exitFinding || !strings.Contains(got.stdout, "EXPIRED: its last day was "+today) {
			t.Errorf("exit %d\n%s", got.code, got.stdout)
		}
	})
}

// What an administrator should look at is no reason not to start.
func TestAQuietCheckSaysOnlyWhatKeepsPosternFromStarting(t *testing.T) {
	expired := write(t, `intercept.interfaces = ["lan0"]
[[rule]]
name = "old-scanner"
from_networks = ["10.9.8.7"]
on_handshake_failure = "cleartext"
owner = "it-sec"
expires = 2020-06-30
`)
	if got := postern(t, "check", "--config", expired); got.code != exitFinding {
		t.Errorf("%+v", got)
	}
	if got := postern(t, "check", "--quiet", "--config", expired); got != (said{}) {
		t.Errorf("%+v", got)
	}
	wrong := write(t, `intercept.interfaces = ["lan0", "lan0"]`)
	want := postern(t, "check", "--config", wrong)
	if got := postern(t, "check", "--quiet", "--config", wrong); got != want || got.code != exitUsage {
		t.Errorf("%+v, want %+v", got, want)
	}
}
