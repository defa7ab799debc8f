package session

import (
	"errors"
	"io"
	"time"

	"postern/enforce"
	"postern/proxy/internal/leg"
	"postern/smtpwire"
)

// authLine bounds a line of an AUTH dialogue in octets (RFC 4954 §4.5.2).
const authLine = 12288

// converse answers the greeted client until one side has had enough, or until the
// session rests, which it says.
func (s *Session) converse() (rests bool) {
	for {
		cmd, err := s.command()
		if err != nil {
			return errors.Is(err, errRests)
		}
		if !s.handle(cmd) {
			return false
		}
	}
}

// handle deals with one command; false ends the session.
func (s *Session) handle(cmd smtpwire.Command) bool {
	wordless := s.wordless
	s.wordless = false
	if s.leavesTLS() && usesTheUpstream(cmd.Verb) {
		if ok, went := s.stepIn(cmd); !ok {
			return went
		}
	}
	switch cmd.Verb {
	case smtpwire.EHLO, smtpwire.HELO:
		return s.greet(cmd)
	case smtpwire.STARTTLS:
		return s.startTLS(cmd)
	case smtpwire.MAIL:
		s.mail(cmd)
	case smtpwire.RCPT:
		s.rcpt(cmd)
	case smtpwire.DATA:
		return s.data(cmd)
	case smtpwire.BDAT:
		return s.bdat(cmd)
	case smtpwire.RSET:
		s.reset(cmd)
	case smtpwire.NOOP, smtpwire.HELP:
		s.forward(cmd.Line, &expected{kind: plain})
	case smtpwire.VRFY, smtpwire.EXPN, smtpwire.ETRN:
		if s.mayAsk() {
			s.forward(cmd.Line, &expected{kind: plain})
		}
	case smtpwire.AUTH:
		return s.auth(cmd)
	case smtpwire.QUIT:
		if wordless {
			s.leftAtOnce()
		}
		s.forward(cmd.Line, &expected{kind: quit})
		s.settle()
		return false
	case smtpwire.TURN, smtpwire.ATRN, smtpwire.XCLIENT, smtpwire.XFORWARD:
		// They turn the session round, or have the upstream take one client for
		// another: who is judged would not be who sends.
		s.say([]byte(sayNotOffered))
	default:
		s.say([]byte(sayUnknown))
	}
	return true
}

// next returns the client's next command. When ok is false the session is over,
// and what there was to say has been said.
func (s *Session) next() (cmd smtpwire.Command, ok bool) {
	cmd, err := s.command()
	return cmd, err == nil
}

// command is next, or errRests where the pump runs.
func (s *Session) command() (cmd smtpwire.Command, err error) {
	for {
		line, err := s.nextLine()
		switch {
		case err == nil:
		case errors.Is(err, errRests):
			return cmd, err
		case errors.Is(err, smtpwire.ErrLineTooLong):
			s.say([]byte(sayLineTooLong))
			continue
		default:
			s.clientGone(err)
			return cmd, err
		}
		if smtpwire.Foreign(line) {
			s.notSMTP()
			return cmd, errNotSMTP
		}
		cmd, err = smtpwire.ParseCommand(line)
		switch {
		case err != nil:
			s.say([]byte("500 5.5.2 " + err.Error() + "\r\n"))
		case cmd.Verb != smtpwire.AUTH && len(line)+2 > s.snap.Limits.Line:
			s.say([]byte(sayLineTooLong))
		default:
			return cmd, nil
		}
	}
}

var errNotSMTP = errors.New("not SMTP")

// nextLine waits for a line of the client, as long as a client may take: not
// counting what the upstream takes to answer it.
func (s *Session) nextLine() ([]byte, error) {
	for {
		if !s.client.HasLine() {
			s.flushBoth()
		}
		if s.draining.Load() && !s.owing() && !s.betweenChunks() {
			return nil, leg.ErrInterrupted
		}
		if s.crowded() && !s.settle() {
			return nil, leg.ErrAborted
		}
		if !s.heard {
			// What is no SMTP at all may have no end of line to wait for.
			start, err := s.client.PeekStart(s.snap.Timeouts.Command)
			if err == nil {
				s.heard = true
				if smtpwire.Foreign(start[:1]) {
					return start[:1], nil
				}
				continue
			}
			if s.waitOn(err) {
				continue
			}
			return nil, err
		}
		line, err := s.client.ReadCommand(max(s.snap.Limits.Line, authLine), s.wait())
		rested := leg.EndingOf(err) == leg.Timeout && time.Since(s.since) < s.snap.Timeouts.Command
		if !rested || s.owing() {
			s.since = time.Time{} // a line has ended, or the client waits itself
		}
		if err == nil {
			return line, nil
		}
		if s.waitOn(err) {
			continue
		}
		if rested {
			if s.rest() {
				return nil, errRests
			}
			continue
		}
		return line, err
	}
}

// waitOn reports whether an end of waiting is none: a drain that has to let the
// upstream answer first, or a client that is itself waiting for that.
func (s *Session) waitOn(err error) bool {
	if errors.Is(err, leg.ErrInterrupted) {
		return true // whether to end is decided where it is seen what is owed
	}
	return leg.EndingOf(err) == leg.Timeout && s.owing()
}

func (s *Session) flushBoth() {
	if s.upstream != nil {
		s.upstream.Flush() // that it has gone is found by the pump
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flushClient(true)
}

// clientGone ends the session because of what came of waiting for the client.
func (s *Session) clientGone(err error) {
	how := leg.EndingOf(err)
	switch {
	case s.aborted.Load(), errors.Is(err, leg.ErrInterrupted):
		s.end("drained")
		s.lastWord(s.shuttingDown())
	case errors.Is(err, leg.ErrAborted):
		// The other goroutine has ended the session and said why.
	case how == leg.Timeout:
		s.hearOut()
		s.end("client timeout")
		s.lastWord([]byte(sayTimeout + s.nameForReplies() + ": timeout [" + s.rec.Session + "]\r\n"))
	case errors.Is(err, smtpwire.ErrBareNewline):
		s.refuseWire(enforce.BareNewline, "a line has to end with CRLF")
	case how == leg.Broken:
		s.refuseWire(enforce.ProtocolError, err.Error())
	case how == leg.Alert && !s.heard:
		s.refusedCertificate(err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		s.hearOut() // it may have closed its sending side only
		s.end("client " + string(how))
	default:
		s.end("client " + string(how))
	}
}

// refuseWire ends the session with a client that broke a rule of the wire.
func (s *Session) refuseWire(reason enforce.Reason, detail string) {
	s.hearOut()
	v := fault(enforce.Reject, reason, detail)
	s.mu.Lock()
	s.enter(s.stage, v)
	s.mu.Unlock()
	s.end("protocol error")
	s.lastWord(s.words(500, reason, v.Action, detail))
}

// hearOut waits for what the upstream still owes: a message may be among it that
// it has accepted, whatever came behind.
func (s *Session) hearOut() {
	if s.pumping {
		s.settle()
	}
}

// notSMTP hangs up on a peer that speaks another protocol; it is told nothing.
func (s *Session) notSMTP() {
	s.hearOut()
	s.blame(enforce.ProtocolError, "not SMTP")
	s.end("not SMTP")
}

// reset deals with RSET. The envelope is gone when the upstream says so; should
// it refuse, the next MAIL waits to see what it has.
func (s *Session) reset(cmd smtpwire.Command) {
	if len(cmd.Arg) > 0 {
		s.say([]byte(sayNoArgument))
		return
	}
	s.begin(nil, true)
	s.forward(cmd.Line, &expected{kind: rset})
}

// mayAsk judges what reveals or uses the upstream's users without a MAIL: the
// demands on the client leg hold for it alike.
func (s *Session) mayAsk() bool {
	if !s.greeted {
		s.say([]byte(sayHelloFirst))
		return false
	}
	v := s.judge(enforce.AtMail, nil, false)
	if s.speak(v) {
		s.say(s.refusal(v.Reason.Codes(v.Action), v.Reason, v.Detail))
		return false
	}
	return true
}

// auth passes an AUTH dialogue (RFC 4954), and only where the whole way is TLS.
func (s *Session) auth(cmd smtpwire.Command) bool {
	switch {
	case s.facts.Client.State != enforce.StateOK || s.facts.Upstream.State != enforce.StateOK:
		s.say([]byte(sayAuthNeedsTLS))
		return true
	case !s.offered().Has("AUTH"):
		s.say([]byte(sayNotOffered))
		return true
	case !s.mayAsk():
		return true
	}
	if !s.settle() {
		return false
	}
	e := &expected{kind: auth}
	reply, ok := s.ask(cmd.Line, e)
	for ok && reply.Intermediate() {
		line, err := s.continuation()
		if err != nil {
			s.clientGone(err)
			return false
		}
		s.renew(e)
		s.toUpstream(line, crlf)
		s.upstream.Flush()
		reply, ok = s.await(e)
	}
	s.authenticated = s.authenticated || ok && reply.Positive()
	return ok
}

// continuation reads the client's answer to a 334. A drain waits for it.
func (s *Session) continuation() ([]byte, error) {
	for {
		line, err := s.client.ReadCommand(authLine, s.snap.Timeouts.Command)
		if !errors.Is(err, leg.ErrInterrupted) {
			return line, err
		}
	}
}
