package keyring

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"postern/enforce"
)

const server = x509.ExtKeyUsageServerAuth

// between gives a request for a certificate valid for a span of hours after noon.
func between(from, to int, r request) request {
	r.from, r.to = noon.Add(time.Duration(from)*time.Hour), noon.Add(time.Duration(to)*time.Hour)
	return r
}

// What is kept of a chain says at every time what looking anew would say, whenever
// each of its certificates begins and ends, and whether or not it verifies.
func TestWhatIsKeptOfAChainIsWhatLookingAnewWouldSay(t *testing.T) {
	d := newDirectory(t)
	key := newECDSA(t)
	root := issue(t, nil, between(0, 20, request{cn: "root", ca: true}))
	// Two roots of one name and one key, of which one follows the other.
	old := issue(t, nil, between(0, 10, request{cn: "renewed", ca: true, key: key}))
	renewed := issue(t, nil, between(8, 30, request{cn: "renewed", ca: true, key: key}))
	brief := issue(t, nil, between(6, 24, request{cn: "brief", ca: true}))
	stranger := issue(t, nil, between(0, 30, request{cn: "stranger", ca: true}))
	middle := issue(t, root, between(2, 18, request{cn: "middle", ca: true}))
	late := issue(t, root, between(12, 19, request{cn: "late", ca: true}))
	crossed := issue(t, stranger, between(1, 25, request{cn: "late", ca: true, key: late.key}))
	impostor := issue(t, nil, between(0, 30, request{cn: "root", ca: true}))
	shown := [][]*x509.Certificate{
		certs(issue(t, root, between(4, 16, request{cn: "a"}))),
		certs(issue(t, middle, between(4, 16, request{cn: "b"})), middle),
		certs(issue(t, middle, between(0, 30, request{cn: "c"})), middle),
		certs(issue(t, old, between(0, 30, request{cn: "d"}))),
		certs(issue(t, late, between(0, 30, request{cn: "e"})), late, crossed),
		certs(issue(t, stranger, between(3, 5, request{cn: "f"})), stranger),
		certs(issue(t, middle, between(4, 16, request{cn: "g"}))),
		certs(issue(t, impostor, between(4, 16, request{cn: "h"}))),
		certs(issue(t, brief, between(0, 30, request{cn: "j"}))),
		certs(issue(t, root, between(4, 16, request{cn: "i", usage: x509.ExtKeyUsageClientAuth}))),
	}
	ca := d.roots("stranger.pem", stranger)
	files := Files{TrustCA: d.roots("roots.pem", root, old, renewed, brief), RuleCAs: []RuleCA{{0, ca}}}
	rapid.Check(t, func(t *rapid.T) {
		r, err := Load(files, noon)
		if err != nil {
			t.Fatal(err)
		}
		chain := rapid.SampledFrom(shown).Draw(t, "chain")
		roots := rapid.SampledFrom([]string{"", "", ca, "/none.pem"}).Draw(t, "roots")
		hour := rapid.SampledFrom([]int{0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 18, 19, 20, 24, 25, 30}).Draw(t, "hour") // something begins or ends
		for range rapid.IntRange(3, 40).Draw(t, "looks") {
			now := noon.Add(time.Duration(hour)*time.Hour + rapid.SampledFrom([]time.Duration{-verifiedFor, -time.Minute, -10 * time.Second, -5 * time.Second,
				-1, 0, 1, 5 * time.Second, 10 * time.Second, time.Minute, verifiedFor}).Draw(t, "from there"))
			got, built := r.Verify(roots, chain, server, now)
			want, _ := r.verify(roots, chain, server, now)
			if got != want {
				t.Fatalf("at %v: %+v, and looked at anew %+v", now, got, want)
			}
			if all := everyChain(r, roots, chain, now); got.Verified && !slices.ContainsFunc(all, func(one []*x509.Certificate) bool { return reflect.DeepEqual(one, built) }) {
				t.Fatalf("at %v: the chain is none that verifies", now)
			}
		}
	})
}

func everyChain(r *Ring, roots string, shown []*x509.Certificate, now time.Time) [][]*x509.Certificate {
	opts := x509.VerifyOptions{Roots: r.Roots(roots), Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{server}}
	for _, c := range shown[1:] {
		opts.Intermediates.AddCert(c)
	}
	all, _ := shown[0].Verify(opts)
	return all
}

// ringOf gives a Ring with a root, and a chain that it signed.
func ringOf(t testing.TB) (*Ring, []*x509.Certificate) {
	d := newDirectory(t)
	root := issue(t, nil, request{cn: "root", ca: true})
	middle := issue(t, root, request{cn: "middle", ca: true})
	r, err := Load(Files{TrustCA: d.roots("roots.pem", root)}, noon)
	if err != nil {
		t.Fatal(err)
	}
	return r, certs(issue(t, middle, request{cn: "leaf", names: []string{"mx.example"}}), middle)
}

func TestAChainIsKeptWhenItComesAgain(t *testing.T) {
	r, chain := ringOf(t)
	key := keyOf("", chain, server)
	for times, want := range []bool{false, false, true, true} {
		if got := r.chains.find(key, noon) != nil; got != want {
			t.Errorf("after %d: %v", times, got)
		}
		r.Verify("", chain, server, noon)
	}
	for what, other := range map[string]chainKey{
		"other roots":   keyOf("/other.pem", chain, server),
		"another use":   keyOf("", chain, x509.ExtKeyUsageClientAuth),
		"less of it":    keyOf("", chain[:1], server),
		"another order": keyOf("", []*x509.Certificate{chain[1], chain[0]}, server),
	} {
		if r.chains.find(other, noon) != nil {
			t.Errorf("%s: it is known", what)
		}
	}
	if _, built := r.Verify("", chain, server, noon); testing.AllocsPerRun(100, func() { r.Verify("", chain, server, noon) }) > 0 || len(built) != 3 {
		t.Error("what is kept costs memory to find")
	}
}

// made gives the n-th of any number of chains that nobody else has.
func made(n, octets int) *judged {
	key := chainKey(sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n))))
	return &judged{key: key, result: enforce.ChainResult{Verified: true}, from: noon, until: noon.Add(time.Hour), octets: octets}
}

// A flood of chains puts out nothing that is in use, be each shown once or twice,
// and what is kept of it is bounded.
func TestAFloodOfChainsPutsOutNothingThatIsInUse(t *testing.T) {
	for _, tc := range []struct {
		what           string
		times, octets  int
		entries, total int // at most
	}{
		{"each once", 1, 9000, 1000, 1000 * 9000},
		{"each twice", 2, 9000, maxChains, maxChainOctets},
		{"each twice, and large", 2, maxChainKept, maxChains, maxChainOctets},
		{"each twice, and too large", 2, maxChainKept + 1, 1000, 1000 * 9000},
	} {
		c := new(chains)
		inUse := make([]*judged, 200)
		for i := range inUse {
			inUse[i] = made(-1-i, 9000)
			c.keep(inUse[i])
			c.keep(inUse[i])
		}
		for n := range 50000 {
			if n%200 == 0 { // they come by while the flood goes on
				for _, j := range inUse {
					c.find(j.key, noon)
				}
			}
			for range tc.times {
				c.keep(made(n, tc.octets))
			}
		}
		left, entries, octets := 0, 0, 0
		for _, j := range inUse {
			if c.find(j.key, noon) != nil {
				left++
			}
		}
		for i := range c {
			s := &c[i]
			sum := 0
			for _, j := range s.ring {
				sum += j.octets
			}
			if sum != s.octets || len(s.ring) != len(s.at) {
				t.Errorf("%s: %d octets are counted as %d, %d entries as %d", tc.what, sum, s.octets, len(s.ring), len(s.at))
			}
			entries, octets = entries+len(s.ring), octets+s.octets
		}
		if left != len(inUse) || entries > tc.entries || octets > tc.total {
			t.Errorf("%s: %d of %d in use are left, among %d of %d octets", tc.what, left, len(inUse), entries, octets)
		}
	}
}

func TestManySessionsAskAtOnce(t *testing.T) {
	r, chain := ringOf(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 200 {
				now := noon.Add(time.Duration(n*i) * time.Second)
				if got, built := r.Verify("", chain[:1+n%2], server, now); got.Verified != (n%2 == 1) || got.Verified && len(built) != 3 {
					t.Errorf("%+v", got)
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkVerify compares a chain that is known with one that nobody saw.
func BenchmarkVerify(b *testing.B) {
	r, chain := ringOf(b)
	for range 3 {
		r.Verify("", chain, server, noon)
	}
	b.Run("known", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.Verify("", chain, server, noon)
		}
	})
	b.Run("known, by all at once", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				r.Verify("", chain, server, noon)
			}
		})
	})
	b.Run("new", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.verify("", chain, server, noon)
		}
	})
}
