package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
		{enforce.StartTLSStripped, "451 4.7.4 ", "mx.stripped.example", "", mailTo("stripped.example")},
		{enforce.TLSVersionTooLow, "421 4.7.5 ", "mx.old.example", "", mailTo("x.example")},
		{enforce.TLSHandshakeFailed, "421 4.7.5 ", "mx.slow.example", "", mailTo("x.example")},
		{enforce.TLSCipherNotAllowed, "451 4.7.5 ", "mx.rsa.example", "", mailTo("suite.example")},
		{enforce.TLSNoForwardSecrecy, "451 4.7.5 ", "mx.rsa.example", "", mailTo("forward.example")},
		{enforce.CertNotTrusted, "421 4.7.5 ", "mx.untrusted.example", "", mailTo("x.example")},
		{enforce.CertExpired, "421 4.7.5 ", "mx.expired.example", "", mailTo("x.example")},
		{enforce.CertNameMismatch, "451 4.7.5 ", "", "", mailTo("named.example")},
		{enforce.CertFingerprintMismatch, "451 4.7.5 ", "", "", mailTo("pinned.example")},
		{enforce.CertRevoked, "554 5.7.5 ", "mx.revoked.example", "", mailTo("x.example")},
		{enforce.CertMissingRevocation, "421 4.7.5 ", "mx.unasked.example", "", mailTo("x.example")},
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
	replies, r := n.send(ctx, t, second, "mx.stripped.example", "a@stripped.example")
	n.holds(t, replies[0], r, "451 4.7.4", "starttls-stripped")
	if replies, r := n.send(ctx, t, second, "mx.stripped.example", "a@x.example"); !replies[0].OK() {
		t.Errorf("a domain's memory is held against another's mail: %s", r.raw)
	}
	if _, err := n.run(ctx, "memory", "forget", "stripped.example"); err != nil {
		t.Fatal(err)
	}
	for r.Reason == "starttls-stripped" && ctx.Err() == nil { // until the daemon has heard of it
		replies, r = n.send(ctx, t, second, "mx.stripped.example", "a@stripped.example")
	}
	n.holds(t, replies[0], r, "451 4.7.4", "starttls-not-offered") // its records ask for TLS all the same
	if info, err := os.Stat(store); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
}
