package enforce

import (
	"crypto/tls"
	"net/netip"
	"strings"
	"testing"
	"time"
)

const (
	tls12 = tls.VersionTLS12
	tls13 = tls.VersionTLS13
)

func keys(names ...string) map[string]bool {
	m := map[string]bool{}
	for _, n := range names {
		m[n] = true
	}
	return m
}

func TestARuleThatCannotHoldIsRefused(t *testing.T) {
	nets := networks("192.0.2.0/24")
	domains := []string{"partner.example"}
	rsa := []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}
	for _, c := range []struct {
		what string
		rule Rule
		key  string
		msg  string // part of it
	}{
		{"no name", Rule{Name: ""}, "name", "none found"},
		{"the name of the built-in rule", Rule{Name: "default"}, "name", "built-in"},
		{"an empty matcher", Rule{Name: "r", Keys: keys("to_networks")}, "to_networks", "empty list"},
		{"an empty demand", Rule{Name: "r", TLS: Forced, Verify: VerifyName, Keys: keys("names")}, "names", "empty list"},
		{"tls off for recipients", Rule{Name: "r", ToDomains: domains, TLS: Off}, "tls", "too late"},
		{"tls off for senders", Rule{Name: "r", FromDomains: domains, TLS: Off}, "tls", "from_domains"},
		{"a server name for recipients", Rule{Name: "r", ToDomains: domains, ServerName: "a.example"}, "server_name", "too late"},
		{"a certificate for recipients", Rule{Name: "r", ToDomains: domains, ClientCertificate: "edge"}, "client_certificate", "too late"},
		{"cleartext for recipients", Rule{Name: "r", ToDomains: domains, OnHandshakeFailure: Cleartext}, "on_handshake_failure", "too late"},
		{"an offer for recipients", Rule{Name: "r", ToDomains: domains, ClientStartTLS: Always}, "client_starttls", "too late"},
		{"an acting key with its default", Rule{Name: "r", ToDomains: domains, Keys: keys("inspect")}, "inspect", "too late"},
		{"verification under opportunistic", Rule{Name: "r", Verify: VerifyCA}, "verify", `"forced"`},
		{"verification of recipients under opportunistic", Rule{Name: "r", ToDomains: domains, Verify: VerifyCA}, "verify", `"forced"`},
		{"names to verify, none given", Rule{Name: "r", TLS: Forced, Verify: VerifyName}, "names", "none found"},
		{"fingerprints to verify, none given", Rule{Name: "r", TLS: Forced, Verify: VerifyFingerprint}, "fingerprints", "none found"},
		{"names nobody verifies", Rule{Name: "r", TLS: Forced, Verify: VerifyCA, Names: domains}, "names", "no effect"},
		{"fingerprints nobody verifies", Rule{Name: "r", TLS: Forced, Fingerprints: make([]Fingerprint, 1)}, "fingerprints", "no effect"},
		{"roots nobody asks", Rule{Name: "r", TLS: Forced, Verify: VerifyFingerprint, Fingerprints: make([]Fingerprint, 1), CA: "/ca.pem"}, "ca", "no effect"},
		{"client names nobody verifies", Rule{Name: "r", FromNetworks: nets, ClientTLS: ClientRequired, ClientNames: domains}, "client_names", "no effect"},
		{"cleartext under forced", Rule{Name: "r", TLS: Forced, OnHandshakeFailure: Cleartext}, "on_handshake_failure", "opportunistic"},
		{"tls off with a version", Rule{Name: "r", TLS: Off, MinVersion: tls13}, "min_version", "one or the other"},
		{"tls off with verification", Rule{Name: "r", TLS: Off, Verify: VerifyCA}, "verify", "one or the other"},
		{"tls off with cleartext", Rule{Name: "r", TLS: Off, OnHandshakeFailure: Cleartext}, "on_handshake_failure", "one or the other"},
		{"tls off with suites", Rule{Name: "r", TLS: Off, Ciphers: rsa}, "ciphers", "one or the other"},
		{"tls off and a client that is not offered any", Rule{Name: "r", FromNetworks: nets, TLS: Off, ClientTLS: ClientRequired}, "client_tls", `"always"`},
		{"a version below the floor", Rule{Name: "r", MinVersion: tls.VersionTLS11}, "min_version", `"1.1" found, expected "1.2"`},
		{"suites of 1.2 where 1.3 is demanded", Rule{Name: "r", MinVersion: tls13, Ciphers: rsa}, "ciphers", "no effect"},
		{"a suite without forward secrecy", Rule{Name: "r", ForwardSecrecy: true, Ciphers: rsa}, "ciphers", "TLS_RSA_WITH_AES_128_GCM_SHA256"},
		{"a demand of everyone", Rule{Name: "r", ClientTLS: ClientRequired}, "client_tls", "RFC 3207 §4"},
		{"a demand of all of IPv4", Rule{Name: "r", ClientTLS: ClientVerified, FromNetworks: networks("0.0.0.0/0")}, "client_tls", "RFC 3207 §4"},
		{"a demand of everyone in two halves", Rule{Name: "r", ClientTLS: ClientRequired, ToNetworks: networks("::/1", "8000::/1")}, "client_tls", "RFC 3207 §4"},
		{"a demand of every sender", Rule{Name: "r", ClientTLS: ClientRequired, FromDomains: []string{"*"}}, "client_tls", "RFC 3207 §4"},
	} {
		p, errs := Compile([]Rule{c.rule}, tls12)
		if p != nil || len(errs) != 1 {
			t.Errorf("%s: policy %v and errors %v, want one error", c.what, p, errs)
			continue
		}
		if errs[0].Key != c.key || !strings.Contains(errs[0].Msg, c.msg) || errs[0].Rule != 0 || errs[0].Other != -1 {
			t.Errorf("%s: %+v, want key %q and %q", c.what, errs[0], c.key, c.msg)
		}
	}
}

func TestAFloorOfTLS13BindsRules(t *testing.T) {
	_, errs := Compile([]Rule{
		{Name: "a", ToNetworks: networks("192.0.2.1/32"), MinVersion: tls12},
		{Name: "b", ToNetworks: networks("192.0.2.2/32"), Ciphers: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}},
	}, tls13)
	if len(errs) != 2 || errs[0].ConfigKey() != "rule[0].min_version" || errs[1].ConfigKey() != "rule[1].ciphers" {
		t.Fatalf("%v", errs)
	}
}

func TestAFloorBelowTLS12IsTakenAsTLS12(t *testing.T) {
	p, errs := Compile(nil, 0)
	if errs != nil || p.Floor() != tls12 {
		t.Fatalf("floor %x, errors %v", p.Floor(), errs)
	}
}

func TestSoundRulesCompile(t *testing.T) {
	nets := networks("192.0.2.0/24")
	for _, r := range []Rule{
		{Name: "off", ToNetworks: nets, TLS: Off},
		{Name: "off, but the client must", FromNetworks: nets, TLS: Off, ClientTLS: ClientRequired, ClientStartTLS: Always},
		{Name: "named", TLS: Forced, Verify: VerifyName, Names: []string{"*.x.example"}, CA: "/ca.pem", OnHandshakeFailure: Block,
			Keys: keys("name", "tls", "verify", "names", "ca", "on_handshake_failure")},
		{Name: "demands of an envelope", ToDomains: []string{"*"}, TLS: Forced, Verify: VerifyCA, MinVersion: tls13, ForwardSecrecy: true},
		{Name: "clear", OnHandshakeFailure: Cleartext, MinVersion: tls12, Ciphers: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}},
		{Name: "known clients", FromNetworks: nets, ClientTLS: ClientVerified, ClientNames: []string{"a.example"}},
		{Name: "partners", FromDomains: []string{"a.example"}, ClientTLS: ClientRequired},
	} {
		if _, errs := Compile([]Rule{r}, tls12); errs != nil {
			t.Errorf("%s: %v", r.Name, errs)
		}
	}
}

func TestAllErrorsOfAllRulesAreGivenAtOnce(t *testing.T) {
	_, errs := Compile([]Rule{
		{Name: "a", TLS: Off, Verify: VerifyCA, MinVersion: tls13},
		{Name: "a", Verify: VerifyName},
	}, tls12)
	var got []string
	for _, e := range errs {
		got = append(got, e.ConfigKey())
	}
	want := "rule[0].verify rule[0].min_version rule[1].verify rule[1].names rule[1].name rule[1]"
	if s := strings.Join(got, " "); s != want {
		t.Fatalf("%s, want %s", s, want)
	}
	if e := errs[4]; e.Other != 0 || !strings.HasPrefix(e.Error(), "rule[1].name: ") {
		t.Fatalf("%+v", e)
	}
}

func TestARuleHiddenByAnEarlierOneIsRefused(t *testing.T) {
	soon := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		what  string
		rules []Rule
		want  bool
	}{
		{"the earlier one matches everything", []Rule{{Name: "all"}, {Name: "some", ToNetworks: networks("192.0.2.0/24")}}, true},
		{"the narrower one comes first", []Rule{{Name: "some", ToNetworks: networks("192.0.2.0/24")}, {Name: "all"}}, false},
		{"the earlier one expires", []Rule{{Name: "all", Expires: soon}, {Name: "some", ToNetworks: networks("192.0.2.0/24")}}, false},
		{"the later one expires", []Rule{{Name: "all"}, {Name: "some", Expires: soon}}, true},
		{"the other kind", []Rule{{Name: "all"}, {Name: "some", ToDomains: []string{"a.example"}}}, false},
		{"a wider network and the same sender", []Rule{
			{Name: "a", ToNetworks: networks("192.0.2.0/24"), FromDomains: []string{"*.example"}},
			{Name: "b", ToNetworks: networks("192.0.2.7/32"), FromDomains: []string{"a.example"}, ToDomains: []string{"b.example"}}}, true},
		{"a wider network and another sender", []Rule{
			{Name: "a", ToNetworks: networks("192.0.2.0/24"), FromDomains: []string{"*.example"}},
			{Name: "b", ToNetworks: networks("192.0.2.7/32"), FromDomains: []string{"example"}}}, false},
		{"every recipient, before a rule for senders", []Rule{
			{Name: "a", ToDomains: []string{"*"}}, {Name: "b", FromDomains: []string{"a.example"}}}, true},
		{"every sender, before a rule for recipients", []Rule{
			{Name: "a", FromDomains: []string{"*"}}, {Name: "b", ToDomains: []string{"a.example"}}}, true},
		{"servers of the other family", []Rule{{Name: "v6", ToNetworks: networks("::/0")}, {Name: "some", ToNetworks: networks("192.0.2.0/24")}}, false},
		{"every server there is, before an MX host", []Rule{{Name: "both", ToNetworks: networks("::/0", "0.0.0.0/0")}, {Name: "some", ToMXOf: []string{"a.example"}, TLS: Off}}, true},
		{"one family only", []Rule{{Name: "v4", FromNetworks: networks("0.0.0.0/0")}, {Name: "all"}}, false},
	} {
		_, errs := Compile(c.rules, tls12)
		if !c.want {
			if errs != nil {
				t.Errorf("%s: %v", c.what, errs)
			}
			continue
		}
		if len(errs) != 1 || errs[0].Rule != 1 || errs[0].Other != 0 || errs[0].Key != "" ||
			!strings.Contains(errs[0].Msg, `"`+c.rules[0].Name+`"`) || !strings.Contains(errs[0].Msg, `"`+c.rules[1].Name+`"`) {
			t.Errorf("%s: %v", c.what, errs)
		}
	}
}

func TestWhatIsWeakerThanTheBuiltInRuleIsNamed(t *testing.T) {
	r := Rule{TLS: Off, ClientStartTLS: Always, OnHandshakeFailure: Cleartext}
	if got := strings.Join(r.Weaker(), " "); got != "tls on_handshake_failure client_starttls" {
		t.Errorf("%s", got)
	}
	if got := (&Rule{TLS: Forced, Verify: VerifyCA}).Weaker(); got != nil {
		t.Errorf("%s", got)
	}
}

func conn(client, upstream string) Connection {
	return Connection{Client: netip.MustParseAddr(client), Upstream: netip.MustParseAddr(upstream)}
}

func mustCompile(t *testing.T, rules ...Rule) *Policy {
	t.Helper()
	p, errs := Compile(rules, tls12)
	if errs != nil {
		t.Fatal(errs)
	}
	return p
}
