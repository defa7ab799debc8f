package session

import "time"

// haltPump stops the goroutine that reads the upstream, so that another leg can
// take the place of the present one, or a handshake be run on it. It is for the
// goroutine that reads the client, which then reads the upstream itself until
// resumePump. False: the upstream owes replies, or the session is over.
//
// What the upstream says unasked until the pump has stopped ends the session, as
// ever; what it says behind that is found by whoever reads it next.
func (s *Session) haltPump() bool {
	s.mu.Lock()
	if s.over || len(s.queue) > 0 {
		s.mu.Unlock()
		return false
	}
	s.halted = true
	s.upstream.SetReplyDeadline(time.Unix(1, 0))
	s.mu.Unlock()
	<-s.pumpDone

	s.mu.Lock()
	defer s.mu.Unlock()
	s.halted, s.pumping = false, false
	return !s.over
}

// resumePump has the upstream leg, whichever it is now, read by a goroutine of its
// own again.
func (s *Session) resumePump() {
	s.pumpDone = make(chan struct{})
	s.pumping = true
	go s.pump()
}
