package config

import (
	"strings"
	"testing"
)

// What surprises nobody has no note.
func TestNotesTellWhatAnAdministratorWouldNotExpect(t *testing.T) {
	const lan = "intercept.interfaces = ['lan0']\n"
	const next = `a sender that is refused goes on to the next MX host, for which the rule is not: expected to_mx_of, or a rule with to_domains that demands the same (or the server in [verify] relays, if it is a smart host)`
	const no6 = `no IPv6 network found: a sender that is refused goes on to the IPv6 address of the same server, for which the rule is not`
	both := "to_networks = ['203.0.113.0/24', '2001:db8:7::/48']\n"
	forced := "[[rule]]\nname = 'a'\ntls = 'forced'\n"
	watch := "[[rule]]\nname = 'w'\nto_networks = ['203.0.113.0/24']\ninspect = 'watch'\nowner = 'it'\nexpires = 2099-01-01\n"
	auto := `[verify] auto does not reach inside: what recipient domains publish (DANE, MTA-STS) binds only mail that comes in clear here`
	for _, c := range []struct {
		what, doc string
		notes     []string // each with its line and place
	}{
		{"addresses of a partner", lan + forced + both, []string{`5: rule "a": to_networks: ` + next}},
		{"in one family", lan + forced + "to_networks = ['203.0.113.0/24']", []string{
			`5: rule "a": to_networks: ` + next, `5: rule "a": to_networks: ` + no6}},
		{"in the other", lan + forced + "to_networks = ['2001:db8:7::/48']", []string{
			`5: rule "a": to_networks: ` + next, `5: rule "a": to_networks: ` + strings.ReplaceAll(no6, "IPv6", "IPv4")}},
		{"in the one that is taken", lan + "listen.addresses = ['127.0.0.1:2525']\n" + forced + "to_networks = ['203.0.113.0/24']", []string{
			"2: listen.addresses: no IPv6 address found: IPv6 connections are not taken, when_down decides, always", `6: rule "a": to_networks: ` + next}},
		{"in the one that clients have", lan + "intercept.sources = ['10.0.0.0/8']\n" + forced + "to_networks = ['203.0.113.0/24']", []string{`6: rule "a": to_networks: ` + next}},
		{"with a twin", lan + forced + both + "[[rule]]\nname = 'b'\nto_domains = ['a.example']\ntls = 'forced'", nil},
		{"with a twin that demands less", lan + forced + both + "verify = 'ca'\n[[rule]]\nname = 'b'\nto_domains = ['a.example']\ntls = 'forced'", []string{`5: rule "a": to_networks: ` + next}},
		{"with a twin for the same addresses", lan + forced + both + "[[rule]]\nname = 'b'\nto_domains = ['a.example']\ntls = 'forced'\n" + both, []string{`5: rule "a": to_networks: ` + next}},
		{"beside MX hosts", lan + forced + "to_networks = ['203.0.113.0/24']\nto_mx_of = ['a.example']", nil},
		{"only logged", lan + forced + both + "on_violation = 'log'", nil},
		{"a smart host", lan + forced + "to_networks = ['10.0.0.25']", nil},
		{"a smart host that is named one", lan + "verify.relays = ['203.0.113.0/24', '2001:db8::/32']\n" + forced + both, nil},
		{"clients, wherever they go", lan + forced + "from_networks = ['10.0.0.0/8']", nil},
		{"one server for all", "intercept.method = 'none'\nlisten.upstream = 'mail.example:25'\n" + forced + "to_networks = ['203.0.113.0/24']", nil},

		{"watched", lan + watch, []string{`5: rule "w": inspect: ` + auto}},
		{"watched, and nothing is published", lan + "verify.auto = []\n" + watch, nil},
		{"watched, and it does not bind", lan + watch + "auto = false", nil},
		{"watched beside a stronger rule of the envelope", lan + "verify.auto = []\n" + watch + "[[rule]]\nname = 'e'\nto_domains = ['a.example']\ntls = 'forced'", []string{
			`6: rule "w": inspect: what "e" demands of mail is not enforced where the client's TLS passes through`}},
		{"watched and verified", lan + "verify.auto = []\n" + watch + "tls = 'forced'\nverify = 'ca'\nfrom_networks = ['10.0.0.0/8']", []string{
			`5: rule "w": to_networks: ` + next, `5: rule "w": to_networks: ` + no6,
			`10: rule "w": verify: found beside inspect = "watch": the certificate is seen up to TLS 1.2 only`}},

		{"no resolver is believed", lan + "resolver.trust_ad = 'never'", []string{
			`2: resolver.trust_ad: [resolver] trust_ad is "never": what recipient domains publish for DANE binds nobody`}},
		{"none is on this machine", lan + "resolver.servers = ['192.0.2.53:53']", []string{
			`2: resolver.servers: none of [resolver] servers is on this machine, and trust_ad is "loopback": what recipient domains publish for DANE binds nobody`}},
		{"one is", lan + "resolver.servers = ['192.0.2.53:53', '[::1]:53']", nil},
		{"one elsewhere is believed", lan + "resolver = {servers = ['192.0.2.53:53'], trust_ad = 'always'}", nil},
		{"nobody asks", lan + "resolver.trust_ad = 'never'\nverify.auto = ['mta-sts']", nil},
	} {
		var got []string
		for _, n := range mustParse(t, c.doc).Notes {
			got = append(got, strings.TrimPrefix(n.Error(), "postern.toml:"))
		}
		if strings.Join(got, "\n") != strings.Join(c.notes, "\n") {
			t.Errorf("%s:\n%s\nwant\n%s", c.what, strings.Join(got, "\n"), strings.Join(c.notes, "\n"))
		}
	}
}
