package mtasts

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const newPolicyText = "version: STSv1\nmode: testing\nmx: new.example.com\nmax_age: 604800\n"

// expect compares what can be known beforehand.
func expect(t testing.TB, got Policy, state State, mode Mode, id string) {
	t.Helper()
	if got.Domain != example || got.State != state || got.Mode != mode || got.ID != id {
		t.Errorf("%+v, want %v %q %q", got, state, mode, id)
	}
}

func TestAPolicyIsFetchedOnceAndKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1") // is not asked
		w := newWorld(t)
		c := w.cache("")
		p := ask(t, c)
		expect(t, p, Found, ModeEnforce, "1")
		if !p.MatchMX("a.example.net") || p.MaxAge != 7*24*time.Hour || !p.Fetched.Equal(time.Now()) || p.Expires.Sub(p.Fetched) != p.MaxAge || p.Err != nil || p.Detail != "" {
			t.Errorf("%+v", p)
		}
		p.MX[0] = "changed.example" // by a caller, in vain
		time.Sleep(lookAgain - 1)
		if p = ask(t, c); p.MX[0] != "mail.example.com" {
			t.Error("a caller changed it")
		}
		w.expect(1, 1)
		until(t, c, 1)
		w.expect(2, 1)
	})
}

func TestANewIDFetchesTheNewPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.cache("")
		ask(t, c)
		w.set(func() { w.records, w.policy = []string{"v=STSv1; id=2"}, newPolicyText })
		time.Sleep(lookAgain)
		expect(t, ask(t, c), Found, ModeEnforce, "1") // at once, while it is looked behind
		synctest.Wait()
		p := ask(t, c)
		expect(t, p, Found, ModeTesting, "2")
		if p.MatchMX("mail.example.com") {
			t.Error("the old hosts hold")
		}
		w.expect(2, 2)
	})
}

func TestFreshWaitsForALookAtTheRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.cache("")
		ask(t, c)
		w.set(func() { w.records, w.policy = []string{"v=STSv1; id=2"}, newPolicyText })
		p, err := c.Fresh(t.Context(), example)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, p, Found, ModeEnforce, "1") // looked at just now
		time.Sleep(lookFresh)
		if p, err = c.Fresh(t.Context(), example); err != nil {
			t.Fatal(err)
		}
		expect(t, p, Found, ModeTesting, "2")
		time.Sleep(lookFresh)
		w.set(func() { w.records, w.wait = []string{"v=STSv1; id=3"}, make(chan struct{}) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		p, err = c.Fresh(ctx, example)
		expect(t, p, Found, ModeTesting, "2")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
}

func TestACachedPolicyHoldsWhileFetchesFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.cache("")
		end := ask(t, c).Expires
		w.set(func() { w.records, w.status = []string{"v=STSv1; id=2"}, 500 })
		p := until(t, c, lookAgain)
		expect(t, p, Found, ModeEnforce, "1")
		if !errors.Is(p.Err, ErrFetch) || p.Detail != "mta-sts: policy fetch: HTTP status 500" || !p.Expires.Equal(end) {
			t.Errorf("%+v", p)
		}
		w.expect(2, 2)
		w.expectReports("example.com: mta-sts: policy fetch: HTTP status 500")
		w.set(func() { w.status, w.policy = 200, "no policy" })
		p = until(t, c, time.Hour)
		expect(t, p, Found, ModeEnforce, "1")
		if !errors.Is(p.Err, ErrInvalid) {
			t.Errorf("%+v", p)
		}
		w.expect(3, 3)
		time.Sleep(time.Until(end) - 1)
		expect(t, ask(t, c), Found, ModeEnforce, "1")
		synctest.Wait()
		time.Sleep(time.Nanosecond)
		p = ask(t, c) // it has run out, and what replaces it is none
		expect(t, p, Invalid, "", "")
		if p.MatchMX("mail.example.com") || !errors.Is(p.Err, ErrInvalid) {
			t.Errorf("%+v", p)
		}
	})
}

func TestAServerThatFailsIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.cache("")
		w.set(func() { w.status = 404 })
		p := ask(t, c)
		expect(t, p, FetchFailed, "", "")
		if !errors.Is(p.Err, ErrFetch) || p.Detail != "mta-sts: policy fetch: HTTP status 404" {
			t.Errorf("%+v", p)
		}
		for range 10 * 60 { // a session a second for ten minutes
			time.Sleep(time.Second)
			expect(t, ask(t, c), FetchFailed, "", "")
		}
		if n := w.counts()[1]; n > 3 {
			t.Errorf("%d requests in ten minutes", n)
		}
		for range 24 * 60 {
			time.Sleep(time.Minute)
			ask(t, c)
		}
		if n := w.counts()[1]; n < 20 || n > 35 {
			t.Errorf("%d requests in a day", n)
		}
		before := w.counts()[1]
		w.set(func() { w.records, w.status = []string{"v=STSv1; id=2"}, 200 }) // a new version has not failed yet
		time.Sleep(lookAgain)
		expect(t, ask(t, c), Found, ModeEnforce, "2")
		w.expectReports() // there was nothing to lose
		if n := w.counts()[1]; n != before+1 {
			t.Errorf("%d requests", n-before)
		}
	})
}

func TestWhatDNSSaysNeitherMakesNorEndsAPolicy(t *testing.T) {
	cause := errors.New("servfail")
	for _, c := range []struct {
		name   string
		change func(*world)
	}{
		{"the record vanishes", func(w *world) { w.records = nil }},
		{"there are two", func(w *world) { w.records = []string{"v=STSv1; id=1", "v=STSv1; id=2"} }},
		{"it is broken", func(w *world) { w.records = []string{"v=STSv1; id=?"} }},
		{"it does not exist", func(w *world) { w.txtErr = &net.DNSError{IsNotFound: true} }},
		{"it can't be looked up", func(w *world) { w.txtErr = cause }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				cached, empty := w.cache(""), w.cache("")
				end := ask(t, cached).Expires
				w.set(func() { c.change(w) })
				expect(t, until(t, cached, lookAgain), Found, ModeEnforce, "1")
				time.Sleep(time.Until(end) - 1)
				expect(t, ask(t, cached), Found, ModeEnforce, "1")
				synctest.Wait()
				time.Sleep(time.Nanosecond)
				for _, c := range []*Cache{cached, empty} {
					p := ask(t, c)
					if errors.Is(w.txtErr, cause) {
						expect(t, p, FetchFailed, "", "")
						if !errors.Is(p.Err, ErrLookup) || !errors.Is(p.Err, cause) || errors.Is(p.Err, ErrFetch) || p.Detail != "mta-sts: txt record: servfail" {
							t.Errorf("%+v", p)
						}
					} else if expect(t, p, NoPolicy, "", ""); p.Err != nil {
						t.Errorf("%+v", p)
					}
				}
				if n := w.counts()[1]; n != 1 {
					t.Errorf("%d requests", n)
				}
			})
		})
	}
}

func TestALookupThatFailedIsSoonTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.cache("")
		w.txtErr = errors.New("timeout")
		ask(t, c)
		ask(t, c)
		w.expect(1, 0)
		w.set(func() { w.txtErr = nil })
		time.Sleep(lookAgainSoon)
		expect(t, ask(t, c), Found, ModeEnforce, "1")
	})
}

func TestThatThereIsNoPolicyIsKeptForMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.cache("")
		w.records = nil
		ask(t, c)
		time.Sleep(lookAgain - 1)
		expect(t, ask(t, c), NoPolicy, "", "")
		w.expect(1, 0)
		w.set(func() { w.records = []string{"v=STSv1; id=1"} })
		time.Sleep(time.Nanosecond)
		expect(t, ask(t, c), Found, ModeEnforce, "1")
	})
}

func TestModeNoneTakesThePolicyAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.cache("")
		ask(t, c)
		w.set(func() {
			w.records, w.policy = []string{"v=STSv1; id=2"}, "version: STSv1\nmode: none\nmax_age: 86400\n"
		})
		expect(t, until(t, c, lookAgain), Found, ModeNone, "2")
		w.set(func() { w.records, w.down = nil, true }) // RFC 8461 §8.3, step 3
		expect(t, until(t, c, time.Hour), Found, ModeNone, "2")
		go c.Run(t.Context())
		time.Sleep(48 * time.Hour)
		expect(t, ask(t, c), NoPolicy, "", "")
		w.expectReports() // nobody is alarmed
	})
}

func TestAPolicyWithoutALifeIsNotFetchedByEverySession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.cache("")
		w.policy = strings.Replace(policyOfSection3, "604800", "0", 1)
		go c.Run(t.Context())
		for range 10 * 60 {
			expect(t, ask(t, c), Found, ModeEnforce, "1")
			time.Sleep(time.Second)
		}
		if n := w.counts()[1]; n != 2 {
			t.Errorf("%d requests in ten minutes", n)
		}
	})
}

func TestSessionsShareOneLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.cache("")
		w.wait = make(chan struct{})
		var sessions sync.WaitGroup
		for range 100 {
			sessions.Go(func() { expect(t, ask(t, c), Found, ModeEnforce, "1") })
		}
		synctest.Wait()
		close(w.wait)
		sessions.Wait()
		w.expect(1, 1)
	})
}

func TestWhoStopsWaitingLeavesTheFetchToLand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.cache("")
		w.wait = make(chan struct{})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		began := time.Now()
		p, err := c.Policy(ctx, example)
		if !errors.Is(err, context.DeadlineExceeded) || p.State != Unknown || time.Since(began) != 5*time.Second {
			t.Errorf("%+v, %v after %v", p, err, time.Since(began))
		}
		close(w.wait)
		synctest.Wait()
		expect(t, ask(t, c), Found, ModeEnforce, "1")
		w.expect(1, 1)
	})
}

func TestAFetchEndsAfterAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.cache("")
		w.wait = make(chan struct{})
		began := time.Now()
		p := ask(t, c)
		expect(t, p, FetchFailed, "", "")
		if !errors.Is(p.Err, context.DeadlineExceeded) || time.Since(began) != FetchTimeout {
			t.Errorf("%+v after %v", p, time.Since(began))
		}
	})
}

func TestACloseEndsWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.cache(t.TempDir())
		ask(t, c)
		ran := make(chan struct{})
		go func() {
			defer close(ran)
			c.Run(t.Context())
		}()
		w.set(func() { w.records, w.wait = []string{"v=STSv1; id=2"}, make(chan struct{}) })
		time.Sleep(lookAgain)
		answered := make(chan error)
		go func() {
			_, err := c.Fresh(t.Context(), example)
			answered <- err
		}()
		synctest.Wait()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := <-answered; !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		<-ran
		time.Sleep(time.Hour)
		expect(t, ask(t, c), Found, ModeEnforce, "1")
		if _, err := c.Policy(t.Context(), "other.example"); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		w.expectReports()
	})
}

func TestANameThatIsNoneIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newWorld(t).cache(t.TempDir())
		for _, name := range []string{"", "../../etc/passwd", "Example.com", "example.com.", "a/b", "[192.0.2.1]"} {
			if _, err := c.Policy(t.Context(), name); !errors.Is(err, ErrDomain) {
				t.Errorf("%q: %v", name, err)
			}
		}
	})
}

func TestWhatIsRecalledNeitherWaitsNorBeginsAnything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		w := newWorld(t)
		c := w.cache(dir)
		recalled := func(what string, c *Cache, want bool) {
			t.Helper()
			known := w.counts()
			p, ok := c.Recall(example)
			if ok != want || ok && p.State != Found {
				t.Errorf("%s: %v, %+v", what, ok, p)
			}
			synctest.Wait()
			w.expect(known[0], known[1])
		}
		recalled("nothing", c, false)
		ask(t, c)
		recalled("a policy", c, true)
		if _, ok := c.Recall("no domain"); ok {
			t.Error("what is no domain is known")
		}
		time.Sleep(lookAgain)
		recalled("a policy that is due to be looked at", c, false)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		again := w.cache(dir)
		recalled("a policy on disk", again, false)
		ask(t, again)
		time.Sleep(time.Second)
		recalled("one that was read", again, true)
	})
}
