package config

import (
	"crypto/tls"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"postern/enforce"
	"postern/proxy"
)

var plain = cmp.Options{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmpopts.IgnoreFields(enforce.Rule{}, "Keys"),
}

func prefixes(all ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, p := range all {
		list = append(list, netip.MustParsePrefix(p))
	}
	return list
}

func addrPorts(all ...string) []netip.AddrPort {
	var list []netip.AddrPort
	for _, a := range all {
		list = append(list, netip.MustParseAddrPort(a))
	}
	return list
}

func mustParse(t *testing.T, doc string) *File {
	t.Helper()
	f, err := Parse("postern.toml", []byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestEveryKeyOfTheReferenceIsRead(t *testing.T) {
	f, err := Load("testdata/reference.toml")
	if err != nil {
		t.Fatal(err)
	}
	sum := func(first byte) (s [32]byte) {
		for i := range s {
			s[i] = byte(i)
		}
		s[0] = first
		return s
	}
	want := proxy.Config{
		Observe: true,
		Intercept: proxy.Intercept{
			Method: "tproxy", Interfaces: []string{"lan0", "wg.0"}, User: "mailgate", Ports: []uint16{25, 2525},
			Sources: prefixes("10.0.0.0/8", "2001:db8::/32"),
			Bypass:  prefixes("10.0.0.9/32", "10.0.0.10/32", "2001:db8::9/128"),
			Pass:    true,
		},
		Listen: proxy.Listen{Addresses: addrPorts("127.0.0.2:2626", "[::1]:2626")},
		TLS: proxy.TLS{
			MinVersion: tls.VersionTLS12,
			Certificates: []proxy.Certificate{
				{Name: "edge", Cert: "/etc/postern/tls/cert.pem", Key: "/etc/postern/tls/key.pem"},
				{Name: "partner", Cert: "/etc/postern/tls/partner.pem", Key: "/etc/postern/tls/partner.key"},
			},
			Authority: proxy.Authority{Cert: "/etc/postern/tls/ca.pem", Key: "/etc/postern/tls/ca.key"},
			TrustCA:   "/etc/postern/tls/roots.pem", Hold: 48 * time.Hour, HoldFor: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")},
		},
		SMTP:     proxy.SMTP{BareNewline: proxy.RejectBare, Extensions: []string{"X-EXPS", "XAOL"}},
		Resolver: proxy.Resolver{Servers: addrPorts("192.0.2.53:53", "[2001:db8::53]:5353"), TrustAD: "always"},
		Verify:   proxy.Verify{Auto: enforce.Auto{MTASTS: true}, Relays: prefixes("10.0.0.0/8", "192.0.2.1/32"), Cache: "/var/cache/postern"},
		Memory:   proxy.Memory{Store: "/var/cache/memory.db", Downgrade: "log", Remember: 10 * 24 * time.Hour},
		Limits:   proxy.Limits{Sessions: 5000, SessionsPerSource: 100, Recipients: 500, Line: 4096, ReplyLines: 128},
		Timeouts: proxy.Timeouts{Connect: 20 * time.Second, Handshake: 21 * time.Second, Command: 4 * time.Minute,
			Data: 9 * time.Minute, Final: 14 * time.Minute, Drain: 50 * time.Second},
		Log: proxy.Log{Format: "console", Output: "/var/log/postern.log", Level: "debug"},
		Rules: []enforce.Rule{{
			Name:       "legacy",
			ToNetworks: prefixes("203.0.113.0/24", "2001:db8:1::/48", "198.51.100.7/32"), FromNetworks: prefixes("10.1.0.0/16"),
			OnHandshakeFailure: enforce.Cleartext, ServerName: "mx.partner.example", ClientCertificate: "partner",
			ClientStartTLS: enforce.Always, Inspect: enforce.Watch, Owner: "it-sec", Expires: time.Date(2027, 7, 1, 0, 0, 0, 0, time.Local),
		}, {
			Name:      "contoso",
			ToDomains: []string{"contoso.com", "*.contoso.com"}, FromDomains: []string{"*"},
			TLS: enforce.Forced, Verify: enforce.VerifyName, Names: []string{"*.mail.protection.outlook.com"},
			CA: "/etc/postern/tls/contoso.pem", Revocation: enforce.RevocationHard, MinVersion: tls.VersionTLS12, ForwardSecrecy: true,
			Ciphers:   []uint16{tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256},
			ClientTLS: enforce.ClientVerified, ClientNames: []string{"*.partner.example", "mail.example"},
			OnViolation: enforce.OnViolationReject, Auto: true,
		}, {
			Name: "pinned", ToNetworks: prefixes("203.0.113.128/25"), TLS: enforce.Forced, Verify: enforce.VerifyFingerprint,
			Fingerprints: []enforce.Fingerprint{{SHA256: sum(0)}, {SPKI: true, SHA256: sum(0xff)}},
			MinVersion:   tls.VersionTLS13, OnViolation: enforce.OnViolationLog, Auto: true,
		}, {
			Name: "published", ToMXOf: []string{"partner.example"}, TLS: enforce.Forced, Verify: enforce.VerifyDANE, Auto: true,
		}, {
			Name: "policy", ToMXOf: []string{"other.example"}, TLS: enforce.Forced, Verify: enforce.VerifyMTASTS,
			Revocation: enforce.RevocationSoft, Auto: true,
		}},
	}
	if diff := cmp.Diff(want, f.Proxy, plain); diff != "" {
		t.Error(diff)
	}
	if got := f.Policy.ConnectionRule(enforce.Connection{Client: netip.MustParseAddr("10.1.2.3"), Upstream: netip.MustParseAddr("198.51.100.7")},
		time.Date(2027, 6, 30, 23, 59, 59, 0, time.Local)); got.Name != "legacy" {
		t.Errorf("the policy was not made of these rules: %q", got.Name)
	}
}

func TestWhatIsNotWrittenHasTheDefaultsOfTheReference(t *testing.T) {
	f := mustParse(t, "intercept.interfaces = ['lan0']")
	want := proxy.Config{
		Intercept: proxy.Intercept{Method: "tproxy", Interfaces: []string{"lan0"}, User: "postern", Ports: []uint16{25}, PreserveSource: true},
		Listen:    proxy.Listen{Addresses: addrPorts("127.0.0.1:2525", "[::1]:2525")},
		TLS:       proxy.TLS{MinVersion: tls.VersionTLS12, TrustCA: "system", Hold: 24 * time.Hour},
		Resolver:  proxy.Resolver{Servers: addrPorts("127.0.0.1:53"), TrustAD: "loopback"},
		Verify: proxy.Verify{Auto: enforce.Auto{DANE: true, MTASTS: true}, Cache: "/var/lib/postern/policies",
			Relays: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "127.0.0.0/8", "fc00::/7", "fe80::/10", "::1/128")},
		Memory: proxy.Memory{Store: "/var/lib/postern/memory.db", Downgrade: "block", Remember: 30 * 24 * time.Hour},
		Limits: proxy.Limits{Sessions: 10000, SessionsPerSource: 200, Recipients: 1000, Line: 2048, ReplyLines: 512},
		Timeouts: proxy.Timeouts{Connect: 30 * time.Second, Handshake: 30 * time.Second, Command: 5 * time.Minute,
			Data: 10 * time.Minute, Final: 15 * time.Minute, Drain: time.Minute},
		Log: proxy.Log{Format: "json", Output: "stderr", Level: "info"},
	}
	if diff := cmp.Diff(want, f.Proxy, plain); diff != "" {
		t.Error(diff)
	}
	if f.Notes != nil {
		t.Errorf("notes: %v", f.Notes)
	}
}

func TestTheKeysOfARuleAreThoseThatWereWritten(t *testing.T) {
	f := mustParse(t, `
intercept.interfaces = ["lan0"]
[[rule]]
name = "plain"
tls = "opportunistic"
ca = ""
server_name = ""
on_violation = "defer"
`)
	if diff := cmp.Diff(map[string]bool{"name": true, "tls": true, "on_violation": true}, f.Proxy.Rules[0].Keys); diff != "" {
		t.Error(diff)
	}
}

func TestValuesThatDependOnTheMethod(t *testing.T) {
	for _, c := range []struct {
		doc      string
		preserve bool
		listen   []netip.AddrPort
	}{
		{`intercept = {method = "redirect", interfaces = ["lan0"]}`, false, addrPorts("0.0.0.0:2525", "[::]:2525")},
		{`intercept = {method = "redirect", interfaces = ["lan0"], preserve_source = false}
		  listen.addresses = ["0.0.0.0:26", "[::]:26"]`, false, addrPorts("0.0.0.0:26", "[::]:26")},
		{`intercept = {method = "redirect", interfaces = ["lo"]}`, false, addrPorts("127.0.0.1:2525", "[::1]:2525")},
		{`intercept = {method = "redirect", interfaces = ["lo"], user = "0"}
		  listen.addresses = ["0.0.0.0:2525"]`, false, addrPorts("0.0.0.0:2525")},
		{`intercept = {method = "redirect", interfaces = ["lan0", "lo"]}`, false, addrPorts("0.0.0.0:2525", "[::]:2525")},
		{`intercept.method = "none"
		  listen.upstream = "mail.example:25"`, false, addrPorts("127.0.0.1:2525", "[::1]:2525")},
		{`intercept.method = "none"
		  listen = {upstream = "[2001:db8::1]:25", addresses = ["192.0.2.1:25"]}`, false, addrPorts("192.0.2.1:25")},
		{`intercept.interfaces = ["lan0"]`, true, addrPorts("127.0.0.1:2525", "[::1]:2525")},
	} {
		f := mustParse(t, c.doc)
		if f.Proxy.Intercept.PreserveSource != c.preserve {
			t.Errorf("%s: preserve_source %v", c.doc, !c.preserve)
		}
		if diff := cmp.Diff(c.listen, f.Proxy.Listen.Addresses, plain); diff != "" {
			t.Errorf("%s: %s", c.doc, diff)
		}
	}
}

func TestFewerSessionsBoundThoseOfOneSource(t *testing.T) {
	f := mustParse(t, "intercept.interfaces = ['lan0']\nlimits.sessions = 10")
	if f.Proxy.Limits.SessionsPerSource != 10 {
		t.Errorf("%d of one source and %d in all", f.Proxy.Limits.SessionsPerSource, f.Proxy.Limits.Sessions)
	}
}

func TestAnExceptionWithoutOwnerOrDayIsNotedAndNoFault(t *testing.T) {
	f := mustParse(t, `intercept.interfaces = ["lan0"]
[resolver]
[[rule]]
name = "old"
to_networks = ["192.0.2.1"]
tls = "off"
[[rule]]
name = "older"
to_networks = ["192.0.2.2"]
on_handshake_failure = "cleartext"
owner = "it"
expires = 2030-01-01
`)
	want := `postern.toml:6: rule "old": tls: the rule is weaker than the built-in one and has no owner
postern.toml:6: rule "old": tls: the rule is weaker than the built-in one and has no day on which it expires`
	if got := f.Notes.Error(); got != want {
		t.Errorf("%s", got)
	}
}

func TestAFamilyThatIsNotListenedForIsNotedAndNoFault(t *testing.T) {
	for _, c := range []struct{ doc, note string }{
		{`intercept.interfaces = ["lan0"]
listen.addresses = ["127.0.0.1:2525"]`, `postern.toml:2: listen.addresses: no IPv6 address found: IPv6 connections are not taken, when_down decides, always`},
		{`intercept.interfaces = ["lan0"]
listen.addresses = ["[::1]:2525"]`, `postern.toml:2: listen.addresses: no IPv4 address found: IPv4 connections are not taken, when_down decides, always`},
		{`intercept = {interfaces = ["lan0"], method = "redirect"}
listen.addresses = ["0.0.0.0:2525"]`, `postern.toml:2: listen.addresses: no IPv6 address found: IPv6 connections are not taken, they go past Postern`},
		{`intercept.method = "none"
listen = {addresses = ["127.0.0.1:2525"], upstream = "mail.example:25"}`, ""},
	} {
		if got := mustParse(t, c.doc).Notes.Error(); got != c.note {
			t.Errorf("%s\n%s", c.doc, got)
		}
	}
}

// Sessions map the domains of the envelope with the same options. What a client
// may spell in many ways must be one domain here.
func TestDomainsAreMappedAsThoseOfTheEnvelopeAre(t *testing.T) {
	for written, want := range map[string]string{
		"bücher.example":             "xn--bcher-kva.example",
		"BÜCHER.Example.":            "xn--bcher-kva.example",
		"bu\u0308cher.example":       "xn--bcher-kva.example", // decomposed
		"XN--BCHER-KVA.example":      "xn--bcher-kva.example",
		"straße.example":             "xn--strae-oqa.example", // not transitional: IDNA2008 keeps the sharp s
		"例え。example":                 "xn--r8jz45g.example",   // the ideographic full stop separates labels
		"\uff21.example":             "a.example",             // a full-width letter
		"under_score.example":        "under_score.example",
		"_dmarc.example":             "_dmarc.example",
		"KELVIN-\u212a.example":      "kelvin-k.example",
		"*.bücher.example":           "*.xn--bcher-kva.example",
		"r3---sn-apo3qvuoxuxbt.test": "r3---sn-apo3qvuoxuxbt.test",
		"xn--a.example":              "",
		"b\u200dü.example":           "",
	} {
		got, problem := namePattern(written)
		if got != want || (problem == "") != (want != "") {
			t.Errorf("%+q: %q, %q", written, got, problem)
		}
	}
}

// keyError is an error as those who load files and compile rules give it.
type keyError struct{ key, problem string }

func (e keyError) Error() string     { return e.key + ": " + e.problem }
func (e keyError) ConfigKey() string { return e.key }
func (e keyError) Problem() string   { return e.problem }

func TestLaterErrorsAreLocatedInTheFile(t *testing.T) {
	f := mustParse(t, `intercept.interfaces = ["lan0"]
[[tls.certificate]]
name = "edge"
cert = "/cert.pem"
key = "/key.pem"

[[rule]]
name = "a"
tls = "forced"
verify = "ca"
ca = "/ca.pem"
`)
	err := errors.Join(
		keyError{"tls.certificate[0].key", "no such file"},
		errors.Join(enforce.RuleError{Rule: 0, Key: "ca", Msg: "no PEM"}, keyError{"tls.trust.ca", "no roots"}),
		errors.New("no listener"),
		keyError{"rule[0]", "as a whole"},
	)
	want := `postern.toml:5: tls.certificate "edge": key: no such file
postern.toml:11: rule "a": ca: no PEM
postern.toml:2: tls.trust.ca: no roots
postern.toml: no listener
postern.toml:7: rule "a": as a whole`
	if got := f.Locate(err).Error(); got != want {
		t.Errorf("%s", got)
	}
	if f.Locate(nil) != nil {
		t.Error("an error of none")
	}
	var one *Error
	if !errors.As(f.Locate(err), &one) || one.Line != 5 {
		t.Errorf("the first of them: %+v", one)
	}
}

func TestAFileThatCannotBeReadIsNoFaultOfItsContent(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "postern.toml"))
	var faults Errors
	if !errors.Is(err, os.ErrNotExist) || errors.As(err, &faults) {
		t.Errorf("%v", err)
	}
}

func TestAFileOfNoBoundIsRefusedBeforeItIsParsed(t *testing.T) {
	for what, doc := range map[string]string{
		"too long":              strings.Repeat("#", maxSize+1),
		"lists in lists":        "a = " + strings.Repeat("[", 100),
		"tables in tables":      "a = " + strings.Repeat("{a=", 100),
		"a path of many keys":   strings.Repeat("a.", 100) + "a = 1",
		"a head of many keys":   "[" + strings.Repeat("a.", 100) + "a]",
		"a key of many octets":  strings.Repeat("a", 200) + " = 1",
		"a quoted key, as long": `"` + strings.Repeat("a", 200) + `" = 1`,
	} {
		_, err := Parse("f", []byte(doc))
		var faults Errors
		if !errors.As(err, &faults) || len(faults) != 1 || faults[0].Line != 1 || !strings.Contains(err.Error(), "more than") {
			t.Errorf("%s: %.200v", what, err)
		}
	}
}

func TestWhatHoldsWithoutAFileIsWhatHoldsWhereNothingIsWritten(t *testing.T) {
	written, without := mustParse(t, `intercept.interfaces = ["lan0"]`), BuiltIn()
	written.Proxy.Intercept.Interfaces = nil
	without.Proxy.Intercept.PreserveSource = written.Proxy.Intercept.PreserveSource // settled where the method is known
	if d := cmp.Diff(written.Proxy, without.Proxy, plain); d != "" {
		t.Error(d)
	}
	c := enforce.Connection{Client: netip.MustParseAddr("192.0.2.1"), Upstream: netip.MustParseAddr("10.0.0.1")}
	if p := without.Policy; p.Floor() != written.Policy.Floor() || len(p.Rules()) != 1 || p.Auto(c).Any() || !p.Relay(c) {
		t.Errorf("%+v", p)
	}
}
