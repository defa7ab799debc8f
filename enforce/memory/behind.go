package memory

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"postern/enforce/kept"
)

// When a file is written, and waited for.
const (
	Behind    = 3 * time.Second // between two looks at what there is to write and to forget
	retry     = time.Minute     // after the file could not be written
	lockWait  = time.Second
	closeWait = 5 * time.Second
)

// A behind is the Keeper in a file. It writes in a goroutine of its own; all but
// kinds is that goroutine's, and Open's before it.
type behind struct {
	path   string
	report func(error)

	left     print  // the file as it was left; zero: it was not read yet
	number   uint64 // what commands asked to forget was forgotten up to here
	after    time.Time
	reported string

	mu      sync.Mutex
	kinds   []kept.Records
	waiting map[string][]kept.Record // read before somebody asked for them to be kept
	late    int                      // of these, so many were damaged

	closing chan struct{}
	closed  chan struct{}
	once    sync.Once
	last    error // valid once closed is closed
}

func newBehind(path string, report func(error)) *behind {
	b := &behind{path: path, report: report, closing: make(chan struct{}), closed: make(chan struct{})}
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

// Close is a Keeper's.
func (b *behind) Close() error {
	b.once.Do(func() { close(b.closing) })
	select {
	case <-b.closed:
		return b.last
	case <-time.After(closeWait):
		return fmt.Errorf("memory %s: not written within %s", b.path, closeWait)
	}
}

// Keep is a Keeper's.
func (b *behind) Keep(r kept.Records) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kinds = append(b.kinds, r)
	b.deliver()
}

// deliver gives what waited to whoever came for it. The lock is held.
func (b *behind) deliver() {
	for _, r := range b.kinds {
		if n := r.Restore(b.waiting[r.Kind()], time.Now()); n > 0 {
			b.late += n
			r.Rewrite()
		}
		delete(b.waiting, r.Kind())
	}
}

func (b *behind) all() []kept.Records {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.kinds)
}

// turn brings memory and file together, if there is anything to. A file that is
// damaged is given another name, and a new one takes all that memory has.
func (b *behind) turn(now time.Time) error {
	for _, r := range b.all() {
		r.Tidy(now)
	}
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
	b.after = time.Time{}
	if err != nil {
		b.after = now.Add(retry)
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

func (b *behind) unwritten() bool { return slices.ContainsFunc(b.all(), kept.Records.Unwritten) }

func (b *behind) rewrite() {
	for _, r := range b.all() {
		r.Rewrite()
	}
}

// write does one turn on the file: what commands asked to forget, what was not
// read yet, what is new here, in that order and at once. A file that is another
// than the one that was left is read, and gets everything.
func (b *behind) write(now time.Time) error {
	kinds, damaged := b.all(), 0
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
			b.forget(kinds, asked(tx, b.number))
			if err := answered(tx); err != nil {
				return err
			}
			if another {
				n, err := b.restore(tx, kinds, now)
				if err != nil {
					return err
				}
				damaged = n
			}
			for _, r := range kinds {
				if err := put(tx, r.Kind(), r.Take(math.MaxInt)); err != nil {
					return err
				}
			}
			return nil
		})
	})
	for _, r := range kinds {
		r.Written(err == nil)
	}
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
	if damaged += b.foundLate(); damaged > 0 {
		b.tell(fmt.Errorf("%d records were damaged and are passed over", damaged))
	}
	return nil
}

func (b *behind) foundLate() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.late
	b.late = 0
	return n
}

func (b *behind) forget(kinds []kept.Records, list []forgotten) {
	for _, f := range list {
		for _, r := range kinds {
			r.Forget(f.what)
		}
		b.number = max(b.number, f.number)
	}
}

// restore joins a file that is another than the one that was left, and has it come
// to have what it lacks.
func (b *behind) restore(tx *bbolt.Tx, kinds []kept.Records, now time.Time) (damaged int, err error) {
	limit := map[string]int{holdsBucket: MostHolds} // whose Records come later
	for _, r := range kinds {
		limit[r.Kind()] = r.Most()
	}
	all, more, err := load(tx, limit)
	if err != nil {
		return 0, err
	}
	for _, r := range kinds {
		r.Offer()
		n := r.Restore(all[r.Kind()], now)
		if n > 0 || more[r.Kind()] {
			r.Rewrite() // without what was damaged, or too much
		}
		damaged += n
		delete(all, r.Kind())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting = all
	b.deliver() // to who came in between
	return damaged, nil
}

// syncDirectory has the name of a new file survive a loss of power, where that
// can be had.
func syncDirectory(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		d.Close()
	}
}
