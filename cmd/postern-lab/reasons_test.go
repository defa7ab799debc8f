package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/enforce"
	"postern/proxy/proxytest"
)

// A complaint is a conversation that ends for one reason.
type complaint struct {
	reason enforce.Reason
	said   string // how the reply begins; "" where nothing may be said any more
	to     string // the site, mx.plain.example where it is none
	from   string // the client's address, 10.1.0.2 where it is none
	talk   func(visit) proxytest.Reply
}

// The domain of the recipients, where it matters.
func mailTo(domain string) func(visit) proxytest.Reply {
	return func(v visit) proxytest.Reply {
		return v.offers("MAIL FROM:<a@hospital.example>", "RCPT TO:<b@"+domain+">")
	}
}

// offers says EHLO and commands until one is refused, and gives that reply.
func (v visit) offers(commands ...string) proxytest.Reply {
	v.t.Helper()
	reply, err := v.Hello("EHLO", "client.example")
	for _, c := range commands {
		if err != nil || !reply.OK() {
			break
		}
		reply, err = v.Command(c)
	}
	if err != nil {
		v.t.Fatal(err)
	}
	return reply
}

// secure begins TLS, whatever comes of it, and says commands inside.
func secure(config *tls.Config, commands ...string) func(visit) proxytest.Reply {
	return func(v visit) proxytest.Reply {
		v.t.Helper()
		v.offers()
		if _, err := v.StartTLS(config); err != nil {
			return proxytest.Reply{} // by the record alone
		}
		return v.offers(commands...)
	}
}

func raw(text string) func(visit) proxytest.Reply {
	return func(v visit) proxytest.Reply {
		v.t.Helper()
		v.offers()
		if _, err := v.Write([]byte(text)); err != nil {
			v.t.Fatal(err)
		}
		reply, _ := v.ReadReply() // what is no SMTP is answered with nothing
		return reply
	}
}

// A court has whom the reasons take: domains, servers and clients of every kind.
type court struct {
	*neighbourhood
	t                *testing.T
	root             *proxytest.Authority
	revoked, unasked tls.Certificate
}

const reasonRules = `
[[rule]]
name = "partner"
to_networks = ["203.0.113.100/32"]
tls = "forced"
[[rule]]
name = "trusted"
to_networks = ["203.0.113.101/32", "203.0.113.102/32"]
tls = "forced"
verify = "ca"
[[rule]]
name = "asked"
to_networks = ["203.0.113.103/32", "203.0.113.104/32"]
tls = "forced"
verify = "ca"
revocation = "hard"
on_violation = "reject"
[[rule]]
name = "branch"
from_networks = ["10.1.0.64/28"]
client_tls = "verified"
client_names = ["branch.hospital.example"]
[[rule]]
name = "floor"
from_networks = ["10.1.0.80/28"]
client_tls = "required"
[[rule]]
name = "suite"
to_domains = ["suite.example"]
ciphers = ["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]
[[rule]]
name = "forward"
to_domains = ["forward.example"]
forward_secrecy = true
[[rule]]
name = "named"
to_domains = ["named.example"]
tls = "forced"
verify = "name"
names = ["mx.named.example"]
[[rule]]
name = "pinned"
to_domains = ["pinned.example"]
tls = "forced"
verify = "fingerprint"
fingerprints = ["sha256:abababababababababababababababababababababababababababababababab"]
[[rule]]
name = "dane"
to_domains = ["norecords.example", "nobody.example"]
tls = "forced"
verify = "dane"
[[rule]]
name = "sts"
to_domains = ["nopolicy.example", "off.example"]
tls = "forced"
verify = "mta-sts"
`

func (c *court) complaints() []complaint {
	lax := &tls.Config{InsecureSkipVerify: true}
	old := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	poor := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA}}
	stranger, err := c.pki.Issue(proxytest.Leaf{Names: []string{"other.hospital.example"}, Client: true})
	if err != nil {
		c.t.Fatal(err)
	}
	known := &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{stranger}}
	mail := "MAIL FROM:<a@hospital.example>"
	return []complaint{
		{enforce.StartTLSNotOffered, "421 4.7.4 ", "mx.partner.example", "", mailTo("x.example")},
		{enforce.StartTLSRefused, "421 4.7.4 ", "mx.refusing.example", "", mailTo("x.example")},
		{enforce.StartTLSStripped, "421 4.7.4 ", "mx.stripped.example", "", mailTo("x.example")},
		{enforce.TLSVersionTooLow, "421 4.7.5 ", "mx.old.example", "", mailTo("x.example")},
		{enforce.TLSHandshakeFailed, "421 4.7.5 ", "mx.slow.example", "", mailTo("x.example")},
		{enforce.TLSCipherNotAllowed, "451 4.7.5 ", "mx.rsa.example", "", mailTo("suite.example")},
		{enforce.TLSNoForwardSecrecy, "451 4.7.5 ", "mx.rsa.example", "", mailTo("forward.example")},
		{enforce.CertNotTrusted, "421 4.7.5 ", "mx.untrusted.example", "", mailTo("x.example")},
		{enforce.CertExpired, "421 4.7.5 ", "mx.expired.example", "", mailTo("x.example")},
		{enforce.CertNameMismatch, "451 4.7.5 ", "", "", mailTo("named.example")},
		{enforce.CertFingerprintMismatch, "451 4.7.5 ", "", "", mailTo("pinned.example")},
		{enforce.CertRevoked, "554 5.7.5 ", "mx.revoked.example", "", mailTo("x.example")},
		{enforce.CertMissingRevocation, "554 5.7.5 ", "mx.unasked.example", "", mailTo("x.example")},
		{enforce.DANEMismatch, "451 4.7.5 ", "", "", mailTo("rolled.example")},
		{enforce.DANERequired, "451 4.7.5 ", "", "", mailTo("norecords.example")},
		{enforce.DNSSECBogus, "451 4.7.5 ", "", "", mailTo("bogus.example")},
		{enforce.MXUnknown, "451 4.7.5 ", "", "", mailTo("nobody.example")},
		{enforce.MTASTSCert, "451 4.7.5 ", "", "", mailTo("policy.example")},
		{enforce.MTASTSMXMismatch, "451 4.7.5 ", "mx.wrongmx.example", "", mailTo("wrongmx.example")},
		{enforce.MTASTSPolicy, "451 4.7.5 ", "", "", mailTo("off.example")},
		{enforce.MTASTSFetch, "451 4.7.5 ", "", "", mailTo("nopolicy.example")},
		{enforce.RequireTLSNotPossible, "550 5.7.30 ", "", "", func(v visit) proxytest.Reply { return v.offers(mail + " REQUIRETLS") }},

		{enforce.ClientTLSRequired, "451 4.7.0 ", "", "10.1.0.65", mailTo("x.example")},
		{enforce.ClientCertMissing, "451 4.7.5 ", "", "10.1.0.66", secure(lax, mail)},
		{enforce.ClientCertMismatch, "451 4.7.5 ", "", "10.1.0.67", secure(known, mail)},
		{enforce.ClientTLSTooLow, "", "", "10.1.0.81", secure(old)},
		{enforce.ClientTLSTooLow, "451 4.7.5 ", "", "10.1.0.81", mailTo("x.example")}, // and comes back in clear
		{enforce.ClientHandshakeFailed, "", "", "", secure(poor)},
		{enforce.ClientRefusedCertificate, "", "", "", secure(&tls.Config{ServerName: "mx.elsewhere.example"})},

		{enforce.StartTLSInjection, "554 5.5.2 ", "", "", raw("STARTTLS\r\nNOOP\r\n")},
		{enforce.BareNewline, "500 5.5.2 ", "", "", raw("NOOP\n")},
		{enforce.ProtocolError, "421 4.5.2 ", "mx.strange.example", "", mailTo("x.example")},
		{enforce.UpstreamUnreachable, "421 4.4.1 ", "mx.absent.example", "", nil},
		{enforce.UpstreamLost, "421 4.4.2 ", "mx.fragile.example", "", func(v visit) proxytest.Reply {
			v.offers(mail, "RCPT TO:<b@x.example>")
			v.says("DATA", 354)
			reply, err := v.Command(strings.Repeat("x", 900))
			if err != nil {
				v.t.Fatal(err)
			}
			return reply
		}},
		{enforce.Overload, "421 4.3.2 ", "", "10.1.0.97", nil},
	}
}

// TestEveryReasonIsGivenByAConversation has each reason of the contract said and
// written down, the same in both.
func TestEveryReasonIsGivenByAConversation(t *testing.T) {
	ctx, c := assemble(t)
	d := c.opens(ctx, t)
	c.strip(ctx, d)
	c.crowd(ctx)
	given := map[enforce.Reason]bool{}
	for _, one := range c.complaints() {
		t.Run(string(one.reason), func(t *testing.T) {
			c.hear(ctx, t, d, one)
			given[one.reason] = !t.Failed()
		})
	}
	for _, reason := range enforce.Reasons() {
		if !given[reason] {
			t.Errorf("no conversation gave the reason %s", reason)
		}
	}
}

// hear holds one conversation, and its record against what was said.
func (c *court) hear(ctx context.Context, t *testing.T, d *daemon, one complaint) {
	from := c.network.Client4
	if one.from != "" {
		from = at(one.from)
	}
	to := one.to
	if to == "" {
		to = "mx.plain.example"
	}
	before := d.recorded()
	conn, err := c.dial(ctx, from, to)
	if err != nil {
		t.Fatal(err)
	}
	v := visit{proxytest.NewClient(conn, patience), t, netip.MustParseAddrPort(conn.LocalAddr().String())}
	reply, err := v.ReadReply() // the banner, or what there is in its place
	if err != nil {
		t.Fatal(err)
	}
	if one.talk != nil && reply.OK() {
		reply = one.talk(v)
	}
	v.Close()
	r, err := d.recordAfter(ctx, v.address, before)
	if err != nil {
		t.Fatal(err)
	}
	if r.Reason != string(one.reason) {
		t.Errorf("record: %s", r.raw)
	}
	if said := reply.String(); one.said != "" && (!strings.HasPrefix(said, one.said) || !strings.Contains(said, "("+string(one.reason)+") ["+r.Session+"]")) {
		t.Errorf("replied %q", said)
	}
}

// assemble builds the lab of every reason.
func assemble(t *testing.T) (context.Context, *court) {
	t.Helper()
	ctx, n := settle(t, []household{
		{domain: "plain.example"},
		{domain: "rolled.example", signed: true, tlsa: another},
		{domain: "norecords.example", signed: true},
		{domain: "bogus.example", bogus: true},
		{domain: "nobody.example", null: true},
		{domain: "policy.example", policy: enforcing("*.policy.example")},
		{domain: "wrongmx.example", policy: enforcing("mx.elsewhere.example")},
		{domain: "off.example", policy: policyOf("none")},
		{domain: "nopolicy.example"},
		{domain: "stripped.example", signed: true, tlsa: own},
	})
	c := &court{neighbourhood: n, t: t, root: &n.pki.Root}
	c.revoked, c.unasked = c.listed("http://203.0.113.200/crl"), c.listed("http://203.0.113.200:81/crl")
	c.serveList()
	for _, s := range []site{
		{name: "mx.partner.example", address: at("203.0.113.100"), temper: "no-starttls"},
		{name: "mx.untrusted.example", address: at("203.0.113.101"), temper: "self-signed"},
		{name: "mx.expired.example", address: at("203.0.113.102"), temper: "expired", adjust: justExpired},
		{name: "mx.revoked.example", address: at("203.0.113.103"), temper: "modern", adjust: shows(&c.revoked)},
		{name: "mx.unasked.example", address: at("203.0.113.104"), temper: "modern", adjust: shows(&c.unasked)},
		{name: "mx.refusing.example", address: at("203.0.113.105"), temper: "starttls-refused"},
		{name: "mx.old.example", address: at("203.0.113.106"), temper: "tls10"},
		{name: "mx.slow.example", address: at("203.0.113.107"), temper: "stalls-in-handshake"},
		{name: "mx.rsa.example", address: at("203.0.113.108"), temper: "tls12", adjust: rsaOnly},
		{name: "mx.strange.example", address: at("203.0.113.109"), temper: "modern", adjust: greetsStrangely},
		{name: "mx.fragile.example", address: at("203.0.113.110"), temper: "modern", adjust: hangsUp},
		{name: "mx.absent.example", address: at("203.0.113.111")},
	} {
		if err := n.serve(s); err != nil {
			t.Fatal(err)
		}
	}
	for _, client := range []string{"10.1.0.65", "10.1.0.66", "10.1.0.67", "10.1.0.81", "10.1.0.97"} {
		if err := n.addClients([]netip.Addr{at(client)}); err != nil {
			t.Fatal(err)
		}
	}
	limits := fmt.Sprintf("[limits]\nsessions_per_source = 3\n[memory]\nstore = \"bolt://%s\"\n", filepath.Join(n.dir, "memory.db"))
	if err := n.configure("enforce", timeouts, limits+reasonRules); err != nil {
		t.Fatal(err)
	}
	return ctx, c
}

func shows(c *tls.Certificate) func(*proxytest.PKI, *proxytest.ServerConfig) error {
	return func(_ *proxytest.PKI, config *proxytest.ServerConfig) error {
		config.TLS.Certificates = []tls.Certificate{*c}
		return nil
	}
}

func rsaOnly(pki *proxytest.PKI, c *proxytest.ServerConfig) error {
	certificate, err := pki.Issue(proxytest.Leaf{Names: []string{c.Name}, RSA: true})
	c.TLS.Certificates = []tls.Certificate{certificate}
	c.TLS.MaxVersion, c.TLS.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}
	return err
}

func greetsStrangely(_ *proxytest.PKI, c *proxytest.ServerConfig) error {
	c.On = map[proxytest.Stage]proxytest.Action{proxytest.AtBanner: proxytest.Say("220 mx.strange.example\r\n250 and more")}
	return nil
}

// listed makes a certificate of the root that says where its revocation list is.
func (c *court) listed(list string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		c.t.Fatal(err)
	}
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "mx.listed.example"}, DNSNames: []string{"mx.listed.example"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(60 * 24 * time.Hour), CRLDistributionPoints: []string{list},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, c.root.Certificate, key.Public(), c.root.Key)
	if err != nil {
		c.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// serveList serves the root's revocation list at port 80; at port 81 there is none.
func (c *court) serveList() {
	leaf, err := x509.ParseCertificate(c.revoked.Certificate[0])
	if err != nil {
		c.t.Fatal(err)
	}
	now := time.Now()
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: leaf.SerialNumber, RevocationTime: now.Add(-time.Minute)}},
	}, c.root.Certificate, c.root.Key)
	if err != nil {
		c.t.Fatal(err)
	}
	listener, err := c.network.Server.Listen(netip.AddrPortFrom(webAddress, 80))
	if err != nil {
		c.t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(list) })}
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(listener) }()
	c.t.Cleanup(func() { server.Close(); <-done })
}

// strip has a server be known for its TLS, by the records of its domain, and then
// take it away.
func (c *court) strip(ctx context.Context, d *daemon) {
	c.t.Helper()
	replies, r := c.send(ctx, c.t, d, "mx.stripped.example", "a@stripped.example")
	if !replies[0].OK() {
		c.t.Fatalf("%s\n%s", replies[0], r.raw)
	}
	c.servers["mx.stripped.example"].Configure(proxytest.ServerConfig{Name: "mx.stripped.example"})
}

// crowd opens as many sessions as one client may have.
func (c *court) crowd(ctx context.Context) {
	for range 3 {
		conn, err := c.dial(ctx, at("10.1.0.97"), "mx.plain.example")
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() { conn.Close() })
		if _, err := proxytest.NewClient(conn, patience).ReadReply(); err != nil {
			c.t.Fatal(err)
		}
	}
}

// The store outlives the process: what was learnt binds after a restart.
func TestWhatWasLearntOfADestinationOutlivesARestart(t *testing.T) {
	ctx, n := settle(t, []household{{domain: "stripped.example", signed: true, tlsa: own}})
	store := filepath.Join(n.dir, "memory.db")
	if err := n.configure("enforce", timeouts, fmt.Sprintf("[memory]\nstore = \"bolt://%s\"\n", store)); err != nil {
		t.Fatal(err)
	}
	first := n.starts(ctx, t)
	if replies, r := n.send(ctx, t, first, "mx.stripped.example", "a@stripped.example"); !replies[0].OK() {
		t.Fatal(r.raw)
	}
	if err := first.stop(ctx); err != nil {
		t.Fatal(err)
	}
	listed, err := n.run(ctx, "memory", "list")
	if err != nil || !strings.Contains(listed, n.sites["mx.stripped.example"].address.String()) || !strings.Contains(listed, "stripped.example") {
		t.Errorf("%v\n%s", err, listed)
	}
	n.servers["mx.stripped.example"].Configure(proxytest.ServerConfig{Name: "mx.stripped.example"})
	second := n.opens(ctx, t)
	replies, r := n.send(ctx, t, second, "mx.stripped.example", "a@x.example")
	n.holds(t, replies[0], r, "421 4.7.4", "starttls-stripped")
	if _, err := n.run(ctx, "memory", "forget", n.sites["mx.stripped.example"].address.String()); err != nil {
		t.Fatal(err)
	}
	for !replies[0].OK() && ctx.Err() == nil { // until the daemon has heard of it
		replies, r = n.send(ctx, t, second, "mx.stripped.example", "a@x.example")
	}
	if !replies[0].OK() {
		t.Errorf("what was forgotten is still held against the server: %s", r.raw)
	}
	if info, err := os.Stat(store); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
}
