package mtasts

import (
	"bytes"
	"errors"
	"time"

	"postern/enforce/kept"
)

// policies are a Cache's as a Keeper sees them: each domain's as it stands in a
// file. Of two the one that was fetched later stands. Where nothing holds, nothing
// is told, so that nobody's failed fetch ends another's policy.
//
// What others fetched is not written into files: the Keeper has it.
type policies struct{ *Cache }

// changed are the domains whose policy is not kept yet as it is here.
type changed struct{ noted, taken map[string]struct{} }

// note is called with the lock held. What was pushed out is not noted without end.
func (c *Cache) note(domain string) {
	if c.options.Keeper == nil || len(c.changed.noted) > 2*MostDomains {
		return
	}
	if c.changed.noted == nil {
		c.changed.noted = map[string]struct{}{}
	}
	c.changed.noted[domain] = struct{}{}
}

func (p policies) Kind() string { return "policies" }
func (p policies) Most() int    { return MostDomains }

func (p policies) Restore(list []kept.Record, now time.Time) (damaged int) {
	for _, r := range list {
		domain := string(r.Key)
		if !isDomain(domain) || len(r.Value) > mostFile {
			damaged++
			continue
		}
		got, asked, err := readStored(r.Value, domain, now)
		if errors.Is(err, errExpired) {
			continue
		}
		if err != nil {
			damaged++
			continue
		}
		p.read(domain)
		p.join(got, asked)
	}
	return damaged
}

// join takes in what another gateway fetched.
func (p policies) join(got Policy, asked time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.entries[got.Domain]
	if e == nil {
		e = &entry{domain: got.Domain}
	}
	if e.policy.State == Found {
		later := e.policy.Fetched.Compare(got.Fetched)
		if later == 0 { // the same, or nearly impossible
			later = bytes.Compare(encode(e.policy, time.Time{}), encode(got, time.Time{}))
		}
		if later > 0 {
			p.note(got.Domain)
			return
		}
		if later == 0 {
			delete(p.changed.noted, got.Domain)
			return
		}
	}
	e.policy, e.last, e.err, e.refresh = got, Found, nil, refreshAt(got)
	e.failedID, e.failures, e.retry = "", 0, time.Time{}
	if asked.After(e.asked) {
		e.asked = asked
	}
	p.settle(e)
	delete(p.changed.noted, got.Domain)
}

func (p policies) Offer() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for domain, e := range p.entries {
		if e.policy.State == Found {
			p.note(domain)
		}
	}
}

func (p policies) Rewrite() { p.Offer() } // nothing besides is ever in the way

func (p policies) Unwritten() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.changed.noted) > 0
}

func (p policies) Take(most int) (b kept.Batch) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changed.taken = map[string]struct{}{}
	for domain := range p.changed.noted {
		if len(p.changed.taken) == most {
			break
		}
		delete(p.changed.noted, domain)
		p.changed.taken[domain] = struct{}{}
		switch e := p.entries[domain]; {
		case e == nil:
			b.Records = append(b.Records, kept.Record{Key: []byte(domain)})
		case e.holds(now):
			b.Records = append(b.Records, kept.Record{Key: []byte(domain), Value: encode(e.policy, e.asked), Until: e.policy.Expires})
		}
	}
	return b
}

func (p policies) Written(ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !ok {
		for domain := range p.changed.taken {
			p.note(domain)
		}
	}
	p.changed.taken = nil
}

func (p policies) Forget(string)  {} // what is published is not learnt of sessions
func (p policies) Tidy(time.Time) {} // Run does
