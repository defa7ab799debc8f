package mtasts

import (
	"io"
	"net"
	"sync"
	"time"
)

// pipe is net.Pipe whose writes don't wait for a reader. Where both ends say
// close_notify at once under locks of theirs, as TLS in net/http does, a plain one
// stops the clock of a synctest bubble for ever.
func pipe() (a, b net.Conn) {
	one, other := net.Pipe()
	return newBuffered(one), newBuffered(other)
}

type buffered struct {
	net.Conn
	mu     sync.Mutex
	queue  chan []byte
	closed bool
}

func newBuffered(conn net.Conn) *buffered {
	b := &buffered{Conn: conn, queue: make(chan []byte, 1024)}
	go func() {
		defer conn.Close()
		for p := range b.queue {
			_, _ = conn.Write(p) // fails when the other end is gone
		}
	}()
	return b
}

func (b *buffered) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, net.ErrClosed
	}
	b.queue <- append([]byte(nil), p...)
	return len(p), nil
}

// Close lets what was written arrive, and takes in what the other end still writes.
func (b *buffered) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return net.ErrClosed
	}
	b.closed = true
	close(b.queue)
	_ = b.Conn.SetReadDeadline(time.Now()) // whoever reads
	_ = b.Conn.SetReadDeadline(time.Time{})
	go func() { _, _ = io.Copy(io.Discard, b.Conn) }()
	return nil
}

func (b *buffered) SetReadDeadline(at time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return net.ErrClosed
	}
	return b.Conn.SetReadDeadline(at)
}

func (b *buffered) SetDeadline(at time.Time) error     { return b.SetReadDeadline(at) }
func (b *buffered) SetWriteDeadline(_ time.Time) error { return nil }
