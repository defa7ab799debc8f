package mtasts

import (
	"context"
	"sync"
	"time"
)

// How Run goes about it.
const (
	runEvery    = time.Minute
	refreshers  = 16                  // fetches at a time
	keptWithout = 30 * 24 * time.Hour // being asked for; after that a policy lapses at its max_age
)

// Run fetches policies anew ahead of their end, once a day or after half of a
// shorter max_age, regardless of the TXT record: who wants one forgotten has to
// foil every attempt for the whole of max_age (RFC 8461 §10.2). It also removes
// those that have run out. Policies of domains that nobody asked for in 30 days are
// left to lapse. Run reads what is on disk first, and returns when ctx ends or the
// Cache is closed.
func (c *Cache) Run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()

	due := make(chan string)
	var workers sync.WaitGroup
	defer workers.Wait()
	defer close(due)
	for range refreshers {
		workers.Go(func() {
			for domain := range due {
				c.refresh(ctx, domain)
			}
		})
	}
	for _, domain := range c.unread() {
		if ctx.Err() != nil {
			return
		}
		c.read(domain)
	}
	tick := time.NewTicker(runEvery)
	defer tick.Stop()
	for {
		for _, domain := range c.tidy(time.Now()) {
			select {
			case due <- domain:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (c *Cache) refresh(ctx context.Context, domain string) {
	c.mu.Lock()
	e := c.entries[domain]
	if e == nil || !e.wantsRefresh(time.Now()) { // pushed out, or fetched while it waited its turn
		c.mu.Unlock()
		return
	}
	f, err := c.begin(domain, true)
	c.mu.Unlock()
	if err != nil {
		return // the next round tries again
	}
	select {
	case <-f.done:
	case <-ctx.Done():
	}
}

func (c *Cache) unread() (domains []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries {
		if e.unread {
			domains = append(domains, e.domain)
		}
	}
	return domains
}

// tidy drops what has run out and gives the domains that want a refresh, in no
// order: none can put itself before the others.
func (c *Cache) tidy(now time.Time) (due []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries {
		switch {
		case e.policy.State == Found && !e.holds(now):
			c.drop(e)
		case e.wantsRefresh(now):
			due = append(due, e.domain)
		}
	}
	return due
}

func (e *entry) wantsRefresh(now time.Time) bool {
	return e.holds(now) && !now.Before(e.refresh) && !now.Before(e.retry) && now.Sub(e.asked) < keptWithout
}
