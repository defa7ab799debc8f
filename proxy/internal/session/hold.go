package session

import (
	"slices"
	"time"

	"postern/enforce"
)

// A client whose handshake falls below the floor often comes back in clear. It is
// remembered then, where a rule or hold_for could have it refused for that.

// remembers reports whether a hold of this client could matter.
func (s *Session) remembers() bool {
	return s.snap.Holds != nil && s.snap.Policy.MayHold(s.conn, time.Now())
}

// learn keeps what the client's handshake came to.
func (s *Session) learn() {
	client := s.facts.Client
	switch {
	case !s.remembers():
	case client.State == enforce.StateOK:
		s.snap.Holds.Clear(s.conn)
	case client.Failure == enforce.ClientTLSTooLow:
		s.snap.Holds.Begin(s.conn, slices.Max(s.rec.ClientTLS.OfferedVersions))
		s.rec.ClientTLS.Hold = s.snap.Holds.Find(s.conn)
	}
}

// recall adds what is remembered of a client in clear to the facts.
func (s *Session) recall() {
	s.facts.Held = nil
	if s.facts.Client.State == enforce.StateNone && s.remembers() {
		s.facts.Held = s.snap.Holds.Find(s.conn)
	}
}

// relearn renews the hold that a verdict rests on.
func (s *Session) relearn(v enforce.Verdict) {
	if s.facts.Held == nil || !v.Refused() || v.Reason != enforce.ClientTLSTooLow {
		return
	}
	s.snap.Holds.Refused(s.conn)
	s.rec.ClientTLS.Hold = s.snap.Holds.Find(s.conn)
}
