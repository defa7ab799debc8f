package memory

import (
	"container/list"
	"net/netip"
	"sync"
)

// A class says how well an entry is founded. Each has its own room: however many
// entries of one class there are, none of another is pushed out.
type class uint8

const (
	tentative class = iota // does not bind yet
	repeated               // binds, and never verified
	verified
	classes
)

// The room of each class, in parts of a table's; together one table.
var parts = [classes]int{tentative: 4, repeated: 4, verified: 2}

// A share is what one source of entries has of a class's room: an address or
// block that keys lie in, a domain that they lie below, or a client.
type share struct {
	network netip.Prefix
	below   string
}

// A bound is a share of which there are at most so many entries in a class.
type bound struct {
	share
	most int
}

// A table keeps what was seen under keys, bounded. Its methods may be called by
// any number of sessions at once.
type table[K comparable] struct {
	bounds func(k K, most int) []bound // of a class that has room for most
	encode func(K) []byte

	mu      sync.RWMutex
	entries map[K]*entry[K]
	rooms   [classes]room
	changed changes[K]
}

type room struct {
	most   int
	all    list.List // the longest unseen first
	shares map[share]*list.List
}

type entry[K comparable] struct {
	seen
	key    K
	class  class
	places []place // in the lists of its class
}

type place struct {
	share   share // zero: that of all
	of      *list.List
	element *list.Element
}

func (t *table[K]) init(entries int) {
	t.entries = make(map[K]*entry[K])
	for c := range t.rooms {
		t.rooms[c].most = max(1, entries/parts[c])
		t.rooms[c].shares = make(map[share]*list.List)
	}
	t.changed.most = 2 * entries
}

// learn takes one session into account.
func (t *table[K]) learn(k K, o *Observation, remember int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[k]
	if e == nil {
		e = &entry[K]{key: k, class: classes}
		t.entries[k] = e
	}
	e.learn(o, remember)
	t.settle(e, o.At.Unix(), remember)
	t.changed.note(k)
}

// miss counts a session without TLS. It does not even renew the entry's place,
// and of what is not known nothing is noted.
func (t *table[K]) miss(k K, at int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.entries[k]; e != nil {
		e.miss(at)
		t.changed.note(k)
	}
}

func (t *table[K]) recall(k K, now, remember int64) (Known, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	e := t.entries[k]
	if e == nil {
		return Known{}, false
	}
	return e.known(now, remember)
}

// restore joins what is kept. Entries come in the order of their last session. What
// was not seen since keeps its place: who has it written again renews nothing.
func (t *table[K]) restore(k K, s seen, now, remember int64) {
	for i := range s.sightings { // a clock that was ahead must not make it last for ever
		c := &s.sightings[i]
		c.first, c.last, c.counted = min(c.first, now), min(c.last, now), min(c.counted, now)
	}
	s = seen{}.joined(s) // as it is after any other joining
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[k]
	if e == nil {
		e = &entry[K]{key: k, class: classes}
		t.entries[k] = e
	}
	last := e.last()
	e.seen = e.seen.joined(s)
	if e.seen.equal(s) {
		t.changed.settled(k)
	} else {
		t.changed.note(k)
	}
	e.expire(now, remember)
	if e.class == classes || e.last() > last || e.classAt(now, remember) != e.class {
		t.settle(e, now, remember)
	}
}

// settle puts e last in the lists of the class that it is of now, or takes it out
// when there is nothing left of it.
func (t *table[K]) settle(e *entry[K], now, remember int64) {
	c := e.classAt(now, remember)
	if c == e.class && c != classes {
		for _, p := range e.places {
			p.of.MoveToBack(p.element)
		}
		return
	}
	t.unlist(e)
	if e.class = c; c == classes {
		t.remove(e)
		return
	}
	r := &t.rooms[c]
	for _, b := range t.bounds(e.key, r.most) {
		of := r.shares[b.share]
		for of != nil && of.Len() >= max(1, b.most) {
			t.remove(of.Front().Value.(*entry[K]))
			of = r.shares[b.share] // gone with its last
		}
		if of == nil {
			of = list.New()
			r.shares[b.share] = of
		}
		e.places = append(e.places, place{b.share, of, of.PushBack(e)})
	}
	for r.all.Len() >= r.most {
		t.remove(r.all.Front().Value.(*entry[K]))
	}
	e.places = append(e.places, place{share{}, &r.all, r.all.PushBack(e)})
}

// classAt is classes where nothing is left.
func (e *entry[K]) classAt(now, remember int64) class {
	c := classes
	for i := range e.sightings {
		s := &e.sightings[i]
		switch {
		case now-s.last >= remember:
		case s.verified:
			return verified
		case s.binds():
			c = repeated
		case c == classes:
			c = tentative
		}
	}
	return c
}

func (t *table[K]) unlist(e *entry[K]) {
	for _, p := range e.places {
		p.of.Remove(p.element)
		if p.of.Len() == 0 && p.share != (share{}) {
			delete(t.rooms[e.class].shares, p.share)
		}
	}
	e.places = nil
}

func (t *table[K]) remove(e *entry[K]) {
	t.unlist(e)
	delete(t.entries, e.key)
	t.changed.note(e.key)
}

// sweep takes out what has run out, as far as it stands in front; what does not
// is passed over by recall until then.
func (t *table[K]) sweep(now, remember int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for c := range t.rooms {
		all := &t.rooms[c].all
		for n := all.Len(); n > 0; n-- {
			e := all.Front().Value.(*entry[K])
			if e.classAt(now, remember) == e.class {
				break
			}
			e.expire(now, remember)
			t.settle(e, now, remember)
			t.changed.note(e.key)
		}
	}
}

// forget takes out every entry whose key matches.
func (t *table[K]) forget(matches func(K) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, e := range t.entries {
		if matches(k) {
			t.remove(e)
		}
	}
}

func (t *table[K]) len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.entries)
}
