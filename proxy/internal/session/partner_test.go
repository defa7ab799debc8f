package session

import (
	"context"
	"crypto/tls"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/enforce"
)

// A directory is Partners whose answers a test writes down.
type directory struct {
	mxOf  []string
	host  string
	hosts []string // of every domain
	slow  bool     // answers come with the end of the context
	asked []string
	find  func(domain string, up Server) enforce.Published
	mu    sync.Mutex
}

func (d *directory) MXOf(netip.Addr) []string { return d.mxOf }
func (d *directory) Host(netip.Addr) string   { return d.host }
func (d *directory) Hosts(context.Context, string, netip.Addr) []string {
	return d.hosts
}

func (d *directory) Published(ctx context.Context, domain string, _ enforce.Auto, up Server) Finding {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, domain)
	if d.slow {
		<-ctx.Done()
		return Finding{Published: enforce.Published{Domain: domain, MX: enforce.MXFailed, Detail: "timeout"}}
	}
	p := d.find(domain, up)
	p.Domain = domain
	return Finding{Published: p, Hosts: d.hosts}
}

var bothPublished = enforce.Verification{Auto: enforce.Auto{DANE: true, MTASTS: true}}

// withPartners is a bench's edit: what d says binds.
func withPartners(d *directory, more ...func(*Snapshot)) func(*Snapshot) {
	return func(s *Snapshot) {
		s.Partners, s.Policy = d, s.Policy.Verifying(bothPublished)
		for _, edit := range more {
			edit(s)
		}
	}
}

// named finds DANE satisfied where the server showed a certificate of that name.
func named(want map[string]string) func(string, Server) enforce.Published {
	return func(domain string, up Server) enforce.Published {
		p := enforce.Published{MX: enforce.MXKnown, DANE: enforce.DANE{State: enforce.DANENone}, MTASTS: enforce.MTASTS{State: enforce.MTASTSNone}}
		if name := want[domain]; name != "" {
			p.DANE = enforce.DANE{State: enforce.DANEDiffers, Detail: "the certificate does not match"}
			if len(up.Chain) > 0 && up.Chain[0].DNSNames[0] == name {
				p.DANE.State = enforce.DANEMatches
			}
		}
		return p
	}
}

func TestARecipientIsRefusedAloneForWhatItsDomainPublishes(t *testing.T) {
	d := &directory{find: named(map[string]string{"dane.example": "mx.dane.example", "own.example": "mx.example.net"})}
	b := newBench(t, options{edit: withPartners(d)})
	up := b.greeted(true, "PIPELINING")
	b.client.say("MAIL FROM:<a@x.example>\nRCPT TO:<b@dane.example>\nRCPT TO:<c@own.example>\nRCPT TO:<d@plain.example>\nRCPT TO:<e@[192.0.2.1]>\nRCPT TO:<f@dane.example>\n")
	up.hears("MAIL FROM:<a@x.example>", "RCPT TO:<c@own.example>", "RCPT TO:<d@plain.example>", "RCPT TO:<e@[192.0.2.1]>")
	up.say("250 ok\n250 ok\n250 ok\n250 ok\n")
	b.client.hears("250 ok", "451 4.7.5 mx.example.net: dane.example: the certificate does not match (dane-mismatch) …", "250 ok", "250 ok", "250 ok",
		"451 4.7.5 …")
	b.client.conn.Close()
	wantFields(t, b.record(), map[string]string{"verdict": "defer", "reason": "dane-mismatch", "stage": "rcpt", "upstream_tls.dane": "mismatch", "upstream_tls.mta_sts": "none"})
	if len(d.asked) != 3 {
		t.Errorf("asked about %q: a session asks once about a domain", d.asked)
	}
}

func TestWhatIsPublishedBindsNobodyWhereTheRuleSaysSo(t *testing.T) {
	d := &directory{find: named(map[string]string{"dane.example": "other.example"})}
	b := newBench(t, options{edit: withPartners(d), rules: []enforce.Rule{{Name: "excepted", FromNetworks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}})
	up := b.greeted(true)
	b.client.say("MAIL FROM:<a@x.example>\nRCPT TO:<b@dane.example>\n")
	up.hears("MAIL FROM:<a@x.example>")
	up.say("250 ok\n")
	up.hears("RCPT TO:<b@dane.example>")
	if len(d.asked) != 0 {
		t.Errorf("asked about %q", d.asked)
	}
}

func TestASessionDoesNotWaitForADomainLongerThanItMay(t *testing.T) {
	d := &directory{slow: true}
	b := newBench(t, options{edit: withPartners(d)})
	up := b.greeted(true, "PIPELINING")
	began := time.Now()
	b.client.say("MAIL FROM:<a@x.example>\n")
	up.hears("MAIL FROM:<a@x.example>")
	up.say("250 ok\n")
	b.client.hears("250 ok")
	b.session.partner.spent = allPatience // so that the test need not wait
	b.client.say("RCPT TO:<b@slow.example>\n")
	b.client.hears("451 4.7.5 mx.example.net: the MX hosts of slow.example cannot be looked up: timeout (dnssec-bogus) …")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestARuleForMXHostsBindsTheConnection(t *testing.T) {
	d := &directory{mxOf: []string{"partner.example"}, host: "mx.partner.example"}
	b := newBench(t, options{edit: withPartners(d), rules: []enforce.Rule{{Name: "mx", ToMXOf: []string{"partner.example"}, TLS: enforce.Forced}}})
	up := b.server()
	up.say("220 mx.example.net ESMTP\n")
	b.client.hears("220 …")
	b.client.say("EHLO client.example\n")
	up.hears("EHLO client.example")
	up.say("250-hi\n250 STARTTLS\n")
	up.hears("STARTTLS")
	up.say("220 go\n")
	var asked string
	up.acceptTLS(&tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) { asked = h.ServerName; return nil, nil }})
	up.hears("EHLO client.example")
	up.say("250 hi\n")
	b.client.reply()
	b.client.conn.Close()
	wantFields(t, b.record(), map[string]string{"rule": "mx", "upstream_tls.sni": "mx.partner.example"})
	if asked != "mx.partner.example" {
		t.Errorf("asked for %q by SNI", asked)
	}
}

// memory is a Memory that remembers one thing.
type memoryOf struct {
	of      *enforce.Remembered
	domains map[string]*enforce.Remembered
	learnt  []Observation
}

func (m *memoryOf) Recall(netip.AddrPort) *enforce.Remembered { return m.of }
func (m *memoryOf) RecallDomain(d string, _ netip.Addr) *enforce.Remembered {
	return m.domains[d]
}
func (m *memoryOf) Learn(o Observation) { m.learnt = append(m.learnt, o) }

func TestADestinationThatLostItsTLSIsRefusedAndTheHandIsNamed(t *testing.T) {
	seen := &enforce.Remembered{Version: tls.VersionTLS13, Last: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)}
	for _, tc := range []struct{ name, banner, ehlo, helo, by string }{
		{"nobody knows", "220 mx.example.net ESMTP\n", "250-hi\n250 SIZE\n", "", ""},
		{"a firewall", "220 mx.example.net ESMTP\n", "250-hi\n250 XXXXXXXA\n", "", "xxxxxxxa"},
		{"a firewall that hides the banner", "220 *********************\n", "250-hi\n250 SIZE\n", "", "starred-banner"},
		{"something that knows no EHLO", "220 mx.example.net ESMTP\n", "500 what\n", "250 hi\n", "ehlo-refused"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := &memoryOf{of: seen}
			b := newBench(t, options{edit: func(s *Snapshot) { s.Memory = m }})
			up := b.server()
			up.say(tc.banner)
			b.client.hears("220 …")
			b.client.say("EHLO client.example\n")
			up.hears("EHLO client.example")
			up.say(tc.ehlo)
			if tc.helo != "" {
				up.hears("HELO client.example")
				up.say(tc.helo)
			}
			if got := b.client.line(); !strings.HasPrefix(got, "421 4.7.4 ") || !strings.Contains(got, "STARTTLS is not offered, and the server had TLS 1.3 on 2026-11-01") || !strings.Contains(got, "(starttls-stripped)") {
				t.Errorf("the client hears %q", got)
			}
			b.client.conn.Close()
			wantFields(t, b.record(), map[string]string{"verdict": "defer", "reason": "starttls-stripped", "tls": "may:none", "upstream_tls.stripped_by": tc.by})
			if len(m.learnt) != 1 || m.learnt[0].TLS {
				t.Errorf("learnt %+v", m.learnt)
			}
		})
	}
}

func TestADomainThatLostItsTLSIsRefusedAlone(t *testing.T) {
	m := &memoryOf{domains: map[string]*enforce.Remembered{"was.example": {Domain: "was.example", Version: tls.VersionTLS12}}}
	b := newBench(t, options{edit: func(s *Snapshot) { s.Memory = m }})
	up := b.greeted(false, "PIPELINING")
	b.client.say("MAIL FROM:<a@x.example>\nRCPT TO:<b@was.example>\nRCPT TO:<c@never.example>\n")
	up.hears("MAIL FROM:<a@x.example>", "RCPT TO:<c@never.example>")
	up.say("250 ok\n250 ok\n")
	b.client.hears("250 ok", "451 4.7.4 mx.example.net: STARTTLS is not offered, and a server of was.example had TLS 1.2 …", "250 ok")
	b.client.say("RCPT TO:<b@was.example>\nRSET\nMAIL FROM:<a@x.example>\n") // the next sender has nothing to do with it
	up.hears("RSET", "MAIL FROM:<a@x.example>")
	up.say("250 ok\n250 ok\n")
	b.client.hears("451 4.7.4 …", "250 ok", "250 ok")
	b.client.say("RCPT TO:<b@was.example>\nEHLO other.example\n") // nor has the connection
	b.client.hears("451 4.7.4 …")
	up.hears("EHLO other.example")
	up.say("250 hi\n")
	b.client.hears("250 hi")
}

func TestWhatASessionTeaches(t *testing.T) {
	host := func(d *directory) { d.host = "mx.example.net" }
	for _, tc := range []struct {
		name            string
		rules           []enforce.Rule
		noVerify        bool
		edit            func(*directory)
		rcpt            string
		verified, every bool
	}{
		{"a certificate that nobody vouches for", nil, true, nil, "plain.example", false, false},
		{"one that verifies for a name of its own choice", nil, false, nil, "plain.example", false, false},
		{"one that verifies for the MX host there", nil, false, host, "plain.example", true, false},
		{"one that a rule names", []enforce.Rule{{Name: "r", TLS: enforce.Forced, Verify: enforce.VerifyName, Names: []string{"mx.example.net"}, Auto: true}}, false, nil, "plain.example", true, false},
		{"one that the domain vouches for", nil, true, nil, "own.example", false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m, d := &memoryOf{}, &directory{find: named(map[string]string{"own.example": "mx.example.net"})}
			if tc.edit != nil {
				tc.edit(d)
			}
			b := newBench(t, options{noVerify: tc.noVerify, rules: tc.rules, edit: withPartners(d, func(s *Snapshot) { s.Memory = m })})
			up := b.greeted(true, "PIPELINING")
			b.client.say("MAIL FROM:<a@x.example>\nRCPT TO:<b@" + tc.rcpt + ">\n")
			up.hears("MAIL FROM:<a@x.example>", "RCPT TO:<b@"+tc.rcpt+">")
			up.say("250 ok\n250 ok\n")
			b.client.hears("250 ok", "250 ok")
			b.client.conn.Close()
			b.record()
			if len(m.learnt) != 1 {
				t.Fatalf("learnt %+v", m.learnt)
			}
			o := m.learnt[0]
			if !o.TLS || o.Version != tls.VersionTLS13 || o.SPKI == [32]byte{} || o.Verified != tc.verified || o.VerifiedDomains != tc.every ||
				len(o.Domains) != 1 || o.Domains[0] != tc.rcpt || o.Client != netip.MustParseAddr("10.1.0.2") {
				t.Errorf("learnt %+v", o)
			}
		})
	}
}

// tenants serves a host that chooses its certificate by SNI.
func tenants(asked *string) *tls.Config {
	return &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		*asked = h.ServerName
		return &tls.Config{Certificates: []tls.Certificate{*testCertificate(h.ServerName)}}, nil
	}}
}

// again has the server greet a second connection as it did the first, as far as
// its answer to EHLO inside TLS.
func (b *bench) again(asked *string, capabilities ...string) *peer {
	b.t.Helper()
	up := b.server()
	up.say("220 mx.example.net ESMTP\n")
	up.hears("EHLO client.example")
	up.say("250-hi\n250 STARTTLS\n")
	up.hears("STARTTLS")
	up.say("220 go\n")
	if err := up.acceptTLS(tenants(asked)); err != nil {
		b.t.Fatal(err)
	}
	up.hears("EHLO client.example")
	up.say(ehloReply(append([]string{"hi"}, capabilities...)))
	return up
}

func TestTheUpstreamLegIsReplacedOnceForTheNameThatIsRequired(t *testing.T) {
	d := &directory{find: named(map[string]string{"tenant.example": "mx.tenant.example", "third.example": "mx.third.example"}), hosts: []string{"mx.tenant.example"}}
	b := newBench(t, options{edit: withPartners(d)})
	first := b.greeted(true, "PIPELINING", "SIZE 1000")
	b.client.say("MAIL FROM:<a@x.example> SIZE=10\nRCPT TO:<b@tenant.example>\nRCPT TO:<c@third.example>\nDATA\n")
	first.hears("MAIL FROM:<a@x.example> SIZE=10")
	first.say("250 ok\n")
	var asked string
	second := b.again(&asked, "PIPELINING", "SIZE 2000", "NEW")
	second.hears("MAIL FROM:<a@x.example> SIZE=10")
	second.say("250 ok\n")
	first.hears("QUIT")
	first.hearsEnd()
	second.hears("RCPT TO:<b@tenant.example>", "DATA")
	second.say("250 ok\n354 go\n")
	b.client.hears("250 ok", "250 ok", "451 4.7.5 mx.example.net: third.example: the certificate does not match (dane-mismatch) …", "354 go")
	b.client.say("x\n.\n")
	second.octets("x\r\n.\r\n")
	second.say("250 queued\n")
	b.client.hears("250 queued")
	b.client.say("QUIT\n")
	second.hears("QUIT")
	second.say("221 bye\n")
	b.client.hears("221 bye")
	second.hearsEnd()
	wantFields(t, b.record(), map[string]string{"upstream_tls.sni": "mx.tenant.example", "upstream_tls.dane": "mismatch",
		"upstream_tls.certificate.names": `["mx.tenant.example"]`, "end": "quit", "reason": "dane-mismatch"})
	if asked != "mx.tenant.example" {
		t.Errorf("asked for %q", asked)
	}
}

func TestTheUpstreamLegStaysWhereReplacingItWouldBreakAPromise(t *testing.T) {
	const refusal = "451 4.7.5 mx.example.net: tenant.example: the certificate does not match (dane-mismatch) …"
	mail := func(up *peer) { up.hears("MAIL FROM:<a@x.example>") }
	for _, tc := range []struct {
		name   string
		second func(b *bench, asked *string)
	}{
		{"it refuses the connection", func(b *bench, _ *string) { b.server().say("421 busy\n") }},
		{"it goes away", func(b *bench, _ *string) { b.server().conn.Close() }},
		{"it offers less", func(b *bench, asked *string) { mail(b.again(asked, "PIPELINING")) }},
		{"it takes smaller messages", func(b *bench, asked *string) { mail(b.again(asked, "PIPELINING", "SIZE 999")) }},
		{"it refuses the sender", func(b *bench, asked *string) {
			up := b.again(asked, "PIPELINING", "SIZE 1000")
			mail(up)
			up.say("550 no\n")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := &directory{find: named(map[string]string{"tenant.example": "mx.tenant.example"}), hosts: []string{"mx.tenant.example"}}
			b := newBench(t, options{edit: withPartners(d), rules: []enforce.Rule{{Name: "r", OnViolation: enforce.OnViolationReject, Auto: true, TLS: enforce.Forced}}})
			first := b.greeted(true, "PIPELINING", "SIZE 1000")
			b.client.say("MAIL FROM:<a@x.example>\nRCPT TO:<b@tenant.example>\n")
			mail(first)
			first.say("250 ok\n")
			var asked string
			tc.second(b, &asked)
			b.client.hears("250 ok", refusal)
			b.client.say("RCPT TO:<b@tenant.example>\nRCPT TO:<c@plain.example>\n")
			first.hears("RCPT TO:<c@plain.example>")
			first.say("250 ok\n")
			b.client.hears("550 5.7.5 …", "250 ok") // and it is tried once
			b.client.conn.Close()
			wantFields(t, b.record(), map[string]string{"upstream_tls.sni": "mx.example.net", "upstream_tls.certificate.names": `["mx.example.net"]`})
		})
	}
}

func TestTheUpstreamLegIsNotReplacedBehindARecipient(t *testing.T) {
	d := &directory{find: named(map[string]string{"tenant.example": "mx.tenant.example"}), hosts: []string{"mx.tenant.example"}}
	b := newBench(t, options{edit: withPartners(d)})
	first := b.greeted(true, "PIPELINING")
	b.client.say("MAIL FROM:<a@x.example>\nRCPT TO:<b@plain.example>\nRCPT TO:<c@tenant.example>\n")
	first.hears("MAIL FROM:<a@x.example>", "RCPT TO:<b@plain.example>")
	first.say("250 ok\n250 ok\n")
	b.client.hears("250 ok", "250 ok", "451 4.7.5 …")
	select {
	case <-b.servers:
		t.Error("the upstream was dialled again")
	default:
	}
}

func TestAnAbortEndsAReplacement(t *testing.T) {
	d := &directory{find: named(map[string]string{"tenant.example": "mx.tenant.example"}), hosts: []string{"mx.tenant.example"}}
	b := newBench(t, options{edit: withPartners(d)})
	first := b.greeted(true, "PIPELINING")
	b.client.say("MAIL FROM:<a@x.example>\nRCPT TO:<b@tenant.example>\n")
	first.hears("MAIL FROM:<a@x.example>")
	first.say("250 ok\n")
	b.server() // which says nothing
	b.session.Drain()
	b.session.Abort()
	select {
	case <-b.done:
	case <-time.After(5 * time.Second):
		t.Error("the session waits for a server that says nothing")
	}
}

// What was found out for mail that does not ask for REQUIRETLS does not say whether
// the certificate is for a host of the domain, which mail that does asks for.
func TestMailThatAsksForREQUIRETLSIsNotJudgedByWhatOtherMailAsked(t *testing.T) {
	d := &directory{find: func(_ string, up Server) enforce.Published {
		return enforce.Published{MX: enforce.MXKnown, NamesHost: up.Named}
	}}
	b := newBench(t, options{edit: withPartners(d)})
	up := b.greeted(true, "PIPELINING", "REQUIRETLS")
	b.encrypted()
	for _, ask := range []string{"", " REQUIRETLS", ""} {
		b.client.say("MAIL FROM:<a@x.example>" + ask + "\nRCPT TO:<b@plain.example>\nRSET\n")
		up.hears("MAIL FROM:<a@x.example>"+ask, "RCPT TO:<b@plain.example>", "RSET")
		up.say("250 ok\n250 ok\n250 ok\n")
		b.client.hears("250 ok", "250 ok", "250 ok")
	}
	if len(d.asked) != 2 {
		t.Errorf("asked %d times: a session asks once for each kind of mail", len(d.asked))
	}
}
