package mta_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/dnslab"
	"postern/proxy/proxytest/mta"
	"postern/proxy/proxytest/netlab"
)

// publish serves zones on a host, by a name server and a resolver at 127.0.0.1,
// which is where Postern asks, and what resolv.conf says for everybody else.
func (s *site) publish(host *netlab.Host, zones ...dnslab.Zone) *dnslab.Lab {
	s.t.Helper()
	return dnslab.Options{Listen: netip.MustParseAddrPort("127.0.0.1:53"), Place: host}.Start(s.t, zones...)
}

// published are the records of the partner's domain. They are kept for a second.
func published(tlsa string) []string {
	records := []string{"@ 1 MX 10 mx", "mx 1 A 203.0.113.2"}
	if tlsa != "" {
		records = append(records, "_25._tcp.mx 1 TLSA "+tlsa)
	}
	return records
}

// ofKey is the TLSA record for the key of a certificate in a file (RFC 7672 §3.1.1).
func ofKey(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	block, _ := pem.Decode(text)
	leaf, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	return "3 1 1 " + hex.EncodeToString(sum[:])
}

// flushed has the sender try until it has nothing left.
func (s *site) flushed() {
	s.t.Helper()
	if queue, err := s.sender.WaitQueue(within(s.t, patience), func(queue []mta.Queued) bool {
		if mta.Deferred(queue) {
			must(s.t, s.sender.Flush())
		}
		return mta.Empty(queue)
	}); err != nil {
		s.t.Fatalf("%v: %+v", err, queue)
	}
}

func TestASenderThatKnowsNoDANEIsHeldToThatOfTheServer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	cert, key := s.certificate(s.others, "first", proxytest.Leaf{Names: []string{"whatever.invalid"}, SelfSigned: true}, 0)
	s.receive(mta.Options{Certificate: cert, Key: key})
	s.send(mta.Options{TLS: mta.May})
	dns := s.publish(s.net.Gateway, dnslab.Zone{Name: partner, Signed: true, Records: published(ofKey(t, cert))})
	p := s.guard("")
	content := message(4000)
	s.submit(content, recipient)
	s.arrived(content, recipient)
	record := p.records(1)[0]
	record.agreesWith(s)
	if record.UpstreamTLS.DANE != "matched" || record.Verdict != "allow" || record.UpstreamTLS.Verified {
		t.Errorf("the record says %+v", record)
	}

	// The server gets another key, and nobody thinks of its record.
	must(t, s.receiver.Stop())
	cert, key = s.certificate(s.others, "second", proxytest.Leaf{Names: []string{receiverName}, SelfSigned: true}, 0)
	s.receive(mta.Options{Certificate: cert, Key: key})
	s.submit(content, recipient)
	s.deferred(recipient, `said: 451 4\.7\.5 mx\.partner\.example: .* \(dane-mismatch\) \[[A-Z2-7]{8}\]`)
	if record = p.records(2)[1]; record.UpstreamTLS.DANE != "mismatch" || record.Verdict != "defer" || record.Reason != "dane-mismatch" {
		t.Errorf("the record says %+v", record)
	}

	dns.Update(partner, published(ofKey(t, cert))...)
	s.flushed()
	s.stored(content, recipient)
	all := p.records(len(p.lines("session"))) // it tried until Postern had forgotten the old record
	if record = all[len(all)-1]; record.UpstreamTLS.DANE != "matched" || record.Verdict != "allow" {
		t.Errorf("the record says %+v", record)
	}
}

// sendByDANE starts a sender that looks up the partner's MX host by itself and
// wants what its zone says (smtp_tls_security_level = dane of postconf(5)).
func (s *site) sendByDANE() {
	s.t.Helper()
	s.sender = s.start(s.net.Client, mta.Options{Name: senderName, Parameters: map[string]string{
		"smtp_tls_security_level": "dane", "smtp_dns_support_level": "dnssec", "smtp_host_lookup": "dns",
		"default_transport": "smtp", "transport_maps": "",
	}})
}

// A Postfix that checks DANE itself finds Postern's certificate in the server's
// place. It finishes the handshake without an alert, and then leaves.
func TestAPostfixThatChecksDANERefusesTheCertificateOfPostern(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	cert, key := s.certificate(s.others, "first", proxytest.Leaf{Names: []string{receiverName}, SelfSigned: true}, 0)
	s.receive(mta.Options{Certificate: cert, Key: key})
	zone := dnslab.Zone{Name: partner, Signed: true, Records: published(ofKey(t, cert))}
	s.publish(s.net.Gateway, zone)
	s.publish(s.net.Client, zone)
	s.sendByDANE()
	p := s.guard("")
	content := message(4000)
	s.submit(content, recipient)
	s.deferred(recipient, `Server certificate not verified`)
	s.nothingStored()
	record := p.records(1)[0]
	if !strings.Contains(record.ClientTLS.Failure, "may not accept the certificate") || record.ClientTLS.State != "ok" || len(record.Transactions) != 0 || record.End != "quit" {
		t.Errorf("the record says %+v", record)
	}
	if told := p.lines(complaint); len(told) != 1 || !strings.Contains(told[0], `from_networks = [\"10.1.0.2\"] inspect = \"watch\"`) {
		t.Errorf("it was told %q", told)
	}

	p.reload(watched)
	must(t, s.sender.Flush())
	s.arrived(content, recipient)
	record = p.records(2)[1]
	record.agreesWith(s)
	if record.Rule != "watched" || record.Verdict != "allow" || record.ClientTLS.State != "watched" ||
		record.UpstreamTLS.State != "watched" || record.UpstreamTLS.Version != "TLS 1.3" {
		t.Errorf("the record says %+v", record)
	}
	wantTrust(t, s.sender, "Untrusted", "Verified")
}

// complaint is what Postern says when a client has refused its certificate.
const complaint = "a client refuses the certificate that it is shown: it may check DANE or MTA-STS itself, or be Exchange that talks to Exchange"

// wantTrust wants the sender to have found this of the certificates it was shown.
func wantTrust(t *testing.T, p *mta.Postfix, want ...string) {
	t.Helper()
	all, err := p.Handshakes()
	must(t, err)
	trust := make([]string, len(all))
	for i, h := range all {
		trust[i] = h.Trust
	}
	if !slices.Equal(trust, want) {
		t.Errorf("the sender logged %+v, want %q", all, want)
	}
}

// watched is a rule that leaves the sender's TLS alone.
const watched = `
[[rule]]
name = "watched"
from_networks = ["10.1.0.2/32"]
inspect = "watch"
owner = "it"
expires = 2099-01-01
`
