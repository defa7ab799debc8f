package main

import (
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"

	"postern/proxy/proxytest"
)

func TestWhatPartnersPublishIsEnforcedForClientsThatKnowNothingOfIt(t *testing.T) {
	yesterday := time.Now().Add(-24 * time.Hour)
	households := []household{
		{domain: "dane.example", signed: true, tlsa: own, leaf: proxytest.Leaf{SelfSigned: true, NotBefore: yesterday.Add(-time.Hour), NotAfter: yesterday, Names: []string{"whatever.invalid"}}},
		{domain: "anchored.example", signed: true, tlsa: anchor},
		{domain: "rolled.example", signed: true, tlsa: another},
		{domain: "unsigned.example", tlsa: another},
		{domain: "bogus.example", bogus: true, tlsa: own},
		{domain: "unusable.example", signed: true, tlsa: func(tls.Certificate) []string { return []string{"1 1 1 " + strings.Repeat("ab", 32)} }},
		{domain: "sts.example", policy: enforcing("mx.sts.example")},
		{domain: "wrongcert.example", policy: enforcing("mx.wrongcert.example"), leaf: proxytest.Leaf{Names: []string{"mx.elsewhere.example"}}},
		{domain: "wrongmx.example", policy: enforcing("*.mail.example")},
		{domain: "untrusted.example", policy: enforcing("mx.untrusted.example"), leaf: proxytest.Leaf{SelfSigned: true}},
		{domain: "testing.example", policy: policyOf("testing", "mx.testing.example"), leaf: proxytest.Leaf{Names: []string{"mx.elsewhere.example"}}},
		{domain: "both.example", signed: true, tlsa: own, policy: enforcing("mx.elsewhere.example")},
		{domain: "gone.example", policy: new(string)},
		{domain: "clear.example", signed: true, tlsa: own, plain: true},
		{domain: "plain.example", leaf: proxytest.Leaf{SelfSigned: true}},
	}
	for i, h := range households {
		if h.plain {
			households[i].tlsa = another // it shows nothing that could match
		}
	}
	ctx, n := settle(t, households)
	if err := n.configure("enforce", timeouts, ""); err != nil {
		t.Fatal(err)
	}
	d := n.opens(ctx, t)
	for _, c := range []struct{ domain, reply, reason, dane, sts string }{
		{"dane.example", "250", "", "matched", "none"},
		{"anchored.example", "250", "", "matched", "none"},
		{"rolled.example", "451 4.7.5", "dane-mismatch", "mismatch", "none"},
		{"unsigned.example", "250", "", "none", "none"},
		{"bogus.example", "451 4.7.5", "dnssec-bogus", "failed", ""},
		{"unusable.example", "250", "", "unusable", "none"},
		{"sts.example", "250", "", "none", "enforce"},
		{"wrongcert.example", "451 4.7.5", "mta-sts-cert", "none", "enforce"},
		{"wrongmx.example", "451 4.7.5", "mta-sts-mx-mismatch", "none", "enforce"},
		{"untrusted.example", "451 4.7.5", "cert-not-trusted", "none", "enforce"},
		{"testing.example", "250", "mta-sts-cert", "none", "testing"},
		{"both.example", "250", "", "matched", "enforce"},
		{"gone.example", "250", "", "none", "failed"},
		{"clear.example", "451 4.7.4", "starttls-not-offered", "mismatch", "none"},
		{"plain.example", "250", "", "none", "none"},
	} {
		t.Run(c.domain, func(t *testing.T) {
			replies, r := n.send(ctx, t, d, "mx."+c.domain, "office@"+c.domain)
			n.holds(t, replies[0], r, c.reply, c.reason)
			for path, want := range map[string]string{"upstream_tls.dane": c.dane, "upstream_tls.mta_sts": c.sts} {
				if got := r.field(path); want != "" && got != want {
					t.Errorf("record: %s is %q, want %q", path, got, want)
				}
			}
			if t.Failed() {
				t.Log(r.raw)
			}
		})
	}
	// One domain's broken policy touches nobody else's mail on the same server.
	replies, _ := n.send(ctx, t, d, "mx.plain.example", "a@rolled.example", "b@plain.example", "c@bogus.example", "d@unsigned.example")
	var codes []string
	for _, r := range replies {
		codes = append(codes, fmt.Sprint(r.Code))
	}
	if got := strings.Join(codes, " "); got != "451 250 451 250" {
		t.Errorf("recipients on one server: %s", got)
	}
}

// holds holds a reply and a record against a reason: both have to give it.
func (n *neighbourhood) holds(t *testing.T, reply proxytest.Reply, r record, said, reason string) {
	t.Helper()
	text := reply.String()
	if !strings.HasPrefix(text, said) {
		t.Errorf("replied %q, want %s", text, said)
	}
	if reason != "" && !reply.OK() && !strings.Contains(text, "("+reason+") ["+r.Session+"]") {
		t.Errorf("replied %q, want the reason %s and the session %s", text, reason, r.Session)
	}
	if r.Reason != reason {
		t.Errorf("record: reason %q, want %q (%s)", r.Reason, reason, r.Detail)
	}
}

// partnerRules ask for what the domains publish, in each way.
const partnerRules = `
[[rule]]
name = "followed"
to_mx_of = ["followed.example"]
tls = "forced"
verify = "name"
names = ["mx.elsewhere.example"]
[[rule]]
name = "dane"
to_domains = ["norecords.example", "nobody.example", "bogus.example", "dane.example"]
tls = "forced"
verify = "dane"
[[rule]]
name = "sts"
to_domains = ["nopolicy.example", "off.example", "gone.example", "broken.example", "testing.example", "sts.example"]
tls = "forced"
verify = "mta-sts"
[[rule]]
name = "tenant"
to_domains = ["named.example"]
tls = "forced"
verify = "name"
names = ["mx.named.example"]
`

func TestRulesAskForWhatPartnersPublish(t *testing.T) {
	broken := "version: STSv1\nmode: enforce\n"
	ctx, n := settle(t, []household{
		{domain: "followed.example"},
		{domain: "norecords.example", signed: true},
		{domain: "nobody.example", null: true},
		{domain: "bogus.example", bogus: true},
		{domain: "dane.example", signed: true, tlsa: own},
		{domain: "nopolicy.example"},
		{domain: "off.example", policy: policyOf("none")},
		{domain: "gone.example", policy: new(string)},
		{domain: "broken.example", policy: &broken},
		{domain: "testing.example", policy: policyOf("testing", "mx.elsewhere.example")},
		{domain: "sts.example", policy: enforcing("*.sts.example")},
		{domain: "plain.example"},
		{domain: "named.example", leaf: proxytest.Leaf{Names: []string{"host.hoster.example"}}, hosted: map[string]proxytest.Leaf{"mx.named.example": {Names: []string{"mx.named.example"}}}},
	})
	if err := n.configure("enforce", timeouts, "[verify]\nauto = []\n"+partnerRules); err != nil {
		t.Fatal(err)
	}
	d := n.opens(ctx, t)
	for rule := ""; rule != "followed"; { // until DNS has been asked for the addresses
		_, r := n.send(ctx, t, d, "mx.followed.example", "a@plain.example")
		rule = r.Rule
	}
	for _, c := range []struct{ to, recipient, reply, reason string }{
		{"mx.norecords.example", "a@norecords.example", "451 4.7.5", "dane-required"},
		{"mx.plain.example", "a@nobody.example", "451 4.7.5", "mx-unknown"},
		{"mx.bogus.example", "a@bogus.example", "451 4.7.5", "dnssec-bogus"},
		{"mx.dane.example", "a@dane.example", "250", ""},
		{"mx.plain.example", "a@dane.example", "451 4.7.5", "dane-mismatch"}, // an address never excuses
		{"mx.nopolicy.example", "a@nopolicy.example", "451 4.7.5", "mta-sts-fetch"},
		{"mx.gone.example", "a@gone.example", "451 4.7.5", "mta-sts-fetch"},
		{"mx.off.example", "a@off.example", "451 4.7.5", "mta-sts-policy"},
		{"mx.broken.example", "a@broken.example", "451 4.7.5", "mta-sts-policy"},
		{"mx.testing.example", "a@testing.example", "451 4.7.5", "mta-sts-mx-mismatch"},
		{"mx.plain.example", "a@sts.example", "451 4.7.5", "mta-sts-cert"},
		{"mx.sts.example", "a@sts.example", "250", ""},
		{"mx.followed.example", "a@plain.example", "421 4.7.5", "cert-name-mismatch"}, // by the address of its MX host
		{"mx.plain.example", "a@followed.example", "451 4.7.5", "cert-name-mismatch"}, // by the domain, wherever the mail goes
		{"mx.named.example", "a@named.example", "250", ""},                            // after the leg was replaced
		{"mx.named.example", "a@plain.example", "250", ""},
	} {
		t.Run(c.recipient+" by "+c.to, func(t *testing.T) {
			replies, r := n.send(ctx, t, d, c.to, c.recipient)
			n.holds(t, replies[0], r, c.reply, c.reason)
			if t.Failed() {
				t.Log(r.raw)
			}
		})
	}
	if _, r := n.send(ctx, t, d, "mx.named.example", "a@named.example"); r.field("upstream_tls.sni") != "mx.named.example" || !strings.HasPrefix(r.UpstreamTLS.Certificate.Subject, "CN=mx.named.example,") || r.Upstream.Banner != "host.hoster.example ESMTP proxytest" {
		t.Errorf("the leg was not replaced: %s", r.raw)
	}
}
