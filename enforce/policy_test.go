package enforce

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func name(r *Rule) string {
	if r == nil {
		return ""
	}
	return r.Name
}

func TestTheFirstConnectionRuleThatMatchesDecides(t *testing.T) {
	p := mustCompile(t,
		Rule{Name: "past", ToNetworks: networks("192.0.2.0/24"), Expires: noon},
		Rule{Name: "printers", FromNetworks: networks("10.1.0.0/16"), ToNetworks: networks("192.0.2.0/24")},
		Rule{Name: "mail", ToDomains: []string{"*"}},
		Rule{Name: "partner", ToNetworks: networks("192.0.2.0/24", "2001:db8::/32")},
	)
	for _, c := range []struct{ client, upstream, want string }{
		{"10.1.2.3", "192.0.2.1", "printers"},
		{"::ffff:10.1.2.3", "::ffff:192.0.2.1", "printers"},
		{"10.2.2.3", "192.0.2.1", "partner"},
		{"2001:db8::9", "2001:db8::1", "partner"},
		{"10.1.2.3", "198.51.100.1", "default"},
	} {
		if got := name(p.ConnectionRule(conn(c.client, c.upstream), noon)); got != c.want {
			t.Errorf("%s to %s: %q, want %q", c.client, c.upstream, got, c.want)
		}
	}
	if got := p.ConnectionRule(Connection{}, noon); got.Name != DefaultRule || got.TLS != Opportunistic || !got.Auto {
		t.Errorf("nothing known: %+v", got)
	}
}

func TestARuleMatchesUntilItsExpiry(t *testing.T) {
	p := mustCompile(t, Rule{Name: "exception", TLS: Off, Expires: noon}, Rule{Name: "law", TLS: Forced})
	c := conn("10.0.0.1", "192.0.2.1")
	for _, s := range []struct {
		at      time.Time
		want    string
		expired int
	}{
		{noon.Add(-time.Nanosecond), "exception", 0},
		{noon, "law", 1},
		{noon.Add(time.Hour), "law", 1},
	} {
		if got := name(p.ConnectionRule(c, s.at)); got != s.want {
			t.Errorf("%v: %q, want %q", s.at, got, s.want)
		}
		if got := p.Expired(s.at); len(got) != s.expired || s.expired > 0 && got[0].Name != "exception" {
			t.Errorf("%v: expired %v", s.at, got)
		}
	}
}

// The cases that decide what MAIL may be refused for. An empty word is no rule.
func TestTheFirstEnvelopeRuleThatMatchesDecides(t *testing.T) {
	partner := Rule{Name: "partner", ToDomains: []string{"partner.example"}}
	partnerFromUs := Rule{Name: "partner from us", ToDomains: []string{"partner.example"}, FromDomains: []string{"us.example"}}
	us := Rule{Name: "us", FromDomains: []string{"us.example"}}
	everyone := Rule{Name: "everyone", ToDomains: []string{"*"}}
	elsewhere := Rule{Name: "elsewhere", ToDomains: []string{"partner.example"}, FromNetworks: networks("198.51.100.0/24")}
	past := Rule{Name: "past", ToDomains: []string{"partner.example"}, Expires: noon}
	anySender := Rule{Name: "any sender", FromDomains: []string{"*"}}

	from := &Address{Domain: "us.example"}
	null := &Address{}
	stranger := &Address{Domain: "stranger.example"}
	to := &Address{Domain: "partner.example"}
	other := &Address{Domain: "other.example"}
	literal := &Address{Literal: true}

	for _, c := range []struct {
		what   string
		rules  []Rule
		sender *Address
		mail   string // what binds at MAIL
		rcpt   string // for the partner
		other  string // for another domain
		addr   string // for a domain literal
	}{
		{"no rules", nil, from, "", "", "", ""},
		{"recipients alone", []Rule{partner}, from, "", "partner", "", ""},
		{"senders alone", []Rule{us}, from, "us", "us", "us", "us"},
		{"senders alone, another sender", []Rule{us}, stranger, "", "", "", ""},
		{"senders alone, the null sender", []Rule{us}, null, "", "", "", ""},
		{"senders alone, unknown", []Rule{us}, nil, "", "", "", ""},
		{"every sender, the null sender", []Rule{anySender}, null, "any sender", "any sender", "any sender", "any sender"},
		{"recipients first", []Rule{partner, us}, from, "", "partner", "us", "us"},
		{"recipients first, another sender", []Rule{partner, us}, stranger, "", "partner", "", ""},
		{"senders first", []Rule{us, partner}, from, "us", "us", "us", "us"},
		{"senders first, another sender", []Rule{us, partner}, stranger, "", "partner", "", ""},
		{"recipients of other senders first", []Rule{partnerFromUs, anySender}, stranger, "any sender", "any sender", "any sender", "any sender"},
		{"recipients of this sender first", []Rule{partnerFromUs, anySender}, from, "", "partner from us", "any sender", "any sender"},
		{"recipients of another network first", []Rule{elsewhere, us}, from, "us", "us", "us", "us"},
		{"expired recipients first", []Rule{past, us}, from, "us", "us", "us", "us"},
		{"every recipient", []Rule{everyone}, from, "", "everyone", "everyone", "everyone"},
	} {
		p := mustCompile(t, c.rules...)
		cn := conn("10.0.0.1", "192.0.2.1")
		for _, s := range []struct {
			step      string
			recipient *Address
			want      string
		}{{"MAIL", nil, c.mail}, {"RCPT partner", to, c.rcpt}, {"RCPT other", other, c.other}, {"RCPT literal", literal, c.addr}} {
			if got := name(p.EnvelopeRule(cn, c.sender, s.recipient, noon)); got != s.want {
				t.Errorf("%s, %s: %q, want %q", c.what, s.step, got, s.want)
			}
		}
	}
}

// What is refused at MAIL must be what every recipient would have been refused
// by: whatever rule MAIL is given, each RCPT is given it again.
func TestWhatBindsAtMAILBindsAtEveryRCPT(t *testing.T) {
	domains := []string{"*", "*.example", "a.example", "b.example", "*.a.example"}
	some := func(t *rapid.T, label string) []string {
		return rapid.SliceOfNDistinct(rapid.SampledFrom(domains), 0, 2, rapid.ID[string]).Draw(t, label)
	}
	addr := rapid.SampledFrom([]*Address{{}, {Literal: true}, {Domain: "a.example"}, {Domain: "x.a.example"}, {Domain: "b.example"}, {Domain: "c.test"}})
	rapid.Check(t, func(t *rapid.T) {
		var rules []*compiled
		for i := range rapid.IntRange(1, 5).Draw(t, "rules") {
			r := compile(Rule{Name: fmt.Sprint(i), ToDomains: some(t, "to"), FromDomains: some(t, "from")})
			if !r.Envelope() {
				continue
			}
			rules = append(rules, r)
		}
		p := newPolicy(rules, tls12)
		c, sender, recipient := conn("10.0.0.1", "192.0.2.1"), addr.Draw(t, "sender"), addr.Draw(t, "recipient")
		atRCPT := p.EnvelopeRule(c, sender, recipient, noon)
		if atMAIL := p.EnvelopeRule(c, sender, nil, noon); atMAIL != nil && atMAIL != atRCPT {
			t.Fatalf("MAIL is bound by %q, RCPT by %q", atMAIL.Name, name(atRCPT))
		}
		// And what binds at RCPT is the first that matches, plainly told.
		var first *Rule
		for _, r := range rules {
			if (len(r.FromDomains) == 0 || r.fromDomains.contains(sender)) && (len(r.ToDomains) == 0 || r.toDomains.contains(recipient)) {
				first = &r.Rule
				break
			}
		}
		if first != atRCPT {
			t.Fatalf("RCPT is bound by %q, the first that matches is %q", name(atRCPT), name(first))
		}
	})
}

// A rule that hides another leaves it no envelope: held against the matching
// itself, so that the check can never refuse a rule that would have had a say.
func TestAHiddenRuleNeverDecides(t *testing.T) {
	domains := []string{"*", "*.example", "a.example", "*.a.example", "x.a.example"}
	nets := []string{"0.0.0.0/0", "::/0", "10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9", "10.0.0.1/32"}
	some := func(t *rapid.T, label string) []string {
		return rapid.SliceOfNDistinct(rapid.SampledFrom(domains), 0, 2, rapid.ID[string]).Draw(t, label)
	}
	draw := func(t *rapid.T, name string) *compiled {
		list := func(label string, of []string) []string {
			return rapid.SliceOfNDistinct(rapid.SampledFrom(of), 0, 3, rapid.ID[string]).Draw(t, label)
		}
		return compile(Rule{Name: name, ToDomains: some(t, "to"), FromDomains: some(t, "from"), FromNetworks: networks(list("net", nets)...),
			ToNetworks: networks(list("server", nets)...), ToMXOf: list("mx", []string{"a.example", "b.example"})})
	}
	addr := rapid.SampledFrom([]*Address{nil, {}, {Literal: true}, {Domain: "a.example"}, {Domain: "x.a.example"}, {Domain: "y.a.example"}, {Domain: "c.test"}})
	client := rapid.SampledFrom([]string{"10.0.0.1", "10.0.0.2", "10.200.0.1", "11.0.0.1", "2001:db8::1"})
	rapid.Check(t, func(t *rapid.T) {
		first, second := draw(t, "first"), draw(t, "second")
		if !hides(first, second) {
			return // nothing is claimed of these
		}
		first.twin, second.twin = nil, nil
		p := newPolicy([]*compiled{first, second}, tls12)
		c := conn(client.Draw(t, "client"), client.Draw(t, "server"))
		c.MXOf = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a.example", "b.example"}), 0, 2, rapid.ID[string]).Draw(t, "mx of")
		if name(p.ConnectionRule(c, noon)) == "second" || name(p.EnvelopeRule(c, addr.Draw(t, "sender"), addr.Draw(t, "recipient"), noon)) == "second" {
			t.Fatal("the hidden rule decides")
		}
	})
}

func TestACertificateIsAskedOfClientsThatARuleCouldVerify(t *testing.T) {
	p := mustCompile(t,
		Rule{Name: "known", FromNetworks: networks("10.1.0.1/32")},
		Rule{Name: "verified", FromNetworks: networks("10.1.0.0/16"), ClientTLS: ClientVerified},
		Rule{Name: "partners", FromNetworks: networks("10.2.0.0/16"), FromDomains: []string{"a.example"}, ClientTLS: ClientVerified},
		Rule{Name: "past", FromNetworks: networks("10.3.0.0/16"), FromDomains: []string{"b.example"}, ClientTLS: ClientVerified, Expires: noon},
		Rule{Name: "required", FromNetworks: networks("10.4.0.0/16"), ClientTLS: ClientRequired},
	)
	for client, want := range map[string]bool{
		"10.1.0.2": true,
		"10.1.0.1": false, // an earlier rule decides
		"10.2.0.1": true,
		"10.3.0.1": false,
		"10.4.0.1": false,
		"10.5.0.1": false,
	} {
		if got := p.RequestsClientCertificate(conn(client, "192.0.2.1"), noon); got != want {
			t.Errorf("%s: %v, want %v", client, got, want)
		}
	}
}

func TestAPolicyKeepsTheRulesInOrderWithTheBuiltInOneLast(t *testing.T) {
	rules := []Rule{{Name: "b", FromDomains: []string{"b.example"}}, {Name: "a"}}
	p := mustCompile(t, rules...)
	rules[0].Name = "changed behind its back"
	var got []string
	for _, r := range p.Rules() {
		got = append(got, r.Name)
	}
	if fmt.Sprint(got) != "[b a default]" {
		t.Fatal(got)
	}
}
