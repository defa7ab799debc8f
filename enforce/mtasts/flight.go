package mtasts

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// How often a fetch that fails is tried again: lookAgain, doubling.
const mostBackoff = time.Hour

// When a policy is fetched anew ahead of its end: once a day (RFC 8461 §3.3), or
// after half of a shorter life.
const (
	mostRefresh  = 24 * time.Hour
	leastRefresh = 30 * time.Minute
)

// A flight is one look at a domain, which any number of sessions wait for. answer
// and err are there when done is closed.
type flight struct {
	done   chan struct{}
	answer Policy
	err    error
}

// An outcome is what a look found.
type outcome struct {
	state  State
	id     string
	policy *Policy // fetched just now
	failed bool    // a fetch was tried and failed
	err    error
}

// begin starts a look at domain, or gives the one under way. refresh is one that
// fetches the policy whatever the TXT record says. The lock is held.
func (c *Cache) begin(domain string, refresh bool) (*flight, error) {
	if f := c.flights[domain]; f != nil {
		return f, nil
	}
	if c.ctx.Err() != nil {
		return nil, ErrClosed
	}
	if len(c.flights) >= MostFlights && !refresh { // of those there are few, and policies hang on them
		return nil, ErrBusy
	}
	f := &flight{done: make(chan struct{})}
	c.flights[domain] = f
	var had entry
	if e := c.entries[domain]; e != nil {
		had = *e
	}
	c.flying.Go(func() { c.fly(f, domain, had, refresh) })
	return f, nil
}

// fly looks and lands. It belongs to no session: one that stops waiting changes
// nothing.
func (c *Cache) fly(f *flight, domain string, had entry, refresh bool) {
	ctx, cancel := context.WithTimeout(c.ctx, FetchTimeout)
	defer cancel()
	out := c.look(ctx, domain, had, refresh)

	c.mu.Lock()
	if c.ctx.Err() != nil { // what failed did so because of Close
		f.err = ErrClosed
		delete(c.flights, domain)
		close(f.done)
		c.mu.Unlock()
		return
	}
	e := c.land(domain, out, time.Now())
	f.answer = e.answer(time.Now())
	alarming := out.failed && f.answer.State == Found && f.answer.Mode != ModeNone
	asked := e.asked
	close(f.done) // nobody waits for the disk
	c.mu.Unlock()

	if alarming {
		c.report(domain, out.err)
	}
	if out.policy != nil {
		c.keep(*out.policy, asked)
	}
	c.mu.Lock()
	delete(c.flights, domain) // only now: no two write the same file
	c.mu.Unlock()
}

// look asks DNS, and the policy host where that is called for. had is what was known
// before.
func (c *Cache) look(ctx context.Context, domain string, had entry, refresh bool) outcome {
	id, err := c.lookup(ctx, domain)
	now := time.Now()
	holds := had.holds(now)
	switch {
	case refresh: // RFC 8461 §10.2: regardless of the record
		if id == "" {
			id = had.policy.ID
		}
	case err != nil:
		return outcome{state: FetchFailed, err: err}
	case id == "":
		return outcome{state: NoPolicy}
	case holds && id == had.policy.ID:
		return outcome{state: Found, id: id}
	case id == had.failedID && now.Before(had.retry):
		return outcome{state: had.last, id: id, err: had.err}
	}
	d, err := c.fetch(ctx, domain)
	if err != nil {
		state := FetchFailed
		if errors.Is(err, ErrInvalid) {
			state = Invalid
		}
		return outcome{state: state, id: id, failed: true, err: err}
	}
	p := newPolicy(domain, id, d, time.Now())
	return outcome{state: Found, id: id, policy: &p}
}

func newPolicy(domain, id string, d document, now time.Time) Policy {
	now = now.UTC().Round(0) // by the wall clock, as it is on disk
	return Policy{Domain: domain, State: Found, Mode: d.mode, MX: d.mx, ID: id, MaxAge: d.maxAge,
		Fetched: now, Expires: now.Add(life(d.maxAge))}
}

// life is how long a policy holds. One that says less than the time between two
// looks would have every session fetch it.
func life(maxAge time.Duration) time.Duration { return max(maxAge, lookAgain) }

// land enters what was found. The lock is held.
func (c *Cache) land(domain string, out outcome, now time.Time) *entry {
	e := c.entries[domain]
	if e == nil {
		e = &entry{domain: domain, asked: now}
	}
	if out.policy != nil {
		e.policy = *out.policy
		e.refresh = refreshAt(e.policy)
		e.failedID, e.failures, e.retry = "", 0, time.Time{}
		c.note(domain)
	}
	if out.failed {
		e.failures++
		e.failedID, e.retry = out.id, now.Add(backoff(e.failures))
	}
	if e.policy.State == Found && !e.holds(now) {
		e.policy = Policy{}
		c.unlink(e)
	}
	e.last, e.err = out.state, out.err
	e.looked, e.next = now, now.Add(lookAgain)
	if errors.Is(out.err, ErrLookup) && !e.holds(now) {
		e.next = now.Add(lookAgainSoon)
	}
	c.settle(e)
	return e
}

// backoff is the time from the nth failed fetch in a row to the next, with up to a
// tenth more so that domains on one server don't come back together.
func backoff(n int) time.Duration {
	d := lookAgain
	for range n - 1 {
		if d = min(2*d, mostBackoff); d == mostBackoff {
			break
		}
	}
	return d + rand.N(d/10)
}

// refreshAt is when p is fetched anew, up to a quarter of the time earlier, so that
// what was fetched together is not refreshed together.
func refreshAt(p Policy) time.Time {
	d := min(max(life(p.MaxAge)/2, leastRefresh), mostRefresh)
	return p.Fetched.Add(d - rand.N(d/4))
}
