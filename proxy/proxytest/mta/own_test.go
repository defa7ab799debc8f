package mta_test

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"postern/proxy/proxytest/mta"
)

// sendFromGateway makes the gateway a mail host: its own Postfix sends, from the
// second address of the machine, and Postern takes what that Postfix sends.
func (s *site) sendFromGateway() *postern {
	s.t.Helper()
	second := netip.MustParsePrefix("203.0.113.9/24")
	if s.server.Is6() {
		second = netip.MustParsePrefix("2001:db8:2::9/64")
	}
	must(s.t, s.net.Gateway.AddAddress("wan0", second))
	s.client = second.Addr()
	bind := "smtp_bind_address"
	if s.server.Is6() {
		bind = "smtp_bind_address6"
	}
	s.sender = s.start(s.net.Gateway, mta.Options{
		Name: senderName, TLS: mta.None, Parameters: map[string]string{bind: second.Addr().String()},
		Routes: map[string]netip.AddrPort{"*": netip.AddrPortFrom(s.server, 25)},
	})
	return s.guardTaking("method = \"redirect\"\ninterfaces = [\"lo\"]\nuser = \"nobody\"", "")
}

func TestTheMailOfThisMachinesOwnServerIsUpgradedAndLeavesFromTheAddressItChose(t *testing.T) {
	for _, family := range []string{"IPv4", "IPv6"} {
		t.Run(family, func(t *testing.T) {
			s := newSite(t)
			if family == "IPv6" {
				s.client, s.server = s.net.Client6, s.net.Server6
			}
			s.receive(mta.Options{})
			p := s.sendFromGateway()
			outside := s.capture("wan0")
			content := message(large)
			s.submit(content, recipient)
			m := s.arrived(content, recipient)
			if received := m.Header("Received"); len(received) != 2 || !strings.Contains(received[0], "(using TLSv1.3 with cipher ") ||
				!strings.Contains(received[0], s.client.String()+"])") {
				t.Errorf("Received: %q", received)
			}
			outside.wants(false)
			record := p.records(1)[0]
			record.agreesWith(s)
			if record.Interface != "lo" || record.Verdict != "allow" || record.UpstreamTLS.Version != "TLS 1.3" {
				t.Errorf("the record says %+v", record)
			}
		})
	}
}

func TestTheMailOfThisMachinesOwnServerWaitsWhilePosternIsDown(t *testing.T) {
	s := newSite(t)
	s.receive(mta.Options{})
	p := s.sendFromGateway()
	p.kill()
	content := message(4000)
	s.submit(content, recipient)
	queue, err := s.sender.WaitQueue(within(t, patience), func(queue []mta.Queued) bool {
		return mta.Deferred(queue) && regexp.MustCompile(`Connection refused`).MatchString(queue[0].Recipients[0].Reason)
	})
	if err != nil {
		t.Fatalf("%v: %+v", err, queue)
	}
	s.nothingStored()
	p.start()
	must(t, s.sender.Flush())
	s.arrived(content, recipient)
}
