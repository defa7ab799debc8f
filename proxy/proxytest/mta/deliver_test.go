package mta_test

import (
	"regexp"
	"strings"
	"testing"

	"postern/proxy/proxytest/mta"
)

const recipient = "nurse@" + partner

func TestMailPassesBetweenTwoPostfix(t *testing.T) {
	s := newSite(t)
	s.receive(mta.Options{})
	s.send(mta.Options{TLS: mta.Verify, Roots: s.roots(), Names: []string{receiverName}})
	content := message(4000)
	s.submit(content, recipient)
	s.arrived(content, recipient)
	sent, err := s.sender.Handshakes()
	must(t, err)
	if len(sent) != 1 || sent[0].Trust != "Verified" || sent[0].Version != "TLSv1.3" || sent[0].Peer != s.server {
		t.Errorf("the sender logged %+v", sent)
	}
}

func TestAClientInClearIsUpgradedToTLS13(t *testing.T) {
	for _, family := range []string{"IPv4", "IPv6"} {
		t.Run(family, func(t *testing.T) {
			s := newSite(t)
			if family == "IPv6" {
				s.client, s.server = s.net.Client6, s.net.Server6
			}
			s.receive(mta.Options{})
			s.send(mta.Options{TLS: mta.None})
			p := s.guard("")
			inside, outside := s.capture("lan0"), s.capture("wan0")
			content := message(4000)
			s.submit(content, recipient)
			m := s.arrived(content, recipient)
			received := m.Header("Received")
			if len(received) != 2 || !strings.Contains(received[0], "(using TLSv1.3 with cipher ") ||
				!strings.HasPrefix(received[0], "from "+senderName+" (unknown [") || !strings.Contains(received[0], s.client.String()+"])") {
				t.Errorf("Received: %q", received)
			}
			inside.wants(true)
			outside.wants(false)
			record := p.records(1)[0]
			record.agreesWith(s)
			if record.ClientTLS.State != "none" || record.UpstreamTLS.Version != "TLS 1.3" ||
				record.Verdict != "allow" || record.TLS != "may:TLSv1.3" || !record.UpstreamTLS.Verified {
				t.Errorf("the record says %+v", record)
			}
		})
	}
}

func TestBothLegsHaveTLSWhereTheClientWantsIt(t *testing.T) {
	for _, level := range []mta.Level{mta.May, mta.Encrypt, mta.Verify} {
		t.Run(string(level), func(t *testing.T) {
			s := newSite(t)
			s.receive(mta.Options{})
			s.send(mta.Options{TLS: level, Roots: s.roots(), Names: []string{receiverName}})
			p := s.guard("")
			inside, outside := s.capture("lan0"), s.capture("wan0")
			content := message(4000)
			s.submit(content, recipient)
			m := s.arrived(content, recipient)
			// Nothing in between leaves a trace: the sender's line and the receiver's.
			if received := m.Header("Received"); len(received) != 2 ||
				!regexp.MustCompile(`^from out\.hospital\.example .* \(using TLSv1\.3 .* by mx\.partner\.example \(Postfix\) with ESMTPS id `).
					MatchString(received[0]) {
				t.Errorf("Received: %q", received)
			}
			inside.wants(false)
			outside.wants(false)
			record := p.records(1)[0]
			record.agreesWith(s)
			if record.ClientTLS.Version != "TLS 1.3" || record.UpstreamTLS.Version != "TLS 1.3" {
				t.Errorf("the record says %+v", record)
			}
		})
	}
}
