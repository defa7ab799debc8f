package session

import (
	"errors"
	"io"
	"slices"

	"postern/enforce"
	"postern/proxy/internal/leg"
	"postern/smtpwire"
)

// hasRecipient reports whether the upstream may have a recipient to give a
// message to: one it accepted, or one it has not yet answered.
func (s *Session) hasRecipient(tx *transaction) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return tx.live > 0
}

// data deals with DATA and the content behind it.
func (s *Session) data(cmd smtpwire.Command) bool {
	tx := s.current()
	switch {
	case len(cmd.Arg) > 0:
		s.say([]byte(sayNoArgument))
		return true
	case tx == nil:
		s.say([]byte(sayNeedMail))
		return true
	case tx.chunked:
		s.say([]byte(sayNoMix))
		return true
	case !s.hasRecipient(tx):
		s.say([]byte(sayNeedRcpt))
		return true
	}
	reply, ok := s.ask([]byte("DATA"), &expected{kind: data, tx: tx})
	if !ok {
		return false
	}
	if !reply.Intermediate() {
		return true // the transaction is as it was
	}
	return s.message(tx)
}

// message passes content until its end, octet for octet but for bare newlines.
// Its reply is expected from the beginning, since the upstream may refuse a
// message that it has not seen whole.
func (s *Session) message(tx *transaction) bool {
	e := &expected{kind: final, tx: tx, last: true}
	s.beginContent(e)
	s.begin(nil, true) // whatever becomes of the message, its envelope is used up (RFC 5321 §4.1.1.4)
	content := smtpwire.Content{Bare: s.snap.BareNewline}
	var size int64
	defer s.client.EndContent()
	for {
		p, err := s.client.PeekContent(s.snap.Timeouts.Data)
		if err != nil {
			return s.broken(err)
		}
		for len(p) > 0 {
			out, n, done, err := content.Next(p)
			if err != nil {
				return s.bareNewline(content)
			}
			size += int64(len(out))
			if done && !s.wentUp(e, size) { // before the last octet can be answered
				return s.broken(leg.ErrAborted)
			}
			s.toUpstream(out)
			s.client.Advance(n)
			p = p[n:]
			if done {
				s.upstream.Flush()
				return true
			}
		}
		if s.client.Buffered() == 0 {
			s.upstream.Flush()
		}
	}
}

func (s *Session) beginContent(e *expected) {
	s.mu.Lock()
	s.inContent = true
	s.mu.Unlock()
	s.expect(e)
}

// bareNewline refuses a message with a bare newline in it: the upstream
// connection ends before the end of data. The client is told behind its own end
// of data, where it listens.
func (s *Session) bareNewline(content smtpwire.Content) bool {
	s.mu.Lock()
	v := fault(enforce.Reject, enforce.BareNewline, "bare CR or LF, or a dot before NUL, in message content")
	s.enter(enforce.AtRcpt, v)
	s.endLocked("bare newline")
	s.hangUp()
	s.mu.Unlock()
	content.Bare = smtpwire.Normalize // which reads on to the end that the client meant
	for {
		p, err := s.client.PeekContent(s.snap.Timeouts.Data)
		if err != nil {
			return false
		}
		_, n, done, _ := content.Next(p)
		s.client.Advance(n)
		if done {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.toClient(s.refusal(v.Reason.Codes(v.Action), v.Reason, v.Detail))
			return s.flushClient(true) && false
		}
	}
}

// broken ends the session because the client leg broke off within a message.
// The upstream is left without an end of data, which is what tells it that there
// was none.
func (s *Session) broken(err error) bool {
	s.flushBoth()
	s.mu.Lock()
	defer s.mu.Unlock()
	// A message before it may have gone up whole, and be accepted.
	for !s.over && slices.ContainsFunc(s.queue, (*expected).whole) {
		s.settled.Wait()
	}
	if s.over {
		return false
	}
	how := leg.EndingOf(err)
	switch {
	case s.aborted.Load():
		s.toClient(s.shuttingDown())
		s.stop("stopped")
	case how == leg.Timeout:
		s.toClient([]byte(sayTimeout + s.nameForReplies() + ": timeout within the message\r\n"))
		s.stop("client timeout within a message")
	default:
		s.stop("client " + string(how) + " within a message")
	}
	return false
}

// betweenChunks reports whether a message is under way of which the last chunk
// has not come.
func (s *Session) betweenChunks() bool {
	tx := s.current()
	return tx != nil && tx.chunked
}

// doubtful reports whether an earlier reply left open what envelope the upstream
// has (RFC 3030 §2: behind a last chunk that was refused it takes a RSET to
// know).
func (s *Session) doubtful() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.uncertain
}

// bdat deals with BDAT (RFC 3030): a chunk passes by count, and one that is
// refused here is swallowed by count.
func (s *Session) bdat(cmd smtpwire.Command) bool {
	size, last, err := smtpwire.ParseBDAT(cmd.Arg)
	if err != nil {
		// Nobody knows where the next command begins.
		s.hearOut()
		s.blame(enforce.ProtocolError, "BDAT: "+err.Error())
		s.say([]byte(sayBadSyntax + "BDAT: " + err.Error() + "\r\n"))
		s.end("protocol error")
		return false
	}
	tx := s.current()
	switch {
	case s.promised.Has("CHUNKING") && !s.caps.Has("CHUNKING"):
		return s.swallow(size, sayGone)
	case !s.caps.Has("CHUNKING"):
		return s.swallow(size, sayNotOffered)
	case tx == nil:
		return s.swallow(size, sayNeedMail)
	case !s.hasRecipient(tx):
		return s.swallow(size, sayNeedRcpt)
	}
	if (s.doubtful() || tx.behind) && !s.settle() {
		return false
	}
	tx.behind = false
	if s.current() != tx || !s.hasRecipient(tx) {
		return s.swallow(size, sayNeedRcpt)
	}
	tx.chunked = true
	e := &expected{kind: final, tx: tx, last: last, chunk: true}
	s.mu.Lock()
	s.inContent = true
	s.mu.Unlock()
	if last {
		s.begin(nil, true)
	}
	if size == 0 && !s.wentUp(e, 0) {
		return s.broken(leg.ErrAborted)
	}
	s.forward(cmd.Line, e)
	left := size
	err = s.chunk(size, func(p []byte) error {
		if left -= int64(len(p)); left == 0 && !s.wentUp(e, size) { // before the last octet can be answered
			return leg.ErrAborted
		}
		s.toUpstream(p)
		if s.client.Buffered() <= len(p) {
			s.upstream.Flush()
		}
		return nil
	})
	if err != nil {
		return s.broken(err)
	}
	return true
}

// swallow drops a refused chunk and says why.
func (s *Session) swallow(size int64, why string) bool {
	s.flushBoth() // what stands before it need not wait for it
	if err := s.chunk(size, func([]byte) error { return nil }); err != nil {
		s.clientGone(err)
		return false
	}
	s.say([]byte(why))
	return true
}

// chunk hands size octets from the client to pass, piece by piece.
func (s *Session) chunk(size int64, pass func([]byte) error) error {
	defer s.client.EndContent()
	for size > 0 {
		p, err := s.client.PeekContent(s.snap.Timeouts.Data)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		p = p[:min(int64(len(p)), size)]
		if err := pass(p); err != nil {
			return err
		}
		s.client.Advance(len(p))
		size -= int64(len(p))
	}
	return nil
}
