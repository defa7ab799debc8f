package resolver

import (
	"container/list"
	"sync"
	"time"
)

// How long an answer is kept at most: of records, of that there are none
// (RFC 2308 §5 counsels one to three hours; mail should not wait that long for a
// record that was forgotten), and of a failure (RFC 2308 §7: at most five
// minutes).
const (
	mostPositive = 24 * time.Hour
	mostNegative = 15 * time.Minute
	failureKept  = 5 * time.Second
	leastKept    = time.Second // a TTL of 0 is for this transaction only (RFC 1035 §3.2.1), of which there are many at once
)

// A cache keeps answers; the one that was asked for longest ago goes first.
type cache struct {
	mu      sync.Mutex
	most    int
	entries map[question]*list.Element
	order   list.List // of *entry, the latest in front
}

type entry struct {
	question
	*answer
}

func newCache(most int) *cache {
	return &cache{most: most, entries: make(map[question]*list.Element)}
}

func (c *cache) find(q question, now time.Time) *answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.entries[q]
	if at == nil {
		return nil
	}
	e := at.Value.(*entry)
	if !now.Before(e.expires) {
		c.order.Remove(at)
		delete(c.entries, q)
		return nil
	}
	c.order.MoveToFront(at)
	return e.answer
}

func (c *cache) keep(q question, a *answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at := c.entries[q]; at != nil {
		at.Value = &entry{q, a}
		c.order.MoveToFront(at)
		return
	}
	for len(c.entries) >= c.most {
		last := c.order.Back()
		c.order.Remove(last)
		delete(c.entries, last.Value.(*entry).question)
	}
	c.entries[q] = c.order.PushFront(&entry{q, a})
}
