package session

import (
	"errors"
	"net"
	"time"
)

// A session that neither peer has anything to say in rests: its goroutines end, its
// buffers are given back, and somebody else waits for its sockets. It goes on where
// it was, on new goroutines, when there is something to be read from either, when
// the client's time is up, or when it is to drain or to end.

// errRests ends a goroutine's part of a session that rests.
var errRests = errors.New("at rest")

// wait is how long to wait for the client's command before looking again: until it
// may be time to rest, or for what is left of its time.
func (s *Session) wait() time.Duration {
	left := s.snap.Timeouts.Command
	if now := time.Now(); s.since.IsZero() {
		s.since = now
	} else {
		left -= now.Sub(s.since)
	}
	if s.snap.Park != nil && s.pumping {
		left = min(left, s.snap.RestAfter)
	}
	return max(left, time.Millisecond)
}

// rest brings the session to rest; false when it cannot be, for now. When it is
// nothing of it may be touched any more: it may be under way again.
func (s *Session) rest() bool {
	if s.snap.Park == nil || !s.pumping || s.owing() || s.draining.Load() || !s.stopPump() {
		return false
	}
	if !s.client.Rested() || !s.upstream.Rested() {
		s.resumePump() // which finds what there is to be found
		return false
	}
	s.ctl.Lock()
	defer s.ctl.Unlock()
	if s.draining.Load() {
		s.resumePump()
		return false
	}
	leave, err := s.snap.Park([]net.Conn{s.client.Socket(), s.upstream.Socket()}, s.since.Add(s.snap.Timeouts.Command), s.resume)
	if err != nil {
		s.resumePump()
		return false
	}
	s.unpark = leave
	return true
}

// rouse ends a rest before its time; s.ctl is held.
func (s *Session) rouse() {
	if s.unpark != nil {
		s.unpark()
	}
}

// resume goes on where rest left off.
func (s *Session) resume() {
	s.ctl.Lock()
	s.unpark = nil
	s.ctl.Unlock()
	s.act(func() bool { s.resumePump(); return true })
}
