package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/dnslab"
)

// A neighbourhood is a lab with domains: a name server and a resolver that
// validates, real both, on the gateway, and a web server with their policies.
type neighbourhood struct {
	*lab
	dns   *dnslab.Lab
	shown map[string]tls.Certificate // by site

	mu       sync.Mutex
	policies map[string]string // by domain; "" is one that cannot be had
}

// webAddress is where mta-sts.* are.
var webAddress = at("203.0.113.200")

// A household is a domain and its one mail server.
type household struct {
	domain string
	leaf   proxytest.Leaf // what its server shows
	hosted map[string]proxytest.Leaf
	signed bool
	bogus  bool
	// tlsa gives its TLSA records, "3 1 1 …"; nil: none.
	tlsa   func(tls.Certificate) []string
	policy *string // its MTA-STS policy; nil: none
	null   bool    // it takes no mail
	plain  bool    // no TLS
}

func (h household) site() string { return "mx." + h.domain }

// settle builds the lab and starts everything but Postern.
func settle(t *testing.T, households []household) (context.Context, *neighbourhood) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	n := &neighbourhood{shown: map[string]tls.Certificate{}, policies: map[string]string{}}
	var sites []site
	for i, h := range households {
		sites = append(sites, site{name: h.site(), address: netip.AddrFrom4([4]byte{203, 0, 113, byte(50 + i)}), temper: "modern", adjust: n.furnish(h)})
	}
	var err error
	if n.lab, err = newLab(program("postern"), sites); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.close(); err != nil {
			t.Error(err)
		}
	})
	var zones []dnslab.Zone
	for _, h := range households {
		zones = append(zones, n.zone(h))
	}
	n.serveWeb(t)
	n.dns = dnslab.Options{Listen: netip.MustParseAddrPort("127.0.0.1:53"), Place: n.network.Gateway}.Start(t, zones...)
	// The policy hosts' certificates are held against the roots of the system.
	t.Setenv("SSL_CERT_FILE", filepath.Join(n.dir, "root.pem"))
	return ctx, n
}

// furnish gives a household's server its certificates.
func (n *neighbourhood) furnish(h household) func(*proxytest.PKI, *proxytest.ServerConfig) error {
	return func(pki *proxytest.PKI, c *proxytest.ServerConfig) error {
		if h.plain {
			c.TLS = nil
			return nil
		}
		leaf := h.leaf
		if leaf.Names == nil {
			leaf.Names = []string{h.site()}
		}
		usual, err := pki.Issue(leaf)
		if err != nil {
			return err
		}
		n.shown[h.site()] = usual
		c.TLS.Certificates = []tls.Certificate{usual}
		if h.hosted == nil {
			return nil
		}
		c.Name = leaf.Names[0] // which its banner gives, and SNI goes by
		byName := map[string]*tls.Certificate{}
		for name, l := range h.hosted {
			one, err := pki.Issue(l)
			if err != nil {
				return err
			}
			n.shown[name], byName[name] = one, &one
		}
		c.TLS.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) { return byName[hello.ServerName], nil }
		return nil
	}
}

func (n *neighbourhood) zone(h household) dnslab.Zone {
	z := dnslab.Zone{Name: h.domain, Signed: h.signed, Bogus: h.bogus}
	if h.null {
		z.Records = []string{"@ MX 0 ."}
		return z
	}
	z.Records = []string{"@ MX 10 mx", "mx A " + n.sites[h.site()].address.String()}
	if h.tlsa != nil {
		for _, record := range h.tlsa(n.shown[h.site()]) {
			z.Records = append(z.Records, "_25._tcp.mx TLSA "+record)
		}
	}
	if h.policy != nil {
		n.policies[h.domain] = *h.policy
		z.Records = append(z.Records, `_mta-sts TXT "v=STSv1; id=1;"`, "mta-sts A "+webAddress.String())
	}
	return z
}

// serveWeb serves the policies over HTTPS.
func (n *neighbourhood) serveWeb(t *testing.T) {
	t.Helper()
	if err := n.network.Server.AddAddress("eth0", subnet(webAddress)); err != nil {
		t.Fatal(err)
	}
	listener, err := n.network.Server.Listen(netip.AddrPortFrom(webAddress, 443))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		defer n.mu.Unlock()
		policy := n.policies[strings.TrimPrefix(r.Host, "mta-sts.")]
		if policy == "" || r.URL.Path != "/.well-known/mta-sts.txt" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprint(w, policy)
	})}
	server.TLSConfig = &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		c, err := n.pki.Issue(proxytest.Leaf{Names: []string{h.ServerName}})
		return &c, err
	}}
	done := make(chan struct{})
	go func() { defer close(done); server.ServeTLS(listener, "", "") }()
	t.Cleanup(func() { server.Close(); <-done })
}

func enforcing(patterns ...string) *string { return policyOf("enforce", patterns...) }
func policyOf(mode string, mx ...string) *string {
	text := "version: STSv1\nmode: " + mode + "\nmax_age: 86400\n"
	for _, p := range mx {
		text += "mx: " + p + "\n"
	}
	return &text
}

// own is the record for the key that a server shows.
func own(c tls.Certificate) []string {
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	return []string{"3 1 1 " + hex.EncodeToString(sum[:])}
}

// another is the record for some other key.
func another(tls.Certificate) []string { return []string{"3 1 1 " + strings.Repeat("ab", 32)} }

// anchor is the record for the authority that the server's chain ends with.
func anchor(c tls.Certificate) []string {
	sum := sha256.Sum256(c.Certificate[len(c.Certificate)-1])
	return []string{"2 0 1 " + hex.EncodeToString(sum[:])}
}

// opens starts postern, and ends it with the test.
func (n *neighbourhood) opens(ctx context.Context, t *testing.T) *daemon {
	t.Helper()
	d := n.starts(ctx, t)
	t.Cleanup(func() {
		if err := d.stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return d
}

// send opens a session with a site and offers mail for recipients; it gives the
// replies to RCPT, or, where the session ends before, that to EHLO.
func (n *neighbourhood) send(ctx context.Context, t *testing.T, d *daemon, to string, recipients ...string) ([]proxytest.Reply, record) {
	t.Helper()
	conn, err := n.dial(ctx, n.network.Client4, to)
	if err != nil {
		t.Fatal(err)
	}
	v := visit{proxytest.NewClient(conn, patience), t, netip.MustParseAddrPort(conn.LocalAddr().String())}
	before := d.recorded()
	v.hears(220)
	reply, err := v.Hello("EHLO", "client.example")
	if err != nil {
		t.Fatal(err)
	}
	var replies []proxytest.Reply
	accepted := false
	if !reply.OK() {
		replies = append(replies, reply)
	} else {
		v.says("MAIL FROM:<doctor@hospital.example>", 250)
		for _, r := range recipients {
			if _, err := v.Write([]byte("RCPT TO:<" + r + ">\r\n")); err != nil {
				t.Fatal(err)
			}
			reply, err := v.ReadReply()
			if err != nil {
				t.Fatal(err)
			}
			replies, accepted = append(replies, reply), accepted || reply.OK()
		}
		if accepted {
			v.says("DATA", 354)
			v.says("Subject: x\r\n\r\nx\r\n.", 250)
		}
		v.says("QUIT", 221)
	}
	v.closes()
	r, err := d.recordAfter(ctx, v.address, before)
	if err != nil {
		t.Fatal(err)
	}
	return replies, r
}

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
