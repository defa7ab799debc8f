package mtasts

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const day = 24 * time.Hour

func TestAPolicyIsRefreshedDailyWhateverTheRecordSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.cache("")
		ask(t, c)
		w.set(func() { w.records = nil })
		go c.Run(t.Context())
		for range 100 * 24 {
			time.Sleep(time.Hour)
			expect(t, ask(t, c), Found, ModeEnforce, "1")
		}
		if n := w.counts()[1]; n < 100 || n > 135 {
			t.Errorf("%d requests in 100 days", n)
		}
		w.set(func() { w.policy = newPolicyText })
		time.Sleep(day + time.Hour)
		expect(t, ask(t, c), Found, ModeTesting, "1")
		w.expectReports()
	})
}

func TestARefreshThatFailsIsReportedAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.cache("")
		end := ask(t, c).Expires
		go c.Run(t.Context())
		w.set(func() { w.down = true })
		time.Sleep(2 * day)
		w.mu.Lock()
		n := len(w.reports)
		if n < 20 || n > 40 || w.reports[0] != "example.com: mta-sts: policy fetch: connection refused" {
			t.Errorf("%d reports: %q", n, w.reports)
		}
		w.mu.Unlock()
		p := ask(t, c)
		expect(t, p, Found, ModeEnforce, "1")
		if !p.Expires.Equal(end) || !errors.Is(p.Err, errDown) {
			t.Errorf("%+v", p)
		}
		w.set(func() { w.down = false })
		time.Sleep(2 * time.Hour)
		p = ask(t, c)
		expect(t, p, Found, ModeEnforce, "1")
		if p.Err != nil || !p.Expires.After(end) {
			t.Errorf("%+v", p)
		}
	})
}

func entries(c *Cache) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries)
}

func TestAPolicyThatNobodyAsksForLapses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		w := newWorld(t)
		c := w.cache(dir)
		ask(t, c)
		go c.Run(t.Context())
		time.Sleep(keptWithout)
		synctest.Wait()
		n := w.counts()[1]
		if entries(c) != 1 || n < 25 {
			t.Errorf("%d entries after %d requests", entries(c), n)
		}
		time.Sleep(9 * day)
		synctest.Wait()
		if got := w.counts()[1]; got > n+2 || entries(c) != 0 || len(names(t, dir)) != 0 {
			t.Errorf("%d requests more, %d entries and %q left", got-n, entries(c), names(t, dir))
		}
	})
}

func TestRefreshesAreFewAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const domains = 5 * refreshers
		var hosts []string
		for i := range domains {
			hosts = append(hosts, "mta-sts."+domain(i))
		}
		w := newWorld(t, hosts...)
		w.many = true
		dir := t.TempDir()
		c := w.cache(dir)
		for i := range domains {
			if p, err := c.Policy(t.Context(), domain(i)); err != nil || p.State != Found {
				t.Fatalf("%+v, %v", p, err)
			}
		}
		w.expect(domains, domains)
		synctest.Wait()
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * day) // Postern was off
		w.set(func() { w.most, w.wait = 0, make(chan struct{}) })
		c = w.cache(dir)
		go c.Run(t.Context())
		synctest.Wait()
		if w.set(func() {}); w.most != refreshers {
			t.Errorf("%d at a time", w.most)
		}
		close(w.wait)
		time.Sleep(runEvery)
		synctest.Wait()
		if n := w.counts()[1]; n != 2*domains || w.most != refreshers {
			t.Errorf("%d requests, %d at a time", n, w.most)
		}
		if n := len(names(t, dir)); n != domains {
			t.Errorf("%d files", n)
		}
	})
}

func TestRefreshesAreSpread(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 100 {
		p := Policy{MaxAge: 7 * day, Fetched: always}
		d := refreshAt(p).Sub(always)
		if d > day || d <= day*3/4 {
			t.Errorf("%v", d)
		}
		seen[d] = true
		if p.MaxAge = 2 * time.Hour; refreshAt(p).Sub(always) > time.Hour {
			t.Error("later than half of its life")
		}
	}
	if len(seen) < 90 {
		t.Errorf("%d different times of 100", len(seen))
	}
	var waits []time.Duration
	for n := 1; n < 100; n++ {
		waits = append(waits, backoff(n))
	}
	if waits[0] < lookAgain || slices.Max(waits) > mostBackoff*11/10 || waits[98] < mostBackoff {
		t.Errorf("%v", waits)
	}
}

func TestAPolicyRefreshedIsStoredAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		w := newWorld(t)
		c := w.cache(dir)
		ask(t, c)
		go c.Run(t.Context())
		time.Sleep(6 * day)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		w.set(func() { w.down, w.records = true, nil })
		time.Sleep(5 * day) // beyond the first max_age
		expect(t, ask(t, w.cache(dir)), Found, ModeEnforce, "1")
		if !strings.Contains(file(t, dir, example), `"asked": "2000-01-01T`) {
			t.Error(file(t, dir, example))
		}
	})
}
