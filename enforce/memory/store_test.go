package memory

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const month = 30 * day

var (
	server = netip.MustParseAddrPort("203.0.113.7:25")
	client = netip.MustParseAddr("10.1.0.9")
)

// store is one without a file.
func store(t testing.TB, entries int) *Store {
	t.Helper()
	s, err := Open(Options{Remember: month, Entries: entries})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// tls13 is a session at a time with a key.
func tls13(key byte, verified bool, at time.Time) Observation {
	return Observation{Client: client, Version: tls.VersionTLS13, Issuer: "CN=R11", SPKI: [32]byte{key}, Verified: verified, VerifiedDomains: verified, At: at}
}

func tls12(key byte, verified bool, at time.Time) Observation {
	o := tls13(key, verified, at)
	o.Version = tls.VersionTLS12
	return o
}

func TestWhatBindsIsWhatVerifiedOrWasSeenRepeatedly(t *testing.T) {
	at := func(hours float64) time.Time { return noon.Add(time.Duration(hours * float64(time.Hour))) }
	for _, tc := range []struct {
		name  string
		seen  []Observation
		binds bool
		as    Known
	}{
		{"nothing", nil, false, Known{}},
		{"one that verified", []Observation{tls13(1, true, at(0))}, true, Known{noon, noon, tls.VersionTLS13, true, 1}},
		{"one that did not", []Observation{tls13(1, false, at(0))}, false, Known{}},
		{"three within a day", []Observation{tls13(1, false, at(0)), tls13(1, false, at(10)), tls13(1, false, at(23.9))}, false, Known{}},
		{"two, days apart", []Observation{tls13(1, false, at(0)), tls13(1, false, at(48))}, false, Known{}},
		{"many at two times", []Observation{tls13(1, false, at(0)), tls13(1, false, at(0.5)), tls13(1, false, at(0.9)), tls13(1, false, at(24)), tls13(1, false, at(24.5))}, false, Known{}},
		{"three over a day", []Observation{tls13(1, false, at(0)), tls13(1, false, at(1)), tls13(1, false, at(24))}, true, Known{noon, at(24), tls.VersionTLS13, false, 3}},
		{"three over a day, each with its own key", []Observation{tls13(1, false, at(0)), tls13(2, false, at(12)), tls13(3, false, at(24))}, false, Known{}},
		{"two keys in turn", []Observation{tls13(1, false, at(0)), tls13(2, false, at(1)), tls13(1, false, at(12)), tls13(2, false, at(13)), tls13(1, false, at(24))}, true,
			Known{noon, at(24), tls.VersionTLS13, false, 3}},
		{"a clock that goes back", []Observation{tls13(1, false, at(48)), tls13(1, false, at(24)), tls13(1, false, at(0)), tls13(1, false, at(1))}, false, Known{}},
		{"a session without a certificate", []Observation{{Client: client, Version: tls.VersionTLS13, Verified: true, At: noon}}, false, Known{}},
		{"an injected better version under another key", []Observation{tls12(1, true, at(0)), tls13(2, false, at(1))}, true, Known{noon, noon, tls.VersionTLS12, true, 1}},
		{"a lower version after", []Observation{tls13(1, true, at(0)), tls12(1, true, at(1)), tls12(1, false, at(2))}, true, Known{noon, at(2), tls.VersionTLS13, true, 3}},
		{"a better version of the same key", []Observation{tls12(1, true, at(0)), tls13(1, false, at(1))}, true, Known{noon, at(1), tls.VersionTLS13, true, 2}},
		{"a renewed certificate", []Observation{tls13(1, true, at(0)), tls12(2, true, at(1))}, true, Known{noon, at(1), tls.VersionTLS13, true, 2}},
		{"one that did not verify, then did", []Observation{tls13(1, false, at(0)), tls13(1, true, at(1))}, true, Known{noon, at(1), tls.VersionTLS13, true, 2}},
		{"keys in between that change each time", []Observation{tls13(1, false, at(0)), tls13(1, false, at(2)), tls13(5, false, at(3)), tls13(6, false, at(4)),
			tls13(7, false, at(5)), tls13(8, false, at(6)), tls13(1, false, at(24))}, true, Known{noon, at(24), tls.VersionTLS13, false, 3}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := store(t, 100)
			now := noon
			for _, o := range tc.seen {
				s.Learn(server, []string{"contoso.com"}, o)
				now = o.At
			}
			for what, recall := range map[string]func() (Known, bool){
				"the destination": func() (Known, bool) { return s.Recall(server, now) },
				"the domain":      func() (Known, bool) { return s.RecallDomain("contoso.com", client, now) },
			} {
				got, ok := recall()
				if len(tc.seen) > 0 && what == "the domain" && tc.seen[0].Verified != tc.seen[len(tc.seen)-1].Verified {
					continue // the two are apart, as below
				}
				if ok != tc.binds || ok && (!got.Since.Equal(tc.as.Since) || !got.Last.Equal(tc.as.Last) || got.Version != tc.as.Version ||
					got.Verified != tc.as.Verified || got.Count != tc.as.Count) {
					t.Errorf("%s: %v %+v, want %+v", what, ok, got, tc.as)
				}
			}
		})
	}
}

func TestWhatDidNotVerifyOfADomainBindsNobodyButWhoSawIt(t *testing.T) {
	s := store(t, 100)
	other := netip.MustParseAddr("10.1.0.10")
	for _, h := range []int{0, 12, 24} {
		s.Learn(server, []string{"victim.example"}, tls13(1, false, noon.Add(time.Duration(h)*time.Hour)))
	}
	if _, ok := s.RecallDomain("victim.example", client, noon.Add(day)); !ok {
		t.Error("it does not bind the client")
	}
	if _, ok := s.RecallDomain("victim.example", other, noon.Add(day)); ok {
		t.Error("a client had a domain bind another client")
	}
	o := tls13(1, true, noon)
	o.VerifiedDomains = false // it is a name of the server's own
	s.Learn(server, []string{"victim2.example"}, o)
	if _, ok := s.RecallDomain("victim2.example", other, noon); ok {
		t.Error("a client had a domain bind all, to whom it chose")
	}
	s.Learn(server, []string{"partner.example"}, tls13(1, true, noon))
	if _, ok := s.RecallDomain("partner.example", other, noon); !ok {
		t.Error("what verified does not bind all")
	}
}

// A plain model of when anything may bind at all: what an attacker does who is
// there for less than Spread, with any keys, at any times, ends in nothing; and
// what is in clear changes nothing that was there.
func TestNothingUnverifiedBindsSoonerThanItMayAndNothingInClearWeakens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, err := Open(Options{Remember: month, Entries: 50})
		if err != nil {
			t.Fatal(err)
		}
		now := noon
		first := map[byte]time.Time{} // of each key
		last := map[byte]time.Time{}  // when an occasion was counted at the earliest
		occasions := map[byte]int{}   // at most
		everVerified := map[byte]bool{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 400).Draw(t, "minutes")) * time.Minute)
			before, bound := s.Recall(server, now)
			if rapid.IntRange(0, 2).Draw(t, "in clear") == 0 {
				s.Missed(server, client, []string{"contoso.com"}, now)
				if after, still := s.Recall(server, now); still != bound || after != before {
					t.Fatalf("in clear: %+v became %+v", before, after)
				}
				continue
			}
			k := byte(rapid.IntRange(1, 5).Draw(t, "key"))
			verified := rapid.IntRange(0, 40).Draw(t, "verified") == 0
			o := tls13(k, verified, now)
			o.Version = uint16(tls.VersionTLS10 + rapid.IntRange(0, 3).Draw(t, "version"))
			s.Learn(server, nil, o)
			if occasions[k] == 0 {
				first[k] = now
			}
			if occasions[k] == 0 || now.Sub(last[k]) >= Apart {
				occasions[k]++
				last[k] = now
			}
			everVerified[k] = everVerified[k] || verified
			after, binds := s.Recall(server, now)
			may := false
			for k := range occasions {
				may = may || everVerified[k] || occasions[k] >= Occasions && last[k].Sub(first[k]) >= Spread
			}
			if binds && !may {
				t.Fatalf("binds %+v, with %v occasions", after, occasions)
			}
			if bound && (!binds || after.Version < before.Version || after.Last.Before(before.Last) || before.Verified && !after.Verified) {
				t.Fatalf("%+v was weakened to %+v", before, after)
			}
		}
	})
}

func TestAnEntryRunsOutAfterItsOwnLastSession(t *testing.T) {
	s := store(t, 100)
	s.Learn(server, nil, tls13(1, true, noon))
	s.Learn(server, nil, tls13(2, false, noon.Add(29*day))) // somebody else's key renews nothing
	s.Missed(server, client, nil, noon.Add(29*day))
	if _, ok := s.Recall(server, noon.Add(month-time.Second)); !ok {
		t.Error("it ran out too soon")
	}
	if k, ok := s.Recall(server, noon.Add(month)); ok {
		t.Errorf("it was renewed: %+v", k)
	}
	s.Remember(60 * day)
	if _, ok := s.Recall(server, noon.Add(month)); !ok {
		t.Error("remembering for longer makes no difference")
	}
	s.destinations.sweep(noon.Add(100*day).Unix(), int64(month/time.Second))
	if s.destinations.len() != 0 {
		t.Error("what has run out stays")
	}
}

func TestAFloodPushesOutItself(t *testing.T) {
	const entries = 1600
	s := store(t, entries)
	s.Learn(server, []string{"contoso.com"}, tls13(1, true, noon))
	repeated := netip.MustParseAddrPort("203.0.113.8:25")
	for _, h := range []int{0, 12, 24} {
		s.Learn(repeated, nil, tls13(1, false, noon.Add(time.Duration(h)*time.Hour)))
	}
	at := noon.Add(day)
	for i := range 4 * entries { // networks without end, none of which verifies
		s.Learn(addrPort("%d.%d.1.1:25", 1+i>>8&0x7f, i&0xff), []string{fmt.Sprintf("d%d.x%d.example", i, i)}, tls13(1, false, at))
	}
	if n := s.destinations.len(); n > entries/4+2 {
		t.Errorf("%d entries", n)
	}
	for i := range 4 * entries { // one network, in which all verify
		s.Learn(addrPort("[2001:db8:%x:%x::1]:25", i>>8, i), []string{fmt.Sprintf("d%d.evil.example", i)}, tls13(1, true, at))
	}
	if n := s.destinations.rooms[verified].all.Len(); n != entries/2/shareOfBlock+1 {
		t.Errorf("%d of one block", n)
	}
	for i := range 4 * entries { // one host
		s.Learn(addrPort("[2001:db9:1:1::%x]:25", i+1), nil, tls13(1, true, at))
	}
	if n := s.destinations.rooms[verified].all.Len(); n != entries/2/shareOfBlock+1+min(mostOfAHost, entries/2/shareOfBlock) {
		t.Errorf("%d with those of one host", n)
	}
	for what, addr := range map[string]netip.AddrPort{"verified": server, "repeated": repeated} {
		if _, ok := s.Recall(addr, at); !ok {
			t.Errorf("what was %s is gone", what)
		}
	}
	if _, ok := s.RecallDomain("contoso.com", client, at); !ok {
		t.Error("the domain is gone")
	}
	if s.domains.len() > entries {
		t.Errorf("%d domains", s.domains.len())
	}
	for i := range 4 * entries { // and all of the world verified: no more than there is room for
		s.Learn(addrPort("%d.%d.2.1:25", 1+i>>8&0x7f, i&0xff), []string{fmt.Sprintf("e%d.example", i)}, tls13(1, true, at.Add(time.Hour)))
		s.Learn(server, nil, tls13(1, true, at.Add(time.Hour))) // who is still seen stays
	}
	if _, ok := s.Recall(server, at); !ok || s.destinations.len() > entries {
		t.Errorf("%v, %d entries", ok, s.destinations.len())
	}
	for c := range s.destinations.rooms {
		if r := &s.destinations.rooms[c]; len(r.shares) > 2*r.all.Len() {
			t.Errorf("%d shares of %d", len(r.shares), r.all.Len())
		}
	}
}

func addrPort(format string, args ...any) netip.AddrPort {
	return netip.MustParseAddrPort(fmt.Sprintf(format, args...))
}

func TestWhatAPeerSaysIsCutAndEscaped(t *testing.T) {
	for said, want := range map[string]string{
		"CN=R11,O=Let's Encrypt":        "CN=R11,O=Let's Encrypt",
		"a\x1b[31m\nb":                  `a\x1b[31m\nb`,
		strings.Repeat("ä", 1000):       strings.Repeat("ä", 64),
		strings.Repeat("\n", 1000):      strings.Repeat(`\n`, 64),
		"x" + strings.Repeat("ä", 1000): "x" + strings.Repeat("ä", 63),
	} {
		if got := cut(said); got != want {
			t.Errorf("%q became %q", said[:min(len(said), 20)], got)
		}
	}
}

func TestOptionsThatMakeNoSenseAreAnError(t *testing.T) {
	for _, o := range []Options{{}, {Remember: -1}, {Remember: time.Hour, Entries: -1}} {
		if _, err := Open(o); err == nil {
			t.Errorf("%+v", o)
		}
	}
}

func BenchmarkRecall(b *testing.B) {
	s := store(b, 0)
	for i := range 40_000 {
		s.Learn(addrPort("%d.%d.2.1:25", 1+i>>8&0xff, i&0xff), nil, tls13(1, true, noon))
	}
	b.ReportAllocs()
	addr, domain := addrPort("3.7.2.1:25"), "contoso.com"
	for b.Loop() {
		if _, ok := s.Recall(addr, noon); !ok {
			b.Fatal("gone")
		}
		s.RecallDomain(domain, client, noon)
	}
}
