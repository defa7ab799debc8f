package mtasts

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestLookupsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		o := w.options("")
		o.TXT = func(ctx context.Context, _ string) ([]string, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		c, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Policy(gone, "nobody.example"); !errors.Is(err, context.Canceled) || len(c.flights) > 0 {
			t.Errorf("%v: %d lookups begun for one who does not wait", err, len(c.flights))
		}
		for i := range MostFlights {
			soon, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			if _, err := c.Policy(soon, domain(i)); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			cancel()
		}
		if p, err := c.Policy(t.Context(), example); !errors.Is(err, ErrBusy) || p.State != Unknown {
			t.Errorf("%+v, %v", p, err)
		}
		time.Sleep(FetchTimeout + time.Second)
		if _, err := c.Policy(gone, example); errors.Is(err, ErrBusy) {
			t.Error("still busy")
		}
	})
}

func domain(i int) string {
	return string([]byte{'a' + byte(i/676%26), 'a' + byte(i/26%26), 'a' + byte(i%26), 'a' + byte(i/17576%26)}) + ".example"
}

func TestDomainsWithoutAPolicyPushOutTheirLikeOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.cache(t.TempDir())
		ask(t, c)
		for i := range MostDomains + 10 {
			for _, name := range []string{domain(i), domain(0)} { // the first is asked for again and again
				if _, err := c.Policy(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
		}
		if len(c.entries) != MostDomains || c.holding.Len() != 1 || c.others.Len() != MostDomains-1 {
			t.Errorf("%d entries, %d with a policy, %d without", len(c.entries), c.holding.Len(), c.others.Len())
		}
		if c.entries[domain(1)] != nil || c.entries[domain(0)] == nil || c.entries[domain(MostDomains)] == nil {
			t.Error("not who was asked for longest ago went")
		}
		w.expect(1+MostDomains+10, 1) // the first was never gone
		w.set(func() { w.txtErr = errors.New("down") })
		expect(t, ask(t, c), Found, ModeEnforce, "1")
	})
}
