package session

import "time"

// To take the upstream leg into TLS, or to put another in its place, behind the
// first EHLO takes the goroutine that reads it out of the way for a while. What
// the upstream says then is read by exchange, as it was before the pump ran.

// haltPump has the pump leave and the session go on without it, until resumePump.
// It waits for all that the upstream owes. When ok is false the session is over
// and the client has been told.
//
// Nothing that the upstream says around it is lost, or taken for the answer to
// what it is asked next: a reply that comes before the pump has left is one to
// nothing, as ever, and so is one of which a part has come; what comes later is
// found by exchange or by the pump that runs next.
func (s *Session) haltPump() (ok bool) {
	if !s.pumping {
		return !s.ended()
	}
	if !s.settle() || !s.stopPump() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.upstream.AtRest() {
		s.breakOff("upstream replied to nothing")
		return false
	}
	return true
}

// stopPump has the pump leave where it stands, and says whether the upstream is
// still there.
func (s *Session) stopPump() bool {
	s.mu.Lock()
	s.halting = true
	s.upstream.SetReplyDeadline(time.Unix(1, 0)) // it looks up, and finds that it is to leave
	s.mu.Unlock()
	<-s.pumpDone
	s.pumping = false
	s.mu.Lock()
	defer s.mu.Unlock()
	s.halting = false
	return !s.over
}

// resumePump begins to pump, the first time and after each haltPump.
func (s *Session) resumePump() {
	s.pumpDone = make(chan struct{})
	s.pumping = true
	go s.pump()
}

// attend sets how long the pump waits for the next reply; false when it has been
// halted.
func (s *Session) attend() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.halting {
		return false
	}
	s.upstream.SetReplyDeadline(s.deadline())
	return true
}

func (s *Session) ended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}
