package resolver

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// reply makes an answer of lines of a zone file; those behind "--" are of the
// authority section.
func reply(t testing.TB, lines ...string) *dns.Msg {
	t.Helper()
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Response: true, RecursionAvailable: true}}
	section := &m.Answer
	for _, l := range lines {
		if l == "--" {
			section = &m.Ns
			continue
		}
		rr, err := dns.NewRR(l)
		if err != nil {
			t.Fatal(err)
		}
		*section = append(*section, rr)
	}
	again := new(dns.Msg)
	if err := again.Unpack(packed(t, m)); err != nil {
		t.Fatal(err)
	}
	return again
}

func TestHowLongAnAnswerHoldsAndWhereItsAliasesLead(t *testing.T) {
	const soa = "test. 300 SOA ns.test. h.test. 1 2 3 4 120"
	var ring []string
	for i := range mostAliases + 2 {
		ring = append(ring, fmt.Sprintf("n%d.test. 60 CNAME n%d.test.", i, i+1))
	}
	for _, tc := range []struct {
		name    string
		lines   []string
		records int
		aliases string
		holds   time.Duration // 0: it is a failure
	}{
		{"a record", []string{"n0.test. 60 A 192.0.2.1"}, 1, "", time.Minute},
		{"the least of several", []string{"n0.test. 60 A 192.0.2.1", "n0.test. 30 A 192.0.2.2"}, 2, "", 30 * time.Second},
		{"of another name", []string{"other.test. 60 A 192.0.2.1"}, 0, "", failureKept},
		{"of another type", []string{"n0.test. 60 AAAA 2001:db8::1"}, 0, "", failureKept},
		{"in capitals", []string{"N0.Test. 60 A 192.0.2.1"}, 1, "", time.Minute},
		{"for ever", []string{"n0.test. 2147483647 A 192.0.2.1"}, 1, "", mostPositive},
		{"for longer than that", []string{"n0.test. 4294967295 A 192.0.2.1"}, 1, "", leastKept},
		{"not at all", []string{"n0.test. 0 A 192.0.2.1"}, 1, "", leastKept},
		{"nothing", []string{"--", soa}, 0, "", 2 * time.Minute},
		{"nothing for a week", []string{"--", "test. 604800 SOA ns.test. h.test. 1 2 3 4 604800"}, 0, "", mostNegative},
		{"nothing and no SOA", nil, 0, "", failureKept},
		{"an alias", []string{"n0.test. 10 CNAME N1.test.", "n1.test. 60 A 192.0.2.1"}, 1, "n1.test", 10 * time.Second},
		{"aliases in another order", []string{"n2.test. 60 A 192.0.2.1", "n1.test. 60 CNAME n2.test.", "n0.test. 60 CNAME n1.test."}, 1, "n1.test n2.test", time.Minute},
		{"an alias of nothing", []string{"n0.test. 10 CNAME n1.test.", "--", soa}, 0, "n1.test", 10 * time.Second},
		{"an alias that nobody asked about", []string{"n0.test. 60 A 192.0.2.1", "x.test. 1 CNAME y.test."}, 1, "", time.Minute},
		{"an alias of itself", []string{"n0.test. 60 CNAME n0.test."}, 0, "n0.test", 0},
		{"aliases in a ring", []string{"n0.test. 60 CNAME n1.test.", "n1.test. 60 CNAME n0.test."}, 0, "", 0},
		{"aliases without end", ring, 0, "", 0},
		{"an alias that is no host name", []string{`n0.test. 60 CNAME a\ b.test.`}, 0, "", 0},
		{"an alias of the root", []string{"n0.test. 60 CNAME ."}, 0, "", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := read(reply(t, tc.lines...), question{"n0.test", dns.TypeA}, true, noon)
			if tc.holds == 0 {
				if !errors.Is(a.err, ErrFailed) {
					t.Errorf("%+v", a)
				}
				return
			}
			if a.err != nil || len(a.records) != tc.records || strings.Join(a.aliases, " ") != tc.aliases || a.expires.Sub(noon) != tc.holds || !a.secure {
				t.Errorf("%+v, for %v", a, a.expires.Sub(noon))
			}
		})
	}
}

func TestARecordWithoutDataIsNoNullMX(t *testing.T) {
	for asked, kind := range map[uint16]uint16{dns.TypeMX: dns.TypeMX, dns.TypeTLSA: dns.TypeTLSA, dns.TypeA: dns.TypeCNAME} {
		m := reply(t)
		m.Answer = []dns.RR{&dns.RFC3597{Hdr: header("n0.test.", kind, 60)}}
		again := new(dns.Msg)
		if err := again.Unpack(packed(t, m)); err != nil || len(again.Answer) != 1 {
			t.Fatal(again, err)
		}
		if a := read(again, question{"n0.test", asked}, true, noon); !errors.Is(a.err, ErrFailed) {
			t.Errorf("%v: %+v", again, a)
		}
	}
}

func TestEachHostOfADomainStandsOnceWhereItIsPreferredMost(t *testing.T) {
	hosts := []MXHost{{"a.test", 1}, {"b.test", 2}, {"a.test", 3}}
	for i := range 2 * mostHosts {
		hosts = append(hosts, MXHost{fmt.Sprint("h", i), 4})
	}
	got := once(hosts)
	if len(got) != mostHosts || got[0].Name != "a.test" || got[1].Name != "b.test" || got[2].Name != "h0" {
		t.Errorf("%+v", got)
	}
}

func TestTheCacheKeepsToItsEntriesAndToTheirSize(t *testing.T) {
	c := newCache(10)
	small := &answer{expires: noon.Add(time.Hour)}
	name := func(i int) question { return question{fmt.Sprint(i), dns.TypeTXT} }
	for i := range 20 {
		c.keep(name(i), small)
		c.find(name(0), noon)
	}
	if len(c.entries) != 10 || c.order.Len() != 10 || c.find(name(0), noon) == nil || c.find(name(10), noon) != nil || c.find(name(19), noon) == nil {
		t.Errorf("%d entries", len(c.entries))
	}
	big := read(reply(t, strings.Repeat(`n0.test. 60 TXT "`+strings.Repeat("x", 250)+"\"\n", 1)), question{"n0.test", dns.TypeTXT}, true, noon)
	for range 4 {
		big.records = append(big.records, big.records...)
	}
	for i := range 20 {
		c.keep(name(i), big)
		c.keep(name(i), big)
		if c.octets > 10*ofEach+big.size() {
			t.Fatalf("%d octets in %d entries", c.octets, len(c.entries))
		}
	}
	for i := range 20 {
		c.find(name(i), noon.Add(2*time.Hour))
	}
	if len(c.entries) != 0 || c.octets != 0 || c.order.Len() != 0 {
		t.Errorf("%d entries and %d octets are left", len(c.entries), c.octets)
	}
}

func TestTextIsGivenAsItWasSent(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "v=STSv1; id=1;": "v=STSv1; id=1;", `\"\\\"`: `"\"`, `\007\255`: "\x07\xff", `\065b`: "Ab", `\12`: "12", `\`: `\`, `a\`: `a\`, `\999`: "999",
	} {
		if got := unescape(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestWhatIsNoHostNameIsNotAskedFor(t *testing.T) {
	long := strings.Repeat("a", 63)
	for name, want := range map[string]bool{
		"a": true, "_25._tcp.mx.example.org": true, "xn--bcher-kva.example": true, long + ".test": true,
		"": false, ".": false, "a.": false, ".a": false, "a..b": false, "A": false, "a b": false, "bücher.example": false, `a\.b`: false,
		long + "a": false, strings.Join([]string{long, long, long, long}, "."): false, "*.example.org": false,
	} {
		if hostname(name) != want {
			t.Error(name)
		}
	}
}

// Whatever a server sends: no panic, nothing unbounded, and secure only if it
// was said to be.
func FuzzRead(f *testing.F) {
	for _, lines := range [][]string{
		{"a.test. 60 MX 10 b.test."}, {"a.test. 60 CNAME b.test.", "b.test. 60 A 192.0.2.1"},
		{"a.test. 60 TLSA 3 1 1 00"}, {`a.test. 60 TXT "x\"\255"`}, {"--", "test. 300 SOA ns.test. h.test. 1 2 3 4 120"},
	} {
		f.Add(packed(f, reply(f, lines...)), true)
	}
	f.Fuzz(func(t *testing.T, packet []byte, secure bool) {
		m := new(dns.Msg)
		if m.Unpack(packet) != nil {
			return
		}
		for _, kind := range []uint16{dns.TypeMX, dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeTLSA, dns.TypeCNAME} {
			q := question{"a.test", kind}
			a := read(m, q, secure, noon)
			if a.err != nil {
				if !errors.Is(a.err, ErrFailed) {
					t.Fatal(a.err)
				}
				continue
			}
			if a.secure != secure || len(a.records) > mostRecords || len(a.aliases) > mostAliases ||
				a.expires.Before(noon.Add(leastKept)) || a.expires.After(noon.Add(mostPositive)) {
				t.Fatalf("%+v", a)
			}
			r := New(Options{Entries: 10})
			a.expires = time.Now().Add(time.Hour)
			for _, k := range []uint16{dns.TypeA, dns.TypeAAAA, kind} {
				none := *a
				none.records = nil
				r.cache.keep(question{q.name, k}, &none)
			}
			r.cache.keep(q, a)
			check(t, r, kind)
		}
	})
}

// check asks for what is in the cache.
func check(t *testing.T, r *Resolver, kind uint16) {
	var err error
	switch kind {
	case dns.TypeMX:
		var mx MX
		mx, err = r.MX(t.Context(), "a.test")
		if len(mx.Hosts) > mostHosts || mx.Null && len(mx.Hosts) > 0 {
			t.Errorf("%+v", mx)
		}
	case dns.TypeA, dns.TypeAAAA:
		_, err = r.Addresses(t.Context(), "a.test")
	case dns.TypeTXT:
		_, err = r.TXT(t.Context(), "a.test")
	case dns.TypeTLSA:
		_, err = r.TLSA(t.Context(), "a.test")
	case dns.TypeCNAME:
		_, err = r.Alias(t.Context(), "a.test")
	}
	if err != nil {
		t.Error(err)
	}
}
