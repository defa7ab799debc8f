package mta_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/mta"
)

// forced is a rule for the receiver's address.
const forced = `
[[rule]]
name = "partner"
to_networks = ["203.0.113.2/32"]
tls = "forced"
`

// deferred waits until the only message is put off for the only recipient, and
// wants these words of Postern's as the reason.
func (s *site) deferred(to, reply string) {
	s.t.Helper()
	queue, err := s.sender.WaitQueue(within(s.t, patience), mta.Deferred)
	if err != nil {
		s.t.Fatalf("%v: %+v", err, queue)
	}
	if len(queue) != 1 || len(queue[0].Recipients) != 1 || queue[0].Recipients[0].Address != to ||
		!regexp.MustCompile(reply).MatchString(queue[0].Recipients[0].Reason) {
		s.t.Fatalf("in the queue is %+v, want one message to %s, put off for %q", queue, to, reply)
	}
	messages, err := s.receiver.Messages()
	must(s.t, err)
	if len(messages) > 0 {
		s.t.Errorf("it arrived none the less: %s", messages[0].Raw)
	}
}

func TestAForcedPartnerIsServedOnceItsRuleHolds(t *testing.T) {
	s := newSite(t)
	cert, key := s.certificate(s.others, "unknown", proxytest.Leaf{Names: []string{receiverName}}, 0)
	s.receive(mta.Options{Certificate: cert, Key: key})
	s.send(mta.Options{TLS: mta.May})
	p := s.guard(forced + `verify = "ca"`)
	inside, outside := s.capture("lan0"), s.capture("wan0")
	content := message(4000)
	s.submit(content, recipient)
	s.deferred(recipient, `refused to talk to me: 421 4\.7\.5 mx\.partner\.example: .* \(cert-not-trusted\) \[[A-Z2-7]{8}\]`)
	record := p.records(1)[0]
	if record.Verdict != "defer" || record.Reason != "cert-not-trusted" || record.Rule != "partner" ||
		record.TLS != "verify!cert" || record.UpstreamTLS.Verified {
		t.Errorf("the record says %+v", record)
	}
	record.agreesWith(s)
	outside.wants(false)
	if inside.has("MAIL FROM:") {
		t.Error("the sender went as far as MAIL")
	}

	p.reload(forced + `verify = "none"`)
	must(t, s.sender.Flush())
	s.arrived(content, recipient)
	record = p.records(2)[1]
	record.agreesWith(s)
	if record.Verdict != "allow" || record.TLS != "encrypt:TLSv1.3" || record.UpstreamTLS.Verified {
		t.Errorf("the record says %+v", record)
	}
}

// lax has Postfix and OpenSSL allow what they no longer do by themselves.
func lax(protocols, ciphers string) map[string]string {
	return map[string]string{
		"smtpd_tls_protocols":   protocols,
		"smtpd_tls_ciphers":     "medium",
		"tls_medium_cipherlist": fmt.Sprintf("%s:@SECLEVEL=0", ciphers),
	}
}

func TestAServerBelowTheFloorGetsNoMail(t *testing.T) {
	for _, protocol := range []string{"TLSv1", "TLSv1.1"} {
		t.Run(protocol, func(t *testing.T) {
			s := newSite(t)
			s.receive(mta.Options{Parameters: lax(">="+protocol+", <="+protocol, "ALL")})
			s.mustSpeak(protocol)
			s.send(mta.Options{TLS: mta.None})
			p := s.guard("")
			outside := s.capture("wan0")
			content := message(1000)
			s.submit(content, recipient)
			s.deferred(recipient, `refused to talk to me: 421 4\.7\.5 mx\.partner\.example: .* \(tls-version-too-low\) \[`)
			outside.wants(false)
			record := p.records(1)[0]
			record.agreesWith(s)
			if record.Verdict != "defer" || record.Reason != "tls-version-too-low" ||
				record.UpstreamTLS.State != "failed" || record.TLS != "may!version" {
				t.Errorf("the record says %+v", record)
			}
			// OpenSSL finds none of its versions among those offered and answers with
			// an alert (RFC 8446 §4.2.1), so that nobody learns which it has.
			if record.UpstreamTLS.Version != "" || !strings.Contains(record.Detail, "protocol") {
				t.Errorf("the record says of the version %q, and in detail %q", record.UpstreamTLS.Version, record.Detail)
			}
		})
	}
}

func TestARecipientWhoseRuleFailsIsPutOffAlone(t *testing.T) {
	s := newSite(t)
	s.receive(mta.Options{})
	s.send(mta.Options{TLS: mta.May})
	p := s.guard(`
[[rule]]
name = "strict"
to_domains = ["` + strict + `"]
tls = "forced"
verify = "name"
names = ["another.example"]
`)
	content := message(4000)
	other := "archive@" + strict
	s.submit(content, recipient, other)
	queue, err := s.sender.WaitQueue(within(t, patience), mta.Deferred)
	must(t, err)
	if len(queue) != 1 || len(queue[0].Recipients) != 1 || queue[0].Recipients[0].Address != other ||
		!regexp.MustCompile(`said: 451 4\.7\.5 .* \(cert-name-mismatch\) \[`).MatchString(queue[0].Recipients[0].Reason) {
		t.Errorf("in the queue is %+v", queue)
	}
	s.stored(content, recipient)
	record := p.records(1)[0]
	record.agreesWith(s)
	if len(record.Transactions) != 1 {
		t.Fatalf("the record says %+v", record)
	}
	tx := record.Transactions[0]
	if tx.Accepted != 1 || len(tx.Refused) != 1 || tx.Refused[0].Domain != strict ||
		tx.Refused[0].Rule != "strict" || tx.Refused[0].Reason != "cert-name-mismatch" {
		t.Errorf("the record says %+v", tx)
	}
}
