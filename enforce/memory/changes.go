package memory

// A change is what a bucket of the file has to take: a value under a key, or, if
// it is nil, no longer any.
type change struct{ key, value []byte }

// A batch is what a bucket has to take at once.
type batch struct {
	whole   bool // nothing else stays in the bucket
	changes []change
}

func (b batch) empty() bool { return !b.whole && len(b.changes) == 0 }

// changes are the keys that a file does not have yet as they are here. Where they
// would be too many, or a write failed, the file takes everything anew.
type changes[K comparable] struct {
	kept  bool // in a file; otherwise nothing is noted
	most  int
	whole bool
	keys  map[K]struct{}
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

// all has the next batch be whole.
func (c *changes[K]) all() { c.whole, c.keys = c.kept, nil }

func (c *changes[K]) none() bool { return !c.whole && len(c.keys) == 0 }

// keep has changes be noted from now on.
func (t *table[K]) keep() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changed.kept = true
}

func (t *table[K]) unwritten() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return !t.changed.none()
}

// rewrite has the next batch be whole: the file lost something, or may have.
func (t *table[K]) rewrite() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changed.all()
}

// take gives what is to be written, and counts on its being written.
func (t *table[K]) take() batch {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := batch{whole: t.changed.whole}
	if b.whole {
		for k, e := range t.entries {
			b.changes = append(b.changes, t.change(k, e))
		}
	}
	for k := range t.changed.keys {
		b.changes = append(b.changes, t.change(k, t.entries[k]))
	}
	t.changed.whole, t.changed.keys = false, nil
	return b
}

func (t *table[K]) change(k K, e *entry[K]) change {
	key := t.encode(k)
	if e == nil {
		return change{key: key}
	}
	return change{key, sealed(key, e.seen.encode())}
}
