package session

import (
	"slices"

	"postern/enforce"
)

// A client whose handshake falls below the floor often comes back in clear. It is
// remembered then, where a rule or hold_for could have it refused for that.

// learn keeps what the client's handshake came to.
func (s *Session) learn() {
	client := s.facts.Client
	switch {
	case s.snap.Holds == nil:
	case client.State == enforce.StateOK, client.State == enforce.StateWatched:
		s.snap.Holds.Clear(s.conn) // whoever asks for it, now or after the next reload
	case client.Failure == enforce.ClientTLSTooLow && s.mayHold:
		s.snap.Holds.Begin(s.conn, slices.Max(s.rec.ClientTLS.OfferedVersions))
		s.rec.ClientTLS.Hold = s.snap.Holds.Find(s.conn)
	}
}

// recall adds what is remembered of a client in clear to the facts.
func (s *Session) recall() {
	s.facts.Held = nil
	if s.facts.Client.State == enforce.StateNone && s.mayHold {
		if held := s.snap.Holds.Find(s.conn); held != nil && held.Offered < s.snap.Policy.Floor() {
			s.facts.Held = held
		}
	}
}

// relearn counts a refusal that rests on a hold, and renews the hold. A client
// that is not offered STARTTLS now could not end it: for that one it runs out.
func (s *Session) relearn(v enforce.Verdict) {
	if s.facts.Held == nil || !v.Refused() || v.Reason != enforce.ClientTLSTooLow {
		return
	}
	s.snap.Holds.Refused(s.conn, s.offersStartTLS())
	s.rec.ClientTLS.Hold = s.snap.Holds.Find(s.conn)
}
