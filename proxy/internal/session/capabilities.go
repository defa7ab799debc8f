package session

import (
	"postern/enforce"
	"postern/smtpwire"
)

// offered are the upstream's capabilities as this client may use them now:
// nothing whose framing is not followed, no AUTH while either leg is in clear,
// REQUIRETLS only where the whole way can keep it (RFC 8689 §2).
func (s *Session) offered() smtpwire.Capabilities {
	up, client := s.facts.Upstream, s.facts.Client
	bothTLS := up.State == enforce.StateOK && client.State == enforce.StateOK
	return s.caps.Filter(func(keyword string) bool {
		switch keyword {
		case "STARTTLS", "XCLIENT", "XFORWARD":
			return false
		case "AUTH":
			return bothTLS
		case "REQUIRETLS":
			return bothTLS && up.Chain != nil && up.Chain("").Verified
		}
		return smtpwire.Framed(keyword) || s.snap.Extensions[keyword]
	})
}

// offersStartTLS reports whether the client is offered STARTTLS. Where the
// upstream leg is in clear it is not, or a client that insists on TLS would be
// told yes while its mail leaves in clear. Under a rule that watches it is the
// upstream's own, and none once Postern has stepped in.
func (s *Session) offersStartTLS() bool {
	if s.rule.Inspect == enforce.Watch && (s.leavesTLS() || s.stepsIn) {
		return s.leavesTLS() && s.facts.Client.State == enforce.StateNone
	}
	return (s.snap.Certificate != nil || s.mints()) && s.facts.Client.State == enforce.StateNone &&
		(s.facts.Upstream.State == enforce.StateOK || s.rule.ClientStartTLS == enforce.Always)
}

// answer says to EHLO what the upstream offers, or to HELO who it is.
func (s *Session) answer(verb smtpwire.Verb) {
	s.greeted, s.promised = true, smtpwire.Capabilities{}
	caps := s.offered()
	if verb == smtpwire.HELO || s.heloOnly && !s.offersStartTLS() {
		caps.List = nil
	} else if s.offersStartTLS() {
		caps.List = append(caps.List, smtpwire.Capability{Keyword: "STARTTLS"})
	}
	s.say(caps.AppendReply(nil))
}
