package session

import (
	"slices"
	"strconv"

	"postern/enforce"
	"postern/smtpwire"
)

// A rule with inspect = "watch" leaves the TLS to client and upstream: it passes
// through, so that a client that verifies the upstream's certificate itself can. It
// is read off the wire as far as it goes in clear and cut where it falls short.
// Until the client asks for TLS the upstream leg stays in clear; one that says MAIL
// without has Postern secure that leg after all.

// leavesTLS reports whether the TLS of the upstream leg is still the client's to
// ask for.
func (s *Session) leavesTLS() bool {
	return s.rule.Inspect == enforce.Watch && !s.stepsIn && s.facts.Upstream.State == enforce.StateUnknown &&
		s.caps.Has("STARTTLS")
}

// watchTLS passes the client's STARTTLS on, and behind it the TLS; false ends the
// session.
func (s *Session) watchTLS() bool {
	if !s.haltPump() {
		return false
	}
	reply, ok := s.exchange("STARTTLS")
	switch {
	case !ok:
		return false
	case reply.Code != 220:
		f := enforce.Failure{Reason: enforce.StartTLSRefused, Detail: "STARTTLS was answered " + strconv.Itoa(reply.Code), Logged: true}
		s.pronounce(enforce.AfterUpstreamTLS, enforce.Verdict{Action: enforce.Allow, Failure: f, Failures: []enforce.Failure{f}})
		if !s.passOn(reply) {
			return false
		}
		s.resumePump()
		return true
	case s.upstream.Buffered() > 0 && !s.snap.Observe:
		s.facts.Upstream = enforce.Leg{State: enforce.StateFailed, Failure: enforce.StartTLSInjection,
			Detail: "octets in clear behind the reply to STARTTLS"}
		v := s.judge(enforce.AfterUpstreamTLS, nil, false)
		s.legReason = v.Reason
		s.refuseConnection(v)
		return false
	}
	s.mu.Lock()
	s.toClient(reply.Raw)
	s.flushClient(true)
	s.told, s.over = true, true // what follows is TLS, and not ours
	s.mu.Unlock()
	s.watch()
	return false
}

// usesTheUpstream reports whether a command is one that the upstream must not get
// in clear.
func usesTheUpstream(verb smtpwire.Verb) bool {
	return slices.Contains([]smtpwire.Verb{smtpwire.MAIL, smtpwire.VRFY, smtpwire.EXPN, smtpwire.ETRN}, verb)
}

// stepIn has Postern secure the upstream leg in the place of a client that says cmd
// without having asked for TLS. When ok is false the client has been told what came
// of that; went says whether the session goes on.
func (s *Session) stepIn(cmd smtpwire.Command) (ok, went bool) {
	line := string(cmd.Line)
	if !s.haltPump() {
		return false, false
	}
	s.stepsIn, s.promised = true, s.offered()
	if ok, went = s.settleUpstream(line, s.helo); !ok {
		if went {
			s.resumePump()
		}
		return false, went
	}
	s.resumePump()
	return true, true
}

// gone reports whether the client was offered the extension that brings a parameter,
// or one of that name, and the upstream does not have it inside TLS.
func (s *Session) gone(keyword string) bool {
	return s.promised.ParamOf(keyword) && !s.caps.ParamOf(keyword)
}

// notOffered refuses a parameter that does not belong to what is offered; for good
// only if it never did.
func (s *Session) notOffered(keyword string) []byte {
	if s.gone(keyword) {
		return []byte(sayGoneParam + ascii(keyword) + "\r\n")
	}
	return []byte(sayBadParam + ascii(keyword) + "\r\n")
}
