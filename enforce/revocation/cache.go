package revocation

import (
	"container/list"
	"sync"
	"time"
)

// kept is one thing in the cache: what is known of a certificate, or a revocation
// list, or why that could not be had.
type kept struct {
	key
	result Result
	this   time.Time // as of when the answer or the list holds; zero for none
	crl    *crl
	fault  error
	until  time.Time // it counts so long,
	renew  time.Time // and from then on is asked for again, ahead of its end
}

// How long things are kept.
const (
	// keepMost is how long an answer is kept that would hold longer: whoever
	// revokes a certificate wants it known within a day.
	keepMost = 24 * time.Hour
	// keepFault is how long a question that was not answered is not asked again.
	keepFault = 5 * time.Minute
)

// keepUntil gives the end of an answer, and when it is to be renewed: when three
// quarters of the time are over.
func keepUntil(next, now time.Time) (until, renew time.Time) {
	until = now.Add(keepMost)
	if next.Before(until) {
		until = next
	}
	return until, now.Add(until.Sub(now) * 3 / 4)
}

// smallest is what anything in the cache takes besides a list's entries, octets:
// the words of a result, the keys and the pointers.
const smallest = 1024

func (k *kept) size() int {
	if k.crl == nil {
		return smallest
	}
	return smallest + k.crl.size()
}

// A cache forgets what was unused longest. Its bounds are entries and octets.
type cache struct {
	entries, octets int

	mu   sync.Mutex
	at   map[key]*list.Element
	used list.List // the longest unused first
	size int
}

func newCache(entries, octets int) *cache {
	return &cache{entries: entries, octets: octets, at: make(map[key]*list.Element)}
}

// find gives what is there and still counts.
func (c *cache) find(k key, now time.Time) *kept {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.at[k]
	if e == nil {
		return nil
	}
	found := e.Value.(*kept)
	if !now.Before(found.until) {
		c.remove(e)
		return nil
	}
	c.used.MoveToBack(e)
	return found
}

// put keeps k in the place of what is there under its key, and gives what counts
// now. An answer that still holds is not replaced by the news that there is none,
// nor by an older one, which whoever stands between may have kept; it is asked for
// again a little later. What is larger than the whole cache is not kept.
func (c *cache) put(k *kept, now time.Time) *kept {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.at[k.key]; e != nil {
		if old := e.Value.(*kept); now.Before(old.until) && k.this.Before(old.this) {
			again := *old
			again.renew = now.Add(keepFault)
			k = &again
		}
		c.remove(e)
	}
	if k.size() > c.octets {
		return k
	}
	for c.used.Len() > 0 && (c.used.Len() >= c.entries || c.size+k.size() > c.octets) {
		c.remove(c.used.Front())
	}
	c.at[k.key] = c.used.PushBack(k)
	c.size += k.size()
	return k
}

func (c *cache) remove(e *list.Element) {
	k := c.used.Remove(e).(*kept)
	delete(c.at, k.key)
	c.size -= k.size()
}
