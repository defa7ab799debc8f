package resolver

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// A fake is a server whose answers the test makes up, octet by octet.
type fake struct {
	t       *testing.T
	at      netip.AddrPort
	conn    *net.UDPConn
	queries chan asked
}

type asked struct {
	*dns.Msg
	from netip.AddrPort
}

func newFake(t *testing.T) *fake {
	t.Helper()
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, conn: conn, at: conn.LocalAddr().(*net.UDPAddr).AddrPort(), queries: make(chan asked, 100)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 65535)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			query := new(dns.Msg)
			if err := query.Unpack(buf[:n]); err == nil {
				f.queries <- asked{query, from}
			}
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-ended
	})
	return f
}

// serve answers each question with the packets that answer makes of it.
func (f *fake) serve(answer func(asked) [][]byte) {
	ended := make(chan struct{})
	f.t.Cleanup(func() { <-ended })
	go func() {
		defer close(ended)
		for {
			select {
			case <-f.t.Context().Done():
				return
			case q := <-f.queries:
				for _, packet := range answer(q) {
					f.send(q, packet)
				}
			}
		}
	}()
}

func (f *fake) send(q asked, packet []byte) {
	if _, err := f.conn.WriteToUDPAddrPort(packet, q.from); err != nil {
		f.t.Log(err) // the test may be over
	}
}

func (f *fake) reply(q asked, m *dns.Msg) { f.send(q, packed(f.t, m)) }

func packed(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	packet, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return packet
}

// answerTo is an answer of a resolver, without records.
func answerTo(q asked) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q.Msg)
	m.RecursionAvailable, m.AuthenticatedData = true, true
	return m
}

func text(q asked, words ...string) *dns.Msg {
	m := answerTo(q)
	for _, w := range words {
		m.Answer = append(m.Answer, &dns.TXT{Hdr: header(q.Question[0].Name, dns.TypeTXT, 60), Txt: []string{w}})
	}
	return m
}

func header(name string, kind uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

func resolverOf(timeout time.Duration, servers ...*fake) *Resolver {
	o := Options{Timeout: timeout}
	for _, s := range servers {
		o.Servers = append(o.Servers, s.at)
	}
	return New(o)
}
