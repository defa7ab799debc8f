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
var errBehind = errors.New("the log cannot be written, and too much of it waits already")

// A queue stands between those who log and what is logged to. A pipe that nobody
// reads, or a disk that hangs, would otherwise stop every session that has its
// record to write, and with them the mail. Beyond its limit entries are lost and
// counted; mail goes on.
//
// It keeps the order. The goroutine that writes lives while there is something to
// write. The zero queue needs tell set.
type queue struct {
	tell func(lost int) // says how many entries are missing before the next

	mu      sync.Mutex
	waiting []entry
	size    int // octets of what waits or is being written
	lost    int
	idle    chan struct{} // closed when all is written; nil: it is
}

type entry struct {
	size  int
	write func()
}

// add has write called in its turn, for an entry of so many octets.
func (q *queue) add(size int, write func()) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.size > 0 && q.size+size > queueLimit {
		q.lost++
		return errBehind
	}
	q.size += size
	q.waiting = append(q.waiting, entry{size, write})
	if q.idle == nil {
		q.idle = make(chan struct{})
		go q.work()
	}
	return nil
}

func (q *queue) work() {
	for {
		q.mu.Lock()
		if len(q.waiting) == 0 {
			close(q.idle)
			q.waiting, q.idle = nil, nil
			q.mu.Unlock()
			return
		}
		next, lost := q.waiting[0], q.lost
		q.waiting, q.lost = q.waiting[1:], 0
		q.mu.Unlock()
		if lost > 0 {
			q.tell(lost)
		}
		next.write()
		q.mu.Lock()
		q.size -= next.size
		q.mu.Unlock()
	}
}

// miss counts an entry that was written in vain.
func (q *queue) miss() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lost++
}

// Sync waits a while until all is written.
func (q *queue) Sync() error {
	q.mu.Lock()
	idle := q.idle
	q.mu.Unlock()
	if idle == nil {
		return nil
	}
	limit := time.NewTimer(syncLimit)
	defer limit.Stop()
	select {
	case <-idle:
		return nil
	case <-limit.C:
		return errBehind
	}
}

// A behind is a file with a queue before it: a zapcore.WriteSyncer.
type behind struct {
	queue
	file *file
}

func newBehind(f *file) *behind {
	return &behind{queue: queue{tell: f.miss}, file: f}
}

func (b *behind) Write(line []byte) (int, error) {
	kept := append([]byte(nil), line...)
	if err := b.add(len(kept), func() { b.file.Write(kept) }); err != nil { // which counts what it loses
		return 0, err
	}
	return len(line), nil
}

func (b *behind) Sync() error { return errors.Join(b.queue.Sync(), b.file.Sync()) }
