package session

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"postern/enforce"
)

// passThrough ends Postern's part in an observed session in which it would stand
// in the way: the upstream is dialled again and the octets of both sides pass as
// they are, so that the peers get what they had without Postern and never less.
// greeting is the EHLO that the client is still owed an answer to; or, when hello
// is given, one whose answer it has had, followed by STARTTLS and the hello with
// which its handshake began.
func (s *Session) passThrough(greeting string, hello []byte) {
	s.mu.Lock()
	s.over = true // replies come from the new connection now
	s.mu.Unlock()
	s.upstream.Close()
	if s.pumping {
		<-s.pumpDone
		s.pumping = false
	}
	if err := s.reintroduce(greeting, hello); err != nil {
		s.end("passing through: " + quote(err.Error()))
		s.lastWord(s.words(421, enforce.UpstreamUnreachable, enforce.Defer, "the server cannot be reached"))
		return
	}
	s.splice()
	s.end("passed through")
}

var errSecondConnection = errors.New("the upstream treated a second connection differently")

// reintroduce brings a new upstream connection to where the client believes the
// old one is.
func (s *Session) reintroduce(greeting string, hello []byte) error {
	up, err := s.open()
	if err != nil {
		return err
	}
	if banner, err := s.readBanner(); err != nil {
		return err
	} else if banner.Code != 220 {
		return errSecondConnection
	}
	if hello == nil {
		s.toUpstream([]byte(greeting), crlf)
		return up.Flush()
	}
	for _, step := range []struct {
		line string
		code int
	}{{greeting, 250}, {"STARTTLS", 220}} {
		s.toUpstream([]byte(step.line), crlf)
		up.Flush()
		if reply, err := s.readBanner(); err != nil {
			return err
		} else if reply.Code != step.code {
			return errSecondConnection
		}
	}
	s.toUpstream(hello)
	return up.Flush()
}

// splice passes octets both ways until both sides have ended, or nothing has come
// from either for as long as the reply to a message may take. What was read and
// not used goes first.
func (s *Session) splice() {
	p := pipe{idle: s.snap.Timeouts.Final, aborted: &s.aborted}
	p.touch()
	client, upstream := s.client.Socket(), s.upstream.Socket()
	var both sync.WaitGroup
	both.Go(func() { s.rec.In = p.pass(upstream, client, s.client.Rest()) })
	both.Go(func() { s.rec.Out = p.pass(client, upstream, s.upstream.Rest()) })
	both.Wait()
}

// A pipe is what the two directions of a connection passed through share.
type pipe struct {
	idle    time.Duration
	last    atomic.Int64 // when something came last, from either side
	aborted *atomic.Bool
}

func (p *pipe) touch() { p.last.Store(time.Now().UnixNano()) }

// deadline is when the silence has lasted too long; past once aborted.
func (p *pipe) deadline() time.Time {
	if p.aborted.Load() {
		return time.Unix(1, 0)
	}
	return time.Unix(0, p.last.Load()).Add(p.idle)
}

// pass copies from one socket to the other, beginning with what was read before.
// The end of one side is passed on as such; a failure ends both.
func (p *pipe) pass(to, from net.Conn, first []byte) (n int64) {
	buf := make([]byte, 32<<10)
	for piece := first; ; {
		if len(piece) > 0 {
			p.touch()
			to.SetWriteDeadline(p.deadline())
			w, err := to.Write(piece)
			n += int64(w)
			if err != nil {
				break
			}
		}
		from.SetReadDeadline(p.deadline())
		if p.aborted.Load() {
			break // the deadline may have been set over that of the abort
		}
		r, err := from.Read(buf)
		if piece = buf[:r]; r > 0 {
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(p.deadline()) {
			continue // the other side has been heard since
		}
		if half, ok := to.(interface{ CloseWrite() error }); ok && errors.Is(err, io.EOF) {
			half.CloseWrite()
			return n
		}
		break
	}
	to.Close()
	from.Close()
	return n
}
