package session

import (
	"slices"
	"time"

	"go.uber.org/zap"

	"postern/enforce"
	"postern/proxy/internal/leg"
	"postern/smtpwire"
)

// pump reads the upstream's replies and gives each to whom it belongs, until the
// upstream leg ends or haltPump is called.
func (s *Session) pump() {
	defer close(s.pumpDone)
	defer s.crashed()
	for s.attend() {
		reply, err := s.upstream.ReadReply(s.snap.Limits.ReplyLines)
		switch {
		case err == nil:
			if !s.deliver(reply) {
				return
			}
		case leg.EndingOf(err) == leg.Timeout && !s.overdue():
		default:
			s.lost(err)
			return
		}
	}
}

// crashed, deferred, keeps a mistake of ours within this session: neither peer is
// told anything, since what state they are in is not known any more.
func (s *Session) crashed() {
	crash := recover()
	if crash == nil {
		return
	}
	s.log.Error("session crashed", zap.String("session", s.rec.Session), zap.Any("panic", crash), zap.Stack("stack"))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked("crashed")
	if s.upstream != nil {
		s.hangUp()
	}
	s.client.Close()
}

func (s *Session) overdue() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue) > 0 && !s.queue[0].due.IsZero() && !time.Now().Before(s.queue[0].due)
}

// deliver gives one reply of the upstream its place; false ends the pump.
func (s *Session) deliver(reply smtpwire.Reply) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return false // it was read before we closed, and is nobody's any more
	}
	if len(s.queue) == 0 || s.queue[0].paused {
		return s.unasked(reply)
	}
	e := s.queue[0]
	if wrong := e.outOfStep(reply); wrong != "" {
		s.breakOff(wrong)
		return false
	}
	s.note(e, reply)
	if e.kind != ehlo || reply.Code == 421 {
		s.toClient(reply.Raw)
	}
	if e.wait != nil {
		e.wait <- smtpwire.Reply{Code: reply.Code, Raw: slices.Clone(reply.Raw)}
	}
	if e.kind == auth && reply.Intermediate() {
		e.paused, e.due = true, time.Time{} // its place is kept for what follows
		return s.flushClient(true)
	}
	s.advance()
	if e.kind == final {
		s.flushClient(true) // before an Abort is let come between
		s.replied(e)
	}
	if reply.Code == 421 || e.kind == quit {
		how := "upstream closed with 421"
		if e.kind == quit {
			how = "quit"
		}
		s.stop(how)
		return false
	}
	return s.flushClient(!s.upstream.HasLine())
}

// advance takes the head off the queue, and with it whatever of Postern's own
// stands behind; s.mu is held.
func (s *Session) advance() {
	n := 1
	for ; n < len(s.queue) && s.queue[n].own != nil; n++ {
		s.toClient(s.queue[n].own)
	}
	if s.queue = s.queue[n:]; len(s.queue) > 0 {
		s.itsTurn(s.queue[0])
	} else {
		s.queue = nil
		s.settled.Broadcast()
		if s.draining.Load() {
			s.client.Interrupt()
		}
	}
}

// itsTurn gives the upstream the whole time for a reply from when the one before
// it came: it may answer commands one after the other. s.mu is held.
func (s *Session) itsTurn(e *expected) {
	limit := s.snap.Timeouts.Command
	if e.kind == final {
		limit = s.snap.Timeouts.Final
	}
	if !e.due.IsZero() {
		e.due = time.Now().Add(limit)
	}
}

func (s *Session) flushClient(now bool) bool {
	if now && s.client.Flush() != nil {
		s.client.Abort()
	}
	return true
}

// outOfStep says in what way a reply cannot be the answer to e; "" when it can.
func (e *expected) outOfStep(reply smtpwire.Reply) string {
	switch {
	case reply.Positive() && !e.sent:
		return "upstream accepted a message before its end"
	case reply.Intermediate() && e.kind != data && e.kind != auth:
		return "upstream asked for more where there is none"
	case e.kind == rcpt && reply.Positive() && e.tx.refused:
		// Its envelope is not the one that was judged.
		return "upstream accepted a recipient after it had refused the sender"
	case e.kind == data && reply.Positive():
		return "upstream accepted a message before its beginning"
	}
	return ""
}

// note keeps the envelope in step with what the upstream says; s.mu is held.
func (s *Session) note(e *expected, reply smtpwire.Reply) {
	switch e.kind {
	case mail:
		e.tx.answered = true
		if !reply.Positive() {
			e.tx.refuse(reply)
		}
	case rcpt:
		e.tx.recipient(e.domain, reply)
	case final:
		e.tx.finished(e, reply)
		e.over = true
		s.uncertain = s.uncertain || e.chunk && !reply.Positive()
	case rset:
		s.uncertain = !reply.Positive()
	}
}

// replied takes note that e is no longer waited for; s.mu is held.
func (s *Session) replied(e *expected) {
	e.over = true
	if e.whole() && s.letGo() {
		s.abort()
	}
	s.settled.Broadcast()
}

// wentUp notes that all that e answers has been given to the upstream leg, and
// begins to wait for its reply. It comes before the last octets are flushed.
// size is how many octets of content there were.
//
// The reply need not be expected yet. When ok is false Abort has come before it
// and the last octets must stay here.
func (s *Session) wentUp(e *expected, size int64) (ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.hold(e) {
		return false
	}
	s.inContent = false
	e.tx.rec.Bytes += size
	if e.over || s.over {
		return true // answered before its end
	}
	e.sent, e.due = true, time.Now().Add(s.snap.Timeouts.Final)
	s.upstream.SetReplyDeadline(s.deadline())
	return true
}

// unasked deals with a reply to nothing; s.mu is held. A server that gives up
// says 421 unasked (RFC 5321 §3.8); anything else is an attempt to have the
// client take it for the answer to what it says next.
func (s *Session) unasked(reply smtpwire.Reply) bool {
	if reply.Code != 421 {
		s.breakOff("upstream replied to nothing")
		return false
	}
	s.toClient(reply.Raw)
	s.flushClient(true)
	s.stop("upstream closed with 421")
	return false
}

// lost ends the session because the upstream leg did.
func (s *Session) lost(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return // we closed it
	}
	if s.aborted.Load() {
		s.toClient(s.shuttingDown())
		s.stop("stopped")
		return
	}
	how := leg.EndingOf(err)
	atRest := s.pumping && len(s.queue) == 0 && s.tx == nil && !s.inContent
	if how == leg.Broken {
		said := "the TLS of the server cannot be followed"
		if leg.IsWire(err) {
			said = "the server sent what is no reply"
		}
		s.blameLocked(enforce.ProtocolError, "upstream: "+err.Error())
		s.toClient(s.words(421, enforce.ProtocolError, enforce.Defer, said))
	} else {
		if !atRest {
			s.blameLocked(enforce.UpstreamLost, "upstream: "+string(how))
		}
		s.toClient(s.words(421, enforce.UpstreamLost, enforce.Defer, "the connection to the server was lost"))
	}
	s.flushClient(true)
	s.stop("upstream " + string(how))
}

// breakOff ends the session because the upstream is out of step; s.mu is held.
func (s *Session) breakOff(why string) {
	s.blameLocked(enforce.ProtocolError, why)
	s.toClient(s.words(421, enforce.ProtocolError, enforce.Defer, why))
	s.flushClient(true)
	s.stop(why)
}

// stop ends the upstream leg and with it the session; s.mu is held.
func (s *Session) stop(how string) {
	s.endLocked(how)
	s.hangUp()
	s.flushClient(true)
	s.told = true
	s.client.Abort()
}

// hangUp ends the upstream leg and wakes whoever waits for it; s.mu is held. The
// client is owed no more of its replies.
func (s *Session) hangUp() {
	if s.over {
		return
	}
	for _, e := range s.queue {
		s.replied(e)
	}
	s.queue, s.over = nil, true
	close(s.dead)
	s.settled.Broadcast()
	s.upstream.Close()
}
