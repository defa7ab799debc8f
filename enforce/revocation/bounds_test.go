package revocation

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"math/big"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestTheCacheKeepsItsBounds(t *testing.T) {
	now := time.Now()
	keyed := func(i int) (k key) { binary.BigEndian.PutUint32(k[:], uint32(i)); return k }
	c := newCache(10, 20*smallest)
	for i := range 100 {
		k := &kept{key: keyed(i), until: now.Add(time.Hour)}
		if i%3 == 0 {
			k.crl = &crl{entries: make([]entry, 0, 4*smallest/entrySize)}
		}
		c.put(k, now)
		c.find(keyed(0), now) // in use
		sum := 0
		for e := c.used.Front(); e != nil; e = e.Next() {
			sum += e.Value.(*kept).size()
		}
		if len(c.at) > 10 || len(c.at) != c.used.Len() || c.size > 20*smallest || c.size != sum {
			t.Fatalf("%d entries, %d octets of which %d are counted", len(c.at), sum, c.size)
		}
	}
	if c.find(keyed(0), now) == nil || c.find(keyed(99), now) == nil || c.find(keyed(50), now) != nil {
		t.Error("what was unused longest is not what went")
	}
	c.put(&kept{key: keyed(0), crl: &crl{entries: make([]entry, 0, smallest)}, until: now.Add(time.Hour)}, now)
	if c.find(keyed(0), now) != nil || c.find(keyed(99), now) == nil {
		t.Error("what is larger than the cache was kept, or pushed all out")
	}
	if c.find(keyed(99), now.Add(time.Hour)) != nil || len(c.at) != c.used.Len() {
		t.Error("what has run out is still there")
	}
}

// A list of many entries costs little more than itself.
func TestALargeListTakesLittleMemory(t *testing.T) {
	p := newPKI(t)
	const many = 200_000
	der := revoke(t, p.middle, func(l *x509.RevocationList) {
		for i := range many {
			l.RevokedCertificateEntries = append(l.RevokedCertificateEntries,
				x509.RevocationListEntry{SerialNumber: big.NewInt(1<<40 + int64(i)), RevocationTime: l.ThisUpdate})
		}
	}, p.leaf)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	list, err := readList(der, p.middle.Certificate, time.Now())
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := list.find(p.leaf.Certificate); err != nil || a.state != Revoked {
		t.Errorf("%+v, %v", a, err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 2*many*entrySize {
		t.Errorf("%d octets for %d entries, %d an entry", used, many, used/many)
	}
	if list.size() > (many+1)*entrySize*2 {
		t.Errorf("%d octets are kept", list.size())
	}
}

func TestWhatIsTooLargeIsNotRead(t *testing.T) {
	p, n := newPKI(t), newNames(t)
	long := strings.Repeat("a", maxHead)
	head := revoke(t, p.middle, with([]int{1, 2, 3}, false, []byte(long)))
	if _, err := readList(head, p.middle.Certificate, time.Now()); err == nil || !strings.Contains(err.Error(), "besides its entries") {
		t.Error(err)
	}
	n.serve("crl.example", answering(make([]byte, maxList+1)))
	c := n.checker(Options{})
	if _, err := c.fetchList(t.Context(), p.middle.Certificate, crlAt, time.Now()); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Error(err)
	}
	if _, err := c.fetchList(t.Context(), p.middle.Certificate, crlAt+long, time.Now()); err == nil || !strings.Contains(err.Error(), "an address of more") {
		t.Error(err)
	}
	n.serve("crl.example", answering(revoke(t, p.middle, func(l *x509.RevocationList) {
		for i := range 100_000 {
			l.RevokedCertificateEntries = append(l.RevokedCertificateEntries,
				x509.RevocationListEntry{SerialNumber: big.NewInt(1<<40 + int64(i)), RevocationTime: l.ThisUpdate})
		}
	})))
	if _, err := c.fetchList(t.Context(), p.middle.Certificate, crlAt, time.Now()); err != nil {
		t.Errorf("a list of more than %d octets: %v", smallBody, err)
	}
}

func FuzzReadAnswer(f *testing.F) {
	p := newPKI(f)
	l := linksOf(p.chain(), nil, time.Now())[0]
	f.Add(respond(f, p, p.middle, nil))
	delegate := issue(f, p.middle, "delegate", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning} })
	f.Add(respond(f, p, delegate, nil))
	f.Add([]byte{0x30, 3, 10, 1, 3})
	f.Fuzz(func(t *testing.T, der []byte) {
		if a, err := readAnswer(der, l, time.Now()); err != nil && a != (answer{}) {
			t.Errorf("%+v beside %v", a, err)
		} else if err == nil && a.state == Revoked {
			t.Error("nobody signed that")
		}
	})
}

func FuzzReadList(f *testing.F) {
	p := newPKI(f)
	f.Add(revoke(f, p.middle, nil))
	f.Add(revoke(f, p.middle, reasoned(1), p.leaf))
	f.Add(revoke(f, p.middle, extended([]int{1, 2, 3}, true), p.leaf))
	f.Fuzz(func(t *testing.T, der []byte) {
		// What lies behind the signature, too: an authority may be hostile.
		if head, entries, err := cut(der); err == nil {
			_, _ = scopeOf(head.Extensions)
			all, err := readEntries(entries)
			if full, other := x509.ParseRevocationList(der); other == nil && err == nil {
				removed := 0
				for _, e := range full.RevokedCertificateEntries {
					if e.ReasonCode == 8 {
						removed++
					}
				}
				if len(all)+removed != len(full.RevokedCertificateEntries) {
					t.Errorf("%d entries, and crypto/x509 reads %d", len(all), len(full.RevokedCertificateEntries))
				}
			}
		}
		if l, err := readList(der, p.middle.Certificate, time.Now()); err == nil && len(l.entries) > 1 {
			t.Error("nobody signed that")
		}
	})
}

func FuzzScope(f *testing.F) {
	f.Add([]byte{0x30, 4, 0xa0, 2, 0xa0, 0})
	f.Add([]byte{0x30, 3, 0x81, 1, 0xff})
	f.Fuzz(func(t *testing.T, der []byte) {
		var s scope
		if s.read(der) {
			_ = s.covers(&x509.Certificate{CRLDistributionPoints: []string{crlAt}})
		}
	})
}

func BenchmarkReadList(b *testing.B) {
	p := newPKI(b)
	der := revoke(b, p.middle, func(l *x509.RevocationList) {
		for range 10_000 {
			number, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
			if err != nil {
				b.Fatal(err)
			}
			l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: number, RevocationTime: l.ThisUpdate})
		}
	})
	b.SetBytes(int64(len(der)))
	for b.Loop() {
		if _, err := readList(der, p.middle.Certificate, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCached(b *testing.B) {
	p, n := newPKI(b), newNames(b)
	n.serve("ocsp.example", answering(respond(b, p, p.middle, nil)))
	n.serve("crl.example", files(map[string][]byte{"/root.crl": revoke(b, p.root, nil)}))
	c := n.checker(Options{})
	c.Check(b.Context(), p.chain(), nil, time.Now())
	b.ReportAllocs()
	for b.Loop() {
		if _, all := c.Cached(p.chain(), nil, time.Now()); !all {
			b.Fatal("not known")
		}
	}
}
