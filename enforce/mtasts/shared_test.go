package mtasts

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"postern/enforce/kept"
)

// told is a Keeper that does nothing by itself.
type told struct{ kept.Records }

func (k *told) Keep(r kept.Records) { k.Records = r }
func (k *told) Close() error        { return nil }

// give brings another all that is new here.
func (k *told) give(to *told) (n int) {
	for k.Unwritten() {
		b := k.Take(3)
		k.Written(true)
		n += len(b.Records)
		var there []kept.Record
		for _, r := range b.Records {
			if r.Value != nil {
				there = append(there, r)
			}
		}
		if damaged := to.Restore(there, time.Now()); damaged > 0 {
			panic("damaged")
		}
	}
	return n
}

// gateway is one whose domain has no policy host but by what others tell.
func gateway(t *testing.T, dir string) (*world, *Cache, *told) {
	w, k := newWorld(t), new(told)
	o := w.options(dir)
	o.Keeper = k
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return w, c, k
}

func TestAPolicyThatOneGatewayFetchedOthersHave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, ka := gateway(t, t.TempDir())
		wb, b, kb := gateway(t, t.TempDir())
		wb.set(func() { wb.down = true })
		if p := ask(t, b); p.State == Found {
			t.Fatalf("%+v", p)
		}
		expect(t, ask(t, a), Found, ModeEnforce, "1")
		synctest.Wait()
		if n := ka.give(kb); n != 1 {
			t.Errorf("%d records", n)
		}
		expect(t, ask(t, b), Found, ModeEnforce, "1")
		if n := kb.give(ka); n != 0 {
			t.Errorf("%d records come back", n)
		}
		// A process that is new, in whose directory there is nothing.
		_, c, kc := gateway(t, t.TempDir())
		kb.Offer()
		kb.give(kc)
		expect(t, ask(t, c), Found, ModeEnforce, "1")
		synctest.Wait()
		kc.give(kb)
	})
}

func TestThePolicyThatWasFetchedLaterStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wa, a, ka := gateway(t, t.TempDir())
		_, b, kb := gateway(t, t.TempDir())
		expect(t, ask(t, a), Found, ModeEnforce, "1")
		time.Sleep(time.Hour)
		expect(t, ask(t, b), Found, ModeEnforce, "1")
		synctest.Wait()
		late := b.entries[example].policy.Fetched
		ka.give(kb) // the older: b has to tell its own
		if n := kb.give(ka); n != 1 || !a.entries[example].policy.Fetched.Equal(late) || !b.entries[example].policy.Fetched.Equal(late) {
			t.Errorf("%d records, %v and %v", n, a.entries[example].policy.Fetched, b.entries[example].policy.Fetched)
		}
		time.Sleep(time.Hour)
		wa.set(func() { wa.records = []string{"v=STSv1; id=2;"} })
		if p, err := a.Fresh(context.Background(), example); err != nil || p.ID != "2" {
			t.Fatalf("%+v %v", p, err)
		}
		synctest.Wait()
		if n := ka.give(kb) + kb.give(ka); n != 1 || b.entries[example].policy.ID != "2" {
			t.Errorf("%d records, %+v", n, b.entries[example].policy)
		}
	})
}

func TestWhatIsNoPolicyOfItsDomainIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c, k := gateway(t, "")
		d, err := parsePolicy(policyOfSection3)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		good := encode(newPolicy(example, "1", d, now), now)
		old := encode(newPolicy(example, "1", d, now.Add(-30*24*time.Hour)), now)
		if n := k.Restore([]kept.Record{{Key: []byte("other.example"), Value: good}, {Key: []byte("../x"), Value: good}, {Key: []byte(example), Value: good[1:]},
			{Key: []byte(example)}, {}, {Key: []byte(example), Value: make([]byte, mostFile+1)}, {Key: []byte(example), Value: old}}, now); n != 6 || len(c.entries) != 0 {
			t.Errorf("%d damaged, %d entries", n, len(c.entries))
		}
		list := make([]kept.Record, 0, MostDomains+10)
		for i := range MostDomains + 10 {
			list = append(list, kept.Record{Key: []byte(domain(i)), Value: encode(newPolicy(domain(i), "1", d, now), now)})
		}
		if n := k.Restore(list, now); n != 0 || len(c.entries) != MostDomains {
			t.Errorf("%d damaged, %d entries", n, len(c.entries))
		}
		gone := 0
		for _, r := range k.Take(1 << 20).Records {
			if r.Value == nil {
				gone++
			}
		}
		if k.Written(false); gone != 10 || len(k.Take(1<<20).Records) != 10 {
			t.Errorf("%d were pushed out, and not again", gone)
		}
	})
}
