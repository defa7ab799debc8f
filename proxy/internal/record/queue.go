package record

import (
	"errors"
	"sync"
	"time"
)

const (
	// queueLimit is how many octets of log may wait to be written: some ten
	// thousand records.
	queueLimit = 16 << 20
	// syncLimit is how long Sync waits for them.
	syncLimit = 5 * time.Second
)

// errBehind: the log is not taken by whoever is to take it.
var errBehind = errors.New("the log cannot be written, and too much of it waits")

// A queue stands between those who log and what is logged to. A pipe that nobody
// reads, or a disk that hangs, would otherwise stop every session that has its
// record to write, and with them the mail. Beyond its limit entries are lost and
// counted; mail goes on.
//
// It keeps the order. All that is done to the log is done by the one goroutine
// that works it off, which lives while there is something to do.
type queue struct {
	lost func(entries int) // says in the log how many entries are missing at this place

	mu      sync.Mutex
	waiting []entry
	size    int  // octets of what waits or is being written
	working bool // the goroutine runs
}

// An entry is one thing to do: to write so many octets, or to say that entries
// were lost here.
type entry struct {
	size int
	do   func()
	lost int
}

// add has do called in its turn, for an entry of so many octets, unless too much
// waits already. What is no entry has none, and always has its turn.
func (q *queue) add(size int, do func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if size > 0 && q.size > 0 && q.size+size > queueLimit {
		if last := len(q.waiting) - 1; last >= 0 && q.waiting[last].lost > 0 {
			q.waiting[last].lost++
			return
		}
		q.waiting = append(q.waiting, entry{lost: 1})
	} else {
		q.size += size
		q.waiting = append(q.waiting, entry{size: size, do: do})
	}
	if !q.working {
		q.working = true
		go q.work()
	}
}

func (q *queue) work() {
	for {
		q.mu.Lock()
		if len(q.waiting) == 0 {
			q.waiting, q.working = nil, false
			q.mu.Unlock()
			return
		}
		next := q.waiting[0]
		q.waiting = q.waiting[1:]
		q.mu.Unlock()
		if next.lost > 0 {
			q.lost(next.lost)
		} else {
			next.do()
		}
		q.mu.Lock()
		q.size -= next.size
		q.mu.Unlock()
	}
}

// wait waits, but not for ever, until all is done that was added before, and last
// of all do.
func (q *queue) wait(do func()) error {
	done := make(chan struct{})
	q.add(0, func() { do(); close(done) })
	limit := time.NewTimer(syncLimit)
	defer limit.Stop()
	select {
	case <-done:
		return nil
	case <-limit.C:
		return errBehind
	}
}
