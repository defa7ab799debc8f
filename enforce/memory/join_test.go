package memory

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"postern/enforce/kept"
)

// gateways are stores and holds that bring each other their records, as a server
// that they share would.
type gateway struct {
	*Store
	h     Holds
	kinds []kept.Records
}

// Keep is a Keeper's that does nothing by itself.
func (g *gateway) Keep(r kept.Records) { g.kinds = append(g.kinds, r) }
func (g *gateway) Close() error        { return nil }

func newGateway(t testing.TB) *gateway {
	g := new(gateway)
	var err error
	if g.Store, err = Open(Options{Remember: month, Entries: 1000, Keeper: g}); err != nil {
		t.Fatal(err)
	}
	g.Store.Keep(&g.h)
	return g
}

// give brings another all that is new here, and gives how much that was.
func (g *gateway) give(to *gateway, now time.Time) (n int) {
	for i, r := range g.kinds {
		for r.Unwritten() {
			b := r.Take(7)
			r.Written(true)
			n += len(b.Records)
			var there []kept.Record
			for _, one := range b.Records {
				if one.Value != nil {
					there = append(there, one)
				}
			}
			to.kinds[i].Restore(there, now)
		}
	}
	return n
}

func (g *gateway) String() string {
	s := ""
	for k, e := range g.destinations.entries {
		s += fmt.Sprintln(k, e.seen)
	}
	for k, e := range g.h.entries {
		s += fmt.Sprintln(k, e.Hold, e.renewed)
	}
	return s
}

// Whatever each saw, and in whatever order they tell each other: in the end both
// have the same and have nothing more to say.
func TestGatewaysThatToldEachOtherAllKnowTheSame(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, b := newGateway(t), newGateway(t)
		now := noon
		c := from("10.1.0.9", "203.0.113.7")
		for range rapid.IntRange(0, 40).Draw(rt, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 300).Draw(rt, "later")) * time.Minute)
			g, other := a, b
			if rapid.Bool().Draw(rt, "at b") {
				g, other = b, a
			}
			switch rapid.IntRange(0, 6).Draw(rt, "do") {
			case 6:
				g.h.Refused(c, day, true, now)
			case 0, 1:
				g.Learn(server, nil, tls13(byte(rapid.IntRange(1, 6).Draw(rt, "key")), rapid.IntRange(0, 4).Draw(rt, "verified") == 0, now))
			case 2:
				g.Missed(server, client, nil, now)
			case 3:
				g.h.Begin(c, uint16(rapid.IntRange(0x301, 0x302).Draw(rt, "version")), now)
			case 4:
				g.h.Clear(c, now)
			case 5:
				g.give(other, now)
			}
		}
		for range 10 {
			if a.give(b, now)+b.give(a, now) == 0 {
				break
			}
		}
		if n := a.give(b, now) + b.give(a, now); n > 0 {
			rt.Fatalf("they do not come to an end:\n%v\n%v", a, b)
		}
		ka, oka := a.Recall(server, now)
		kb, okb := b.Recall(server, now)
		if oka != okb || !cmp.Equal(ka, kb) {
			rt.Fatalf("%v %+v, and %v %+v:\n%v\n%v", oka, ka, okb, kb, a, b)
		}
		if ha, hb := a.h.Find(c, day, now), b.h.Find(c, day, now); (ha == nil) != (hb == nil) || !cmp.Equal(ha, hb) {
			rt.Fatalf("%+v, and %+v", ha, hb)
		}
	})
}

func TestAJoinCountsNobodyTwiceAndLosesNobody(t *testing.T) {
	a, b := newGateway(t), newGateway(t)
	tell := func() { a.give(b, noon.Add(48*time.Hour)); b.give(a, noon.Add(48*time.Hour)) }
	at := func(hours float64) time.Time { return noon.Add(time.Duration(hours * float64(time.Hour))) }
	// One client, through both gateways at once: one occasion each time.
	for _, hours := range []float64{0, 24} {
		a.Learn(server, []string{"contoso.com"}, tls13(1, false, at(hours)))
		b.Learn(server, []string{"contoso.com"}, tls13(1, false, at(hours+0.01)))
		tell()
		a.Learn(server, []string{"contoso.com"}, tls13(1, false, at(hours+0.02)))
		tell()
	}
	for _, g := range []*gateway{a, b} {
		if k, ok := g.Recall(server, at(25)); ok {
			t.Errorf("two occasions bind: %+v", k)
		}
	}
	b.Learn(server, []string{"contoso.com"}, tls13(1, false, at(26)))
	tell()
	for _, g := range []*gateway{a, b} {
		if k, ok := g.Recall(server, at(27)); !ok || !k.Since.Equal(noon) || !k.Last.Equal(at(26)) {
			t.Errorf("three occasions, wherever they were: %v %+v", ok, k)
		}
		if _, ok := g.RecallDomain("contoso.com", client, at(27)); !ok {
			t.Error("the domain, as that client sees it, does not bind")
		}
	}
	// Out of touch, each sees what the other does not.
	a.Learn(addrPort("203.0.113.8:25"), nil, tls13(2, true, at(27)))
	b.Learn(addrPort("203.0.113.8:25"), nil, tls12(3, true, at(28)))
	tell()
	ka, _ := a.Recall(addrPort("203.0.113.8:25"), at(29))
	kb, ok := b.Recall(addrPort("203.0.113.8:25"), at(29))
	if !ok || !cmp.Equal(ka, kb) || ka.Version != 0x304 || !ka.Since.Equal(at(27)) || !ka.Last.Equal(at(28)) {
		t.Errorf("%v %+v %+v", ok, ka, kb)
	}
}

// A refusal by a gateway that has not heard of a success does not outlast that.
func TestASuccessEndsAHoldThatWasRenewedElsewhereMeanwhile(t *testing.T) {
	a, b := newGateway(t), newGateway(t)
	c := from("10.1.0.9", "203.0.113.7")
	a.h.Begin(c, 0x301, noon)
	a.give(b, noon)
	b.h.Clear(c, noon.Add(time.Second))
	a.h.Refused(c, day, true, noon.Add(2*time.Second))
	a.give(b, noon.Add(2*time.Second))
	b.give(a, noon.Add(2*time.Second))
	if a.h.Find(c, day, noon.Add(3*time.Second)) != nil || b.h.Find(c, day, noon.Add(3*time.Second)) != nil {
		t.Error("held after a success")
	}
	a.h.Begin(c, 0x301, noon.Add(4*time.Second)) // and by a handshake that fails later it is
	b.give(a, noon.Add(5*time.Second))
	a.give(b, noon.Add(5*time.Second))
	if a.h.Find(c, day, noon.Add(5*time.Second)) == nil || b.h.Find(c, day, noon.Add(5*time.Second)) == nil {
		t.Error("not held")
	}
}

func TestBoundsHoldForWhatOtherGatewaysBring(t *testing.T) {
	a, b := newGateway(t), newGateway(t)
	now := noon
	for i := range 300 { // one client's domains, one block's destinations
		b.Learn(addrPort("198.51.%d.%d:25", i>>8, i&0xff), []string{fmt.Sprintf("d%d.x%d.example", i, i)}, tls13(byte(1+i%200), false, now))
	}
	victim := addrPort("203.0.113.7:25")
	a.Learn(victim, []string{"contoso.com"}, tls13(1, true, now))
	b.give(a, now)
	if n, most := a.destinations.len(), 1000/4/shareOfBlock+1; n > most {
		t.Errorf("%d destinations, at most %d", n, most)
	}
	if n, most := a.domains.len(), 1000/4/shareOfClient+1; n > most {
		t.Errorf("%d domains, at most %d", n, most)
	}
	if _, ok := a.Recall(victim, now); !ok {
		t.Error("what verified was pushed out")
	}
}

func TestWhatTheFileOrAServerHasAlreadyIsNotWrittenAgain(t *testing.T) {
	a, b := newGateway(t), newGateway(t)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 50 {
		a.Learn(addrPort("198.%d.100.1:25", i), nil, tls13(byte(1+random.IntN(9)), i%2 == 0, noon))
	}
	a.h.Begin(from("10.1.0.9", "203.0.113.7"), 0x301, noon)
	for _, r := range b.kinds {
		r.Offer()
	}
	a.give(b, noon)
	for _, r := range b.kinds {
		if r.Unwritten() {
			t.Errorf("%s: %d are written again", r.Kind(), len(r.Take(100).Records))
		}
	}
	for _, r := range a.kinds { // what was not written is taken once more
		r.Offer()
		n := len(r.Take(10).Records)
		r.Written(false)
		if again := len(r.Take(100).Records); again < n {
			t.Errorf("%s: %d, and then %d", r.Kind(), n, again)
		}
		r.Written(true)
	}
}
