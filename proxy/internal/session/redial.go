package session

import (
	"postern/enforce"
	"postern/smtpwire"
)

// fallBack leaves the upstream in clear on a new connection: the rule says so.
func (s *Session) fallBack(name string) bool {
	failed := s.facts.Upstream
	if !s.redial(name) {
		return false
	}
	s.facts.Upstream = enforce.Leg{State: enforce.StateNone, Failure: failed.Failure, Detail: failed.Detail}
	return true
}

// redial puts a new connection in place of one on which a handshake failed, over
// which there is no going on, and greets the upstream again. When it returns
// false the client has been told.
func (s *Session) redial(name string) bool {
	s.upstream.Close()
	_, err := s.open()
	if err == nil {
		var banner smtpwire.Reply
		banner, err = s.readBanner()
		if err == nil && banner.Code != 220 {
			s.blame(enforce.UpstreamLost, "second connection: banner "+codes(banner))
			s.end("upstream refused a second connection")
			s.lastWord(s.words(421, enforce.UpstreamLost, enforce.Defer, "the server refused another connection"))
			return false
		}
	}
	if err != nil {
		s.blame(enforce.UpstreamUnreachable, "second connection: "+err.Error())
		s.end("upstream unreachable")
		s.lastWord(s.words(421, enforce.UpstreamUnreachable, enforce.Defer, "the server cannot be reached"))
		return false
	}
	if ok, _ := s.hello(name); !ok {
		s.end("upstream refused EHLO")
		return false
	}
	return true
}
