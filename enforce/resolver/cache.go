package resolver

import (
	"container/list"
	"sync"
	"time"

	"github.com/miekg/dns"
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

// ofEach is how many octets there are for an entry, on average: who chooses a
// recipient's domain chooses whose zones are asked, and so how much comes.
const ofEach = 1024

// A cache keeps answers; the one that was asked for longest ago goes first.
type cache struct {
	mu      sync.Mutex
	most    int // entries
	octets  int // of those there are, about
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
		c.remove(at)
		return nil
	}
	c.order.MoveToFront(at)
	return e.answer
}

func (c *cache) keep(q question, a *answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at := c.entries[q]; at != nil {
		c.remove(at)
	}
	size := a.size()
	for len(c.entries) > 0 && (len(c.entries) >= c.most || c.octets+size > c.most*ofEach) {
		c.remove(c.order.Back())
	}
	c.octets += size
	c.entries[q] = c.order.PushFront(&entry{q, a})
}

func (c *cache) remove(at *list.Element) {
	e := c.order.Remove(at).(*entry)
	c.octets -= e.size()
	delete(c.entries, e.question)
}

// size is about how many octets an answer takes.
func (a *answer) size() int {
	n := 256
	for _, rr := range a.records {
		n += 128 + dns.Len(rr)
	}
	for _, name := range a.aliases {
		n += len(name)
	}
	return n
}
