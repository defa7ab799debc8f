package mta_test

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/mta"
)

// large is a message that no buffer on the way holds.
const large = 10 << 20

func TestTenMegabytesArriveByteForByte(t *testing.T) {
	for _, level := range []mta.Level{mta.None, mta.Encrypt} {
		t.Run(string(level), func(t *testing.T) {
			s := newSite(t)
			s.receive(mta.Options{})
			s.send(mta.Options{TLS: level})
			p := s.guard("")
			content := message(large)
			s.submit(content, recipient)
			s.arrived(content, recipient)
			record := p.records(1)[0]
			record.agreesWith(s)
			if len(record.Transactions) != 1 || record.Transactions[0].Bytes < int64(len(content)) ||
				record.Transactions[0].Accepted != 1 || !strings.HasPrefix(record.Transactions[0].Reply, "250 2.0.0") {
				t.Errorf("the record says %+v", record)
			}
		})
	}
}

// Postfix has no client that sends chunks (RFC 3030), so another one does.
func TestChunksReachPostfixByteForByte(t *testing.T) {
	for _, test := range []struct {
		chunk     int
		pipelined bool
		starttls  proxytest.STARTTLS
	}{
		{1000, false, proxytest.NeverTLS},
		{65536, true, proxytest.NeverTLS},
		{100000, true, proxytest.AlwaysTLS},
		{2 * large, false, proxytest.AlwaysTLS},
	} {
		t.Run(fmt.Sprintf("of %d pipelined %t", test.chunk, test.pipelined), func(t *testing.T) {
			s := newSite(t)
			s.receive(mta.Options{})
			p := s.guard("")
			content := message(1 << 20)
			if test.chunk > large {
				content = message(large)
			}
			report := s.deliver(test.starttls, proxytest.Mail{From: senderUser, FromParams: "BODY=8BITMIME",
				To: []string{recipient}, Content: content, Chunk: test.chunk, Pipelined: test.pipelined})
			if report.Err != nil || len(report.Outcomes) != 1 || !report.Outcomes[0].Accepted() {
				t.Fatalf("%v: %+v", report.Err, report.Transcript)
			}
			s.stored(content, recipient)
			record := p.records(1)[0]
			agrees(t, "upstream leg", record.UpstreamTLS, s.receiver, s.client)
			if len(record.Transactions) != 1 || record.Transactions[0].Bytes != int64(len(content)) {
				t.Errorf("the record says %+v", record.Transactions)
			}
		})
	}
}

// deliver has the test client send a message from the client host.
func (s *site) deliver(starttls proxytest.STARTTLS, mail proxytest.Mail) proxytest.Report {
	s.t.Helper()
	conn, err := s.net.Client.Dial(within(s.t, patience), netip.AddrPort{}, netip.AddrPortFrom(s.server, 25))
	must(s.t, err)
	return proxytest.Deliver(conn, proxytest.Delivery{
		Name: senderName, STARTTLS: starttls, TLS: s.trusting(), Mails: []proxytest.Mail{mail}, Timeout: patience,
	})
}

// trusting is the TLS of a client that wants the receiver's name.
func (s *site) trusting() *tls.Config {
	return &tls.Config{RootCAs: s.pki.Pool(), ServerName: receiverName}
}
