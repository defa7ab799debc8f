package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"sync"

	"github.com/miekg/dns"

	"postern/proxy/proxytest"
)

// A benchmark is the lab with what measuring needs: servers that tell what they
// took, and a resolver beside Postern.
type benchmark struct {
	benchOptions
	lab      *lab
	ledger   *digests
	counters []*proxytest.Counter
	resolver *dns.Server
	sources  []netip.Addr
}

// The addresses of the benchmark: a gateway of the others' own, whose address is
// connected to, and servers by what they are like.
var (
	benchBypass = at("10.1.0.99") // a client that the interception leaves alone
	benchIn     = at("10.1.0.1")
)

const benchSources = 100

// A kind of server has an address of its own, for each of the ways in which a
// setting can have it.
func (s setting) server() netip.Addr {
	last := byte(10)
	for i, is := range []bool{s.tickets, s.rsa, s.classic} {
		if is {
			last |= 1 << (i + 4)
		}
	}
	return netip.AddrFrom4([4]byte{203, 0, 113, last})
}

func newBench(postern string, o benchOptions) (*benchmark, error) {
	b := &benchmark{benchOptions: o, ledger: newDigests()}
	var err error
	if b.lab, err = newLab(postern, nil); err != nil {
		return nil, err
	}
	return b, b.setUp()
}

func (b *benchmark) setUp() error {
	for i := range benchSources {
		b.sources = append(b.sources, netip.AddrFrom4([4]byte{10, 1, 0, byte(100 + i)}))
	}
	if err := b.lab.addClients(append(b.sources, benchBypass)); err != nil {
		return err
	}
	certificates := map[bool]tls.Certificate{}
	for _, rsa := range []bool{false, true} {
		var err error
		leaf := proxytest.Leaf{Names: []string{"mx.partner.example"}, RSA: rsa}
		if certificates[rsa], err = b.lab.pki.Issue(leaf); err != nil {
			return err
		}
		edge, err := b.lab.pki.Issue(proxytest.Leaf{Names: []string{edgeName}, RSA: rsa})
		if err != nil {
			return err
		}
		if _, _, err = proxytest.WriteCertificate(b.lab.dir, edgeFile(rsa), edge); err != nil {
			return err
		}
	}
	for n := range 8 {
		s := setting{tickets: n&1 != 0, rsa: n&2 != 0, classic: n&4 != 0}
		config := &tls.Config{Certificates: []tls.Certificate{certificates[s.rsa]},
			SessionTicketsDisabled: !s.tickets, CurvePreferences: s.groups()}
		counter, err := b.lab.count(s.server(), proxytest.CounterConfig{
			Name: "mx.partner.example", TLS: config, Arrived: b.ledger.arrived,
		})
		if err != nil {
			return err
		}
		b.counters = append(b.counters, counter)
	}
	return b.resolve()
}

// edgeFile names what the gateway shows to clients.
func edgeFile(rsa bool) string {
	if rsa {
		return "edge-rsa"
	}
	return "edge-ecdsa"
}

func (b *benchmark) edge(rsa bool) (cert, key string) {
	name := filepath.Join(b.lab.dir, edgeFile(rsa))
	return name + ".pem", name + ".key"
}

// groups are what client and server offer.
func (s setting) groups() []tls.CurveID {
	if s.classic {
		return []tls.CurveID{tls.X25519}
	}
	return nil
}

// resolve has a resolver beside Postern that knows of nothing published: what is
// asked is asked, and the answers are kept.
func (b *benchmark) resolve() error {
	var packets net.PacketConn
	err := b.lab.network.Gateway.Do(func() (err error) {
		packets, err = net.ListenPacket("udp4", "127.0.0.1:53")
		return err
	})
	if err != nil {
		return fmt.Errorf("resolver: %w", err)
	}
	started := make(chan struct{})
	b.resolver = &dns.Server{PacketConn: packets, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(nothingPublished)}
	go b.resolver.ActivateAndServe()
	<-started
	return nil
}

func nothingPublished(w dns.ResponseWriter, question *dns.Msg) {
	answer := new(dns.Msg).SetRcode(question, dns.RcodeNameError)
	answer.RecursionAvailable = true
	answer.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "example.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 3600},
		Ns: "ns.example.", Mbox: "root.example.", Minttl: 3600}}
	w.WriteMsg(answer)
}

func (b *benchmark) close() error {
	var errs []error
	if b.resolver != nil {
		errs = append(errs, b.resolver.Shutdown())
	}
	for _, counter := range b.counters {
		errs = append(errs, counter.Close())
	}
	return errors.Join(append(errs, b.lab.close())...)
}

// dial connects a client, from one of many addresses or from the one that is not
// intercepted.
func (b *benchmark) dial(ctx context.Context, r *running, n int) (net.Conn, error) {
	from := b.sources[n%len(b.sources)]
	if r.from.IsValid() {
		from = r.from
	}
	return b.lab.network.Client.Dial(ctx, netip.AddrPortFrom(from, 0), r.to)
}

// digests are what was sent and what arrived.
type digests struct {
	mu       sync.Mutex
	expected map[string][sha256.Size]byte
	sent     map[string]int
	got      map[string]int
	wrong    int
}

func newDigests() *digests {
	d := new(digests)
	d.clear()
	return d
}

func (d *digests) clear() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.expected, d.sent, d.got, d.wrong = map[string][32]byte{}, map[string]int{}, map[string]int{}, 0
}

// expect has messages called id told by their digest, from the mark on.
func (d *digests) expect(id string, digest [sha256.Size]byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.expected[id] = digest
}

func (d *digests) accepted(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sent[id]++
}

func (d *digests) arrived(a proxytest.Arrival) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.got[a.ID]++
	if d.expected[a.ID] != a.SHA256 {
		d.wrong++
	}
}

// missing is how many messages were accepted and have not arrived.
func (d *digests) missing() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, sent := range d.sent {
		n += sent - d.got[id]
	}
	return n
}

// check finds fault unless each message that was accepted arrived once, as it was.
func (d *digests) check() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.wrong > 0 {
		return fmt.Errorf("%d messages arrived otherwise than they were sent", d.wrong)
	}
	for id, sent := range d.sent {
		if d.got[id] != sent {
			return fmt.Errorf("message %s was accepted %d times and arrived %d times", id, sent, d.got[id])
		}
	}
	return nil
}
