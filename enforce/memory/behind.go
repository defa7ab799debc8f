package memory

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
)

// When a file is written, and waited for.
const (
	Behind    = 3 * time.Second // between two looks at what there is to write and to forget
	retry     = time.Minute     // after the file could not be written
	lockWait  = time.Second
	closeWait = 5 * time.Second
)

// behind writes a store's file, in a goroutine of its own. All but holds is that
// goroutine's, and Open's before it.
type behind struct {
	store  *Store
	path   string
	limit  int // records of a kind that are read
	report func(error)

	left     print  // the file as it was left; zero: it was not read yet
	number   uint64 // what commands asked to forget was forgotten up to here
	after    time.Time
	reported string

	mu      sync.Mutex
	holds   *Holds // nil until there are some to keep
	held    bool   // those that the file had were read
	waiting []held // and are here until then

	closing chan struct{}
	closed  chan struct{}
	once    sync.Once
	last    error // valid once closed is closed
}

func newBehind(s *Store, o Options) *behind {
	b := &behind{store: s, path: o.Path, limit: 2 * o.Entries, report: o.Report, closing: make(chan struct{}), closed: make(chan struct{})}
	if b.report == nil {
		b.report = func(error) {}
	}
	return b
}

func (b *behind) run() {
	defer close(b.closed)
	tick := time.NewTicker(Behind)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			if !now.Before(b.after) {
				b.turn(now)
			}
		case <-b.closing:
			b.last = b.turn(time.Now())
			return
		}
	}
}

func (b *behind) close() error {
	b.once.Do(func() { close(b.closing) })
	select {
	case <-b.closed:
		return b.last
	case <-time.After(closeWait):
		return fmt.Errorf("memory %s: not written within %s", b.path, closeWait)
	}
}

func (b *behind) keep(h *Holds) {
	h.keep()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.holds = h
	b.restoreHolds(time.Now())
}

func (b *behind) restoreHolds(now time.Time) {
	if b.holds == nil {
		return
	}
	for _, f := range b.waiting {
		b.holds.restore(f, now)
	}
	b.waiting = nil
}

func (b *behind) kept() *Holds {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.holds
}

// turn brings memory and file together, if there is anything to. A file that is
// damaged is given another name, and a new one takes all that memory has.
func (b *behind) turn(now time.Time) error {
	b.store.destinations.sweep(now.Unix(), b.store.remember.Load())
	b.store.domains.sweep(now.Unix(), b.store.remember.Load())
	if b.left != (print{}) && !b.unwritten() && !changedSince(b.path, b.left) {
		return nil
	}
	err := b.write(now)
	if errors.Is(err, ErrDamaged) {
		to, failed := setAside(b.path, now)
		if failed != nil {
			to = "it could not be moved: " + failed.Error()
		} else {
			to = "it is kept as " + to + ", and memory begins a new one"
		}
		b.tell(fmt.Errorf("%w: %s", err, to))
		b.left = print{}
		b.rewrite()
		if failed == nil {
			err = b.write(now)
		}
	}
	if err != nil {
		b.rewrite() // what was taken may be lost
		b.after = now.Add(retry)
	} else {
		b.after = time.Time{}
	}
	b.tell(err)
	return err
}

func (b *behind) tell(err error) {
	if err == nil {
		b.reported = ""
		return
	}
	err = fmt.Errorf("memory %s: %w", b.path, err)
	if text := err.Error(); text != b.reported {
		b.reported = text
		b.report(err)
	}
}

func (b *behind) unwritten() bool {
	h := b.kept()
	return b.store.destinations.unwritten() || b.store.domains.unwritten() || h != nil && h.unwritten()
}

func (b *behind) rewrite() {
	b.store.destinations.rewrite()
	b.store.domains.rewrite()
	if h := b.kept(); h != nil {
		h.rewrite()
	}
}

// write does one turn on the file: what commands asked to forget, what was not
// read yet, what is new here, in that order and at once. A file that is another
// than the one that was left is read, and gets everything.
func (b *behind) write(now time.Time) error {
	damaged := 0
	var found print
	how := access{write: true, create: true, wait: lockWait, trusted: b.left, found: &found}
	left, err := with(b.path, how, func(db *bbolt.DB) error {
		return db.Update(func(tx *bbolt.Tx) error {
			if err := prepare(tx); err != nil {
				return err
			}
			another := !found.follows(b.left)
			if another {
				b.number = 0
			}
			b.forget(asked(tx, b.number))
			if err := answered(tx); err != nil {
				return err
			}
			if another {
				l, err := load(tx, b.limit)
				if err != nil {
					return err
				}
				b.restore(l, now)
				damaged = l.damaged
			}
			return b.put(tx)
		})
	})
	if err != nil {
		return err
	}
	if found.size == 0 {
		syncDirectory(filepath.Dir(b.path))
	}
	b.left = left
	if found.size > 0 && found.heads < 2 {
		b.tell(errors.New("one of its two heads was damaged: it is as it was a batch before"))
	}
	if damaged > 0 {
		b.tell(fmt.Errorf("%d records were damaged and are passed over", damaged))
	}
	return nil
}

func (b *behind) forget(list []forgotten) {
	h := b.kept()
	for _, f := range list {
		b.store.Forget(f.what)
		if h != nil {
			h.forget(f.what.hasHold)
		}
		b.number = max(b.number, f.number)
	}
}

func (b *behind) restore(l loaded, now time.Time) {
	remember := b.store.remember.Load()
	for _, r := range l.destinations {
		b.store.destinations.restore(r.key, r.seen, now.Unix(), remember)
	}
	for _, r := range l.domains {
		b.store.domains.restore(r.key, r.seen, now.Unix(), remember)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.held { // once: what was cleared since must not come back
		b.held, b.waiting = true, l.holds
		b.restoreHolds(now)
	}
	if l.damaged == 0 && !l.more && !b.fuller(l) {
		return
	}
	b.store.destinations.rewrite() // without what was damaged, or too much
	b.store.domains.rewrite()
	if b.holds != nil {
		b.holds.rewrite()
	}
}

// fuller reports whether there is anything here that a file does not have.
func (b *behind) fuller(l loaded) bool {
	return b.store.destinations.len() > len(l.destinations) || b.store.domains.len() > len(l.domains) || b.left != (print{})
}

func (b *behind) put(tx *bbolt.Tx) error {
	if err := put(tx, destinationsBucket, b.store.destinations.take()); err != nil {
		return err
	}
	if err := put(tx, domainsBucket, b.store.domains.take()); err != nil {
		return err
	}
	if h := b.kept(); h != nil {
		return put(tx, holdsBucket, h.take())
	}
	return nil
}

// syncDirectory has the name of a new file survive a loss of power, where that
// can be had.
func syncDirectory(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		d.Close()
	}
}
