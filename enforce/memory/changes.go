package memory

import (
	"cmp"
	"slices"
	"time"

	"postern/enforce/kept"
)

// changes are the keys that are not kept yet as they are here. Where they would be
// too many, everything is written anew.
type changes[K comparable] struct {
	kept  bool // by a Keeper; otherwise nothing is noted
	most  int
	whole bool
	keys  map[K]struct{}

	// What was taken, until it is known to be written.
	taken      map[K]struct{}
	takenWhole bool
}

func (c *changes[K]) note(k K) {
	if !c.kept || c.whole {
		return
	}
	if len(c.keys) >= c.most {
		c.all()
		return
	}
	if c.keys == nil {
		c.keys = make(map[K]struct{})
	}
	c.keys[k] = struct{}{}
}

// settled: k is kept as it is here.
func (c *changes[K]) settled(k K) { delete(c.keys, k) }

// all has the next batch be whole.
func (c *changes[K]) all() { c.whole, c.keys = c.kept, nil }

func (c *changes[K]) none() bool { return !c.whole && len(c.keys) == 0 }

// take gives the keys that are to be written, at most so many, and whether all are.
func (c *changes[K]) take(most int) (keys []K, whole bool) {
	if c.whole {
		c.whole, c.keys, c.taken, c.takenWhole = false, nil, nil, true
		return nil, true
	}
	if len(c.keys) <= most {
		c.taken, c.keys = c.keys, nil
	} else {
		c.taken = make(map[K]struct{}, most)
		for k := range c.keys {
			if len(c.taken) == most {
				break
			}
			c.taken[k] = struct{}{}
			delete(c.keys, k)
		}
	}
	for k := range c.taken {
		keys = append(keys, k)
	}
	return keys, false
}

// written notes again what was taken, if it was not.
func (c *changes[K]) written(ok bool) {
	taken, whole := c.taken, c.takenWhole
	c.taken, c.takenWhole = nil, false
	switch {
	case ok:
	case whole:
		c.all()
	default:
		for k := range taken {
			c.note(k)
		}
	}
}

// A records is a table as a Keeper sees it.
type records[K comparable] struct {
	kind     string
	of       *table[K]
	decode   func([]byte) (K, error)
	matches  func(Subject) func(K) bool
	remember func() int64 // seconds
}

func (r *records[K]) Kind() string { return r.kind }
func (r *records[K]) Most() int    { return r.of.changed.most }

// Restore joins in the order of the last session, for what was seen last is what
// stays where there is not room for all.
func (r *records[K]) Restore(list []kept.Record, now time.Time) (damaged int) {
	type row struct {
		key K
		seen
	}
	rows := make([]row, 0, len(list))
	for _, one := range list {
		k, s, err := decodeRecord(one, r.decode)
		if err != nil {
			damaged++
			continue
		}
		rows = append(rows, row{k, s})
	}
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(a.last(), b.last()) })
	for _, one := range rows {
		r.of.restore(one.key, one.seen, now.Unix(), r.remember())
	}
	return damaged
}

func decodeRecord[K any](r kept.Record, decode func([]byte) (K, error)) (k K, s seen, err error) {
	body, err := opened(r.Key, r.Value)
	if err != nil {
		return k, s, err
	}
	if k, err = decode(r.Key); err == nil {
		s, err = decodeSeen(body)
	}
	return k, s, err
}

func (r *records[K]) Offer() {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	for k := range r.of.entries {
		r.of.changed.note(k)
	}
}

func (r *records[K]) Rewrite() {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	r.of.changed.all()
}

func (r *records[K]) Unwritten() bool {
	r.of.mu.RLock()
	defer r.of.mu.RUnlock()
	return !r.of.changed.none()
}

func (r *records[K]) Take(most int) kept.Batch {
	remember := r.remember()
	t := r.of
	t.mu.Lock()
	defer t.mu.Unlock()
	keys, whole := t.changed.take(most)
	b := kept.Batch{Whole: whole}
	if whole {
		for k, e := range t.entries {
			b.Records = append(b.Records, t.record(k, e, remember))
		}
	}
	for _, k := range keys {
		b.Records = append(b.Records, t.record(k, t.entries[k], remember))
	}
	return b
}

func (t *table[K]) record(k K, e *entry[K], remember int64) kept.Record {
	key := t.encode(k)
	if e == nil {
		return kept.Record{Key: key}
	}
	return kept.Record{Key: key, Value: sealed(key, e.seen.encode()), Until: time.Unix(e.last()+remember, 0)}
}

func (r *records[K]) Written(ok bool) {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	r.of.changed.written(ok)
}

func (r *records[K]) Forget(subject string) {
	if what, err := ParseSubject(subject); err == nil {
		r.of.forget(r.matches(what))
	}
}

func (r *records[K]) Tidy(now time.Time) { r.of.sweep(now.Unix(), r.remember()) }

// keep has changes be noted from now on.
func (t *table[K]) keep() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changed.kept = true
}
