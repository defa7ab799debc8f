package session

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// splice passes octets both ways until both sides have ended, or nothing has come
// from either for as long as the reply to a message may take. What was read and
// not used goes first.
func (s *Session) splice() {
	p := pipe{idle: s.snap.Timeouts.Final, aborted: &s.aborted}
	p.touch()
	client, upstream := s.client.Socket(), s.upstream.Socket()
	var both sync.WaitGroup
	both.Go(func() { s.rec.In, _ = p.pass(upstream, client, s.client.Rest(), nil) })
	both.Go(func() { s.rec.Out, _ = p.pass(client, upstream, s.upstream.Rest(), nil) })
	both.Wait()
}

// A pipe is what the two directions of a connection passed through share.
type pipe struct {
	idle    time.Duration
	last    atomic.Int64 // when something came last, from either side
	by      atomic.Int64 // when something is to be settled that takes its own time; 0: nothing is
	aborted *atomic.Bool
}

func (p *pipe) touch() { p.last.Store(time.Now().UnixNano()) }

// settleBy has the pipe end unless settled is called in time, however much passes
// until then.
func (p *pipe) settleBy(t time.Time) { p.by.Store(t.UnixNano()) }

func (p *pipe) settled() {
	p.touch()
	p.by.Store(0)
}

// deadline is when the silence has lasted too long; past once aborted.
func (p *pipe) deadline() time.Time {
	if p.aborted.Load() {
		return time.Unix(1, 0)
	}
	if by := p.by.Load(); by != 0 {
		return time.Unix(0, by)
	}
	return time.Unix(0, p.last.Load()).Add(p.idle)
}

// A look is shown each piece of one direction as it comes, and sends on what may
// pass. An error ends both directions.
type look func(piece []byte, send func([]byte) error) error

// errNotTaken wraps what came of writing: it is the other side that is gone.
var errNotTaken = errors.New("not taken")

// pass copies from one socket to the other, beginning with what was read before,
// all of it or what the look sends. The end of one side is passed on as such; a
// failure ends both. It returns how many octets went, and io.EOF or what failed.
func (p *pipe) pass(to, from net.Conn, first []byte, through look) (n int64, err error) {
	send := func(piece []byte) error {
		to.SetWriteDeadline(p.deadline())
		w, err := to.Write(piece)
		n += int64(w)
		if err != nil {
			return errors.Join(errNotTaken, err)
		}
		return nil
	}
	if through == nil {
		through = func(piece []byte, send func([]byte) error) error { return send(piece) }
	}
	buf := make([]byte, 32<<10)
	for piece := first; ; {
		if len(piece) > 0 {
			p.touch()
			if err = through(piece, send); err != nil {
				break
			}
		}
		from.SetReadDeadline(p.deadline())
		if p.aborted.Load() {
			err = os.ErrDeadlineExceeded
			break // the deadline may have been set over that of the abort
		}
		var r int
		r, err = from.Read(buf)
		if piece = buf[:r]; r > 0 {
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(p.deadline()) {
			continue // the other side has been heard since
		}
		if half, ok := to.(interface{ CloseWrite() error }); ok && errors.Is(err, io.EOF) {
			half.CloseWrite()
			return n, err
		}
		break
	}
	to.Close()
	from.Close()
	return n, err
}
