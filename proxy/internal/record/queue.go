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
	// writeLimit bounds what goes into one write, but for a line that is longer.
	writeLimit = 128 << 10
	// spares is how much memory for one write is kept for the next.
	spares = 8
	// gather is how long lines wait for others to be written with, behind a write.
	gather = 5 * time.Millisecond
)

// errBehind: the log is not taken by whoever is to take it.
var errBehind = errors.New("the log cannot be written, and too much of it waits")

// A queue stands between those who log and what is logged to. A pipe that nobody
// reads, or a disk that hangs, would otherwise stop every session that has its
// record to write, and with them the mail. Beyond its limit entries are lost and
// counted; mail goes on.
//
// It keeps the order. All that is done to the log is done by the one goroutine
// that works it off, which lives while there is something to do and a moment
// longer. A line that comes after a while of silence is written at once; those that
// come in quick succession are written together.
type queue struct {
	lost  func(entries int)  // says in the log how many entries are missing at this place
	write func(lines []byte) // writes whole lines, and keeps none of the memory

	mu      sync.Mutex
	waiting []entry
	size    int           // octets of what waits or is being written
	working bool          // the goroutine runs
	hurry   chan struct{} // there is something to do that is no line; made by the first who works
	spare   [][]byte      // memory of lines that were written
}

// An entry is one thing to do: to write so many octets of lines, to do something for
// an entry of so many octets, or to say that entries were lost here.
type entry struct {
	size  int
	lines []byte
	do    func()
	lost  int
}

// add has do called in its turn, for an entry of so many octets, unless too much
// waits already. What is no entry has none, and always has its turn.
func (q *queue) add(size int, do func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if size > 0 && q.full(size) {
		return
	}
	q.size += size
	q.waiting = append(q.waiting, entry{size: size, do: do})
	q.start()
	select {
	case q.hurry <- struct{}{}:
	default:
	}
}

// addLine has a line written in its turn, unless too much waits already. The line is
// the caller's again.
func (q *queue) addLine(line []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.full(len(line)) {
		return
	}
	q.size += len(line)
	if last := len(q.waiting) - 1; last >= 0 && q.waiting[last].lines != nil && q.waiting[last].size+len(line) <= writeLimit {
		q.waiting[last].lines = append(q.waiting[last].lines, line...)
		q.waiting[last].size += len(line)
	} else {
		q.waiting = append(q.waiting, entry{size: len(line), lines: append(q.room(), line...)})
	}
	q.start()
}

// room gives memory for the lines of one write.
func (q *queue) room() []byte {
	last := len(q.spare) - 1
	if last < 0 {
		return make([]byte, 0, writeLimit)
	}
	room := q.spare[last]
	q.spare = q.spare[:last]
	return room
}

// full reports whether there is no room for so many octets, and then counts them as
// an entry that is lost here.
func (q *queue) full(size int) bool {
	if q.size == 0 || q.size+size <= queueLimit {
		return false
	}
	if last := len(q.waiting) - 1; last >= 0 && q.waiting[last].lost > 0 {
		q.waiting[last].lost++
	} else {
		q.waiting = append(q.waiting, entry{lost: 1})
		q.start()
	}
	return true
}

func (q *queue) start() {
	if q.working {
		return
	}
	q.working = true
	if q.hurry == nil {
		q.hurry = make(chan struct{}, 1)
	}
	go q.work()
}

// work does what waits, waits a moment for more, and ends when nothing came.
func (q *queue) work() {
	var todo []entry
	moment := time.NewTimer(gather)
	defer moment.Stop()
	for {
		q.mu.Lock()
		if len(q.waiting) == 0 {
			q.waiting, q.working = todo, false
			q.mu.Unlock()
			return
		}
		todo, q.waiting = q.waiting, todo
		q.mu.Unlock()
		wrote := false
		for _, next := range todo {
			wrote = wrote || next.lines != nil
			q.do(next)
		}
		clear(todo)
		todo = todo[:0]
		if !wrote {
			continue
		}
		moment.Reset(gather)
		select {
		case <-moment.C:
		case <-q.hurry:
		}
	}
}

func (q *queue) do(next entry) {
	switch {
	case next.lost > 0:
		q.lost(next.lost)
	case next.do != nil:
		next.do()
	default:
		q.write(next.lines)
	}
	q.mu.Lock()
	q.size -= next.size
	if cap(next.lines) == writeLimit && len(q.spare) < spares { // not of one that is longer
		q.spare = append(q.spare, next.lines[:0])
	}
	q.mu.Unlock()
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
