package published

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/miekg/dns"

	"postern/enforce"
	"postern/enforce/mtasts"
	"postern/enforce/resolver"
)

// authority answers from a zone file's lines, with AD or without, and denies all
// else. It stands for a resolver where what is measured is that none is asked.
func authority(tb testing.TB, signed bool, lines ...string) (at netip.AddrPort, stop func()) {
	tb.Helper()
	packets, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var records []dns.RR
	for _, line := range append(lines, "example. 3600 SOA ns.example. host.example. 1 3600 600 86400 3600") {
		rr, err := dns.NewRR(line)
		if err != nil {
			tb.Fatal(err)
		}
		records = append(records, rr)
	}
	server := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.RecursionAvailable, m.AuthenticatedData = true, signed
		for _, rr := range records {
			if h := rr.Header(); h.Name == q.Question[0].Name && h.Rrtype == q.Question[0].Qtype {
				m.Answer = append(m.Answer, rr)
			}
		}
		if len(m.Answer) == 0 {
			m.Ns = records[len(records)-1:]
		}
		_ = w.WriteMsg(m)
	})}
	ended := make(chan struct{})
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	go func() {
		defer close(ended)
		_ = server.ActivateAndServe()
	}()
	<-started
	return packets.LocalAddr().(*net.UDPAddr).AddrPort(), func() {
		_ = server.Shutdown()
		<-ended
	}
}

// A kept is a domain of which everything is known.
type kept struct {
	directory *Directory
	server    Server
	unsigned  bool
	mx        enforce.MXState
	dane      enforce.DANEState
	mtasts    enforce.MTASTSState
}

// keep asks a server for all of partner.example and stops it then: what is had
// later comes from what is kept.
func keep(tb testing.TB, c kept, policies *mtasts.Cache, lines ...string) kept {
	tb.Helper()
	at, stop := authority(tb, !c.unsigned, lines...)
	r := resolver.New(resolver.Options{Servers: []netip.AddrPort{at}})
	if policies == nil {
		policies = cacheOf(tb, "", func(ctx context.Context, name string) ([]string, error) {
			txt, err := r.TXT(ctx, name)
			return txt.Records, err
		})
	}
	c.directory = New(r, policies)
	c.server.Address = netip.MustParseAddrPort("192.0.2.1:25")
	c.look(tb, tb.Context())
	stop()
	return c
}

func cacheOf(tb testing.TB, dir string, txt func(context.Context, string) ([]string, error)) *mtasts.Cache {
	tb.Helper()
	policies, err := mtasts.New(mtasts.Options{Dir: dir, TXT: txt, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("nobody is dialled")
	}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { policies.Close() })
	return policies
}

func (k kept) look(tb testing.TB, ctx context.Context) {
	l := k.directory.Look(ctx, "partner.example", 25, enforce.Auto{DANE: true, MTASTS: true})
	h := k.directory.Hold(ctx, l, k.server, time.Now())
	if h.MX != k.mx || h.DANE.State != k.dane || h.MTASTS.State != k.mtasts {
		tb.Fatalf("%v (%s), %+v, %+v", h.MX, h.Detail, h.DANE, h.MTASTS)
	}
}

// keptDomains are those of which sessions ask again and again.
func keptDomains(tb testing.TB) map[string]kept {
	chain, tlsa := certificate(tb, "mx1.partner.example")
	hosts := []string{"partner.example. 3600 MX 10 mx1.partner.example.", "partner.example. 3600 MX 20 mx2.partner.example.",
		"mx1.partner.example. 3600 A 192.0.2.1", "mx2.partner.example. 3600 A 192.0.2.2", "mx1.partner.example. 3600 AAAA 2001:db8::1"}
	secure := append(hosts, "_25._tcp.mx1.partner.example. 3600 "+tlsa, "_25._tcp.mx2.partner.example. 3600 "+tlsa)
	shown := Server{Chain: []*x509.Certificate{chain[0]}}
	return map[string]kept{
		"Nothing at all": keep(tb, kept{mx: enforce.MXNone, dane: enforce.DANENone, mtasts: enforce.MTASTSNone, server: shown}, nil),
		"MX":             keep(tb, kept{unsigned: true, mx: enforce.MXKnown, dane: enforce.DANENone, mtasts: enforce.MTASTSNone, server: shown}, nil, hosts...),
		"Signed MX":      keep(tb, kept{mx: enforce.MXKnown, dane: enforce.DANENone, mtasts: enforce.MTASTSNone, server: shown}, nil, hosts...),
		"DANE":           keep(tb, kept{mx: enforce.MXKnown, dane: enforce.DANEMatches, mtasts: enforce.MTASTSNone, server: shown}, nil, secure...),
		"MTA-STS": keep(tb, kept{unsigned: true, mx: enforce.MXKnown, dane: enforce.DANENone, mtasts: enforce.MTASTSEnforce, server: shown},
			cacheOf(tb, stored(tb), func(context.Context, string) ([]string, error) { return []string{"v=STSv1; id=1;"}, nil }), hosts...),
	}
}

// stored is a directory with a policy of partner.example.
func stored(tb testing.TB) string {
	dir := tb.TempDir()
	fetched := time.Now().UTC().Truncate(time.Second)
	policy := `{"domain":"partner.example","id":"1","mode":"enforce","mx":["*.partner.example"],"max_age":604800,"fetched":"` +
		fetched.Format(time.RFC3339) + `","expires":"` + fetched.Add(604800*time.Second).Format(time.RFC3339) + `"}`
	if err := os.WriteFile(filepath.Join(dir, "partner.example"), []byte(policy), 0o600); err != nil {
		tb.Fatal(err)
	}
	return dir
}

func TestWhatIsKnownIsHadWithoutStartingAnything(t *testing.T) { // beside no other: it counts
	most := map[string]float64{"Nothing at all": 2, "MX": 5, "Signed MX": 12, "DANE": 30, "MTA-STS": 20} // allocations
	for name, k := range keptDomains(t) {
		t.Run(name, func(t *testing.T) {
			ctx := within(t)
			k.look(t, ctx) // its look at the policy goes on behind
			time.Sleep(50 * time.Millisecond)
			const looks = 100
			before := started()
			each := testing.AllocsPerRun(looks, func() { k.look(t, ctx) })
			if n := started() - before; n >= looks {
				t.Errorf("%d looks started %d goroutines", looks, n)
			}
			if each > most[name] {
				t.Errorf("%v allocations, want at most %v", each, most[name])
			}
		})
	}
}

// started is how many goroutines the process has started.
func started() uint64 {
	sample := []metrics.Sample{{Name: "/sched/goroutines-created:goroutines"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// BenchmarkLook is what a session asks of a recipient's domain, all of which is
// kept: that it has no MX host and no address, two MX hosts and nothing else, unsigned
// and signed, two with DANE, and a policy.
func BenchmarkLook(b *testing.B) {
	for name, k := range keptDomains(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
			defer cancel()
			time.Sleep(20 * time.Millisecond) // a look at the policy that goes on behind
			for b.Loop() {
				k.look(b, ctx)
			}
		})
	}
}
