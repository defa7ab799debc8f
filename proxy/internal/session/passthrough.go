package session

import (
	"errors"

	"postern/enforce"
)

// passThrough ends Postern's part in an observed session in which it would stand
// in the way: the upstream is dialled again and the octets of both sides pass as
// they are, so that the peers get what they had without Postern and never less.
// owed is the line that the client is still owed an answer to, its EHLO or what it
// said behind one; or, when hello is given, an EHLO whose answer it has had, followed
// by STARTTLS and the hello with which its handshake began.
func (s *Session) passThrough(owed string, hello []byte) {
	s.mu.Lock()
	s.over = true // replies come from the new connection now
	s.mu.Unlock()
	s.upstream.Close()
	if s.pumping {
		<-s.pumpDone
		s.pumping = false
	}
	if err := s.reintroduce(owed, hello); err != nil {
		s.end("passing through: " + quote(err.Error()))
		s.lastWord(s.words(421, enforce.UpstreamUnreachable, enforce.Defer, "the server cannot be reached"))
		return
	}
	s.splice()
	s.end("passed through")
}

var errSecondConnection = errors.New("the upstream treated a second connection differently")

// A turn is what was said before, and the code of what it is to be answered with.
type turn struct {
	line string
	code int
}

// reintroduce brings a new upstream connection to where the client believes the
// old one is.
func (s *Session) reintroduce(owed string, hello []byte) error {
	up, err := s.open()
	if err != nil {
		return err
	}
	if banner, err := s.readBanner(); err != nil {
		return err
	} else if banner.Code != 220 {
		return errSecondConnection
	}
	said := []turn{{"EHLO " + s.helo, 250}}
	switch {
	case hello != nil:
		said = []turn{{owed, 250}, {"STARTTLS", 220}}
	case !s.greeted:
		said = nil
	}
	for _, t := range said {
		s.toUpstream([]byte(t.line), crlf)
		up.Flush()
		if reply, err := s.readBanner(); err != nil {
			return err
		} else if reply.Code != t.code {
			return errSecondConnection
		}
	}
	if hello == nil {
		s.toUpstream([]byte(owed), crlf)
	}
	s.toUpstream(hello)
	return up.Flush()
}
