package session

import (
	"sync"
	"time"

	"postern/smtpwire"
)

// kind is what a reply of the upstream answers.
type kind uint8

const (
	plain kind = iota // passed on, and that is all
	mail
	rcpt
	data  // DATA itself
	final // the end of data, or a chunk of BDAT
	rset
	ehlo // not passed on: answered by whoever asked
	auth
	quit
)

// An expected reply has its place in the order in which commands came.
type expected struct {
	own []byte // a reply of Postern's own; nil: the upstream's is awaited

	kind   kind
	tx     *transaction
	domain string // rcpt: the recipient's
	last   bool   // final: of the last chunk, or of DATA
	chunk  bool   // final: of BDAT
	// sent: all that the reply answers has gone up. A message that is accepted
	// before that was not accepted whole.
	sent bool
	over bool // it has been answered
	// paused: auth was answered in part, and the client is to go on.
	paused bool
	due    time.Time           // when waiting for it ends; zero: not yet to be waited for
	wait   chan smtpwire.Reply // nil, or whoever waits for it
}

// whole reports whether e answers a message that has gone up to its end.
func (e *expected) whole() bool { return e.kind == final && e.last && e.sent }

// replies is the order in which the client hears replies, its own lock, and the
// end of the upstream leg.
type replies struct {
	mu        sync.Mutex
	settled   *sync.Cond    // the queue has become empty, or over
	queue     []*expected   // its head is always owed by the upstream
	over      bool          // nothing more will come from the upstream
	told      bool          // nothing more may be said to the client
	inContent bool          // message content is going up
	halting   bool          // the goroutine that reads the upstream is to leave
	pumpDone  chan struct{} // closed when that has left; made anew for each
	dead      chan struct{} // closed with over
}

func (r *replies) init() {
	r.settled = sync.NewCond(&r.mu)
	r.dead = make(chan struct{})
}

// say gives the client a reply of Postern's own, behind all that are still to
// come before it.
func (s *Session) say(reply []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		s.toClient(reply)
		return
	}
	s.queue = append(s.queue, &expected{own: reply})
}

// toClient writes to the client, unless that has heard its last word; s.mu is
// held. That the client has gone is found by reading from it.
func (s *Session) toClient(p []byte) {
	if s.told {
		return
	}
	if err := s.client.Write(p); err != nil {
		s.client.Abort()
	}
}

// expect enters a reply that the upstream is about to owe; it must stand in the
// order before the command can be answered, so it comes before writing that.
func (s *Session) expect(e *expected) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.queue = append(s.queue, e)
	if s.queue[0] == e { // else the head says how long to wait
		s.upstream.SetReplyDeadline(s.deadline())
	}
}

// idleCheck is how often an upstream leg that owes nothing is looked at for no
// reason but that every read has a deadline.
const idleCheck = 10 * time.Minute

// deadline is when the pump next has to look up; s.mu is held.
func (s *Session) deadline() time.Time {
	if len(s.queue) > 0 && !s.queue[0].due.IsZero() {
		return s.queue[0].due
	}
	return time.Now().Add(idleCheck)
}

// forward sends a command upstream whose reply will be e.
func (s *Session) forward(line []byte, e *expected) {
	e.sent = e.sent || e.kind != final
	if e.due.IsZero() && e.sent {
		e.due = time.Now().Add(s.snap.Timeouts.Command)
	}
	s.expect(e)
	s.toUpstream(line, crlf)
}

var crlf = []byte("\r\n")

// toUpstream writes to the upstream. That it has gone is found by the pump.
func (s *Session) toUpstream(parts ...[]byte) {
	for _, p := range parts {
		if s.upstream.Write(p) != nil {
			return
		}
	}
}

// ask forwards a command and waits for its reply; ok is false when the upstream
// was lost instead.
func (s *Session) ask(line []byte, e *expected) (smtpwire.Reply, bool) {
	e.wait = make(chan smtpwire.Reply, 1)
	s.forward(line, e)
	s.flushBoth()
	return s.await(e)
}

func (s *Session) await(e *expected) (smtpwire.Reply, bool) {
	select {
	case reply := <-e.wait:
		return reply, true
	case <-s.dead:
		return smtpwire.Reply{}, false
	}
}

// settle waits until the upstream owes nothing, and says whether it is still
// there. It does not wait for one that itself waits for the client.
func (s *Session) settle() bool {
	s.flushBoth()
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) > 0 && !s.over && !s.queue[0].paused {
		s.settled.Wait()
	}
	return !s.over
}

// mostOwed bounds the replies that may be outstanding; beyond it the client
// waits. A message with the 1000 recipients that are the default limit stays
// below it, so that it costs no round trip more.
const mostOwed = 1024

func (s *Session) crowded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue) >= mostOwed
}

// owing reports whether the upstream still owes a reply.
func (s *Session) owing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue) > 0
}

// renew gives the upstream the time of a command again for e, which it has
// answered in part.
func (s *Session) renew(e *expected) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.paused, e.due = false, time.Now().Add(s.snap.Timeouts.Command)
	s.upstream.SetReplyDeadline(s.deadline())
}
