package proxytest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// How a session can end; kept as text in Session.End.
var (
	errQuit      = errors.New("quit")
	errDropped   = errors.New("dropped")
	errStalled   = errors.New("stalled")
	errViolation = errors.New("protocol violation")
	errHandshake = errors.New("handshake failed")
	errInClear   = errors.New("handshake answered in clear")
)

const (
	maxLine     = 2048
	maxAuthLine = 12288 // RFC 4954 §4.9
	bufferSize  = 32 << 10
	lingering   = 2 * time.Second
)

// conversation is the server's end of one connection. It is used by one
// goroutine; the record it writes belongs to the server's lock.
type conversation struct {
	server  *Server
	config  ServerConfig
	session *Session

	raw    net.Conn // the socket
	conn   net.Conn // it, or the TLS connection over it
	in     *bufio.Reader
	out    *bufio.Writer
	inTLS  bool
	closed bool // greeted with 554

	greeted  bool // EHLO or HELO was accepted
	extended bool // by EHLO
	user     string
	message  *transaction // nil outside of one
}

// transaction is a mail transaction from MAIL on.
type transaction struct {
	from, params string
	utf8, binary bool
	to           []Recipient
	content      *content // set by the first BDAT, or by DATA
}

func newConversation(s *Server, cfg ServerConfig, nc net.Conn, session *Session) *conversation {
	c := &conversation{server: s, config: cfg, session: session, raw: nc}
	c.use(nc)
	return c
}

// use puts the conversation on a connection. Nothing read ahead is carried
// over, which is what RFC 3207 §4.2 asks of a server.
func (c *conversation) use(nc net.Conn) {
	c.conn = nc
	c.in = bufio.NewReaderSize(nc, bufferSize)
	c.out = bufio.NewWriterSize(nc, bufferSize)
}

// run holds the conversation and returns how it ended, never nil.
func (c *conversation) run() error {
	err := c.converse()
	_ = c.setDeadline()
	_ = c.out.Flush()
	c.part(err)
	if c.message != nil && c.message.content != nil {
		partial := c.message.content.wire
		c.server.note(func() { c.session.Unfinished = partial })
	}
	return err
}

// part takes leave where that is due: a session that was quit is closed in TLS
// too, and who is hung up on shall hear why.
func (c *conversation) part(err error) {
	if conn, ok := c.conn.(*tls.Conn); ok && errors.Is(err, errQuit) {
		_ = conn.CloseWrite()
	}
	if errors.Is(err, errViolation) || errors.Is(err, errInClear) {
		c.linger()
	}
}

// linger closes one way and swallows what is still coming. A plain close upon
// unread input would reset the connection, and with that take away from the
// peer the last thing that was said to it.
func (c *conversation) linger() {
	if half, ok := c.raw.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
		_ = c.raw.SetReadDeadline(time.Now().Add(lingering))
		_, _ = io.Copy(io.Discard, c.raw)
	}
}

func (c *conversation) converse() error {
	skip, err := c.stage(AtBanner)
	if err != nil {
		return err
	}
	if skip {
		c.closed = strings.HasPrefix(c.config.On[AtBanner].reply, "5")
	} else if err := c.reply("220 " + c.config.Banner); err != nil {
		return err
	}
	for {
		line, err := c.line()
		if err != nil {
			return err
		}
		if len(line) > maxLine && !strings.EqualFold(line[:5], "AUTH ") {
			return c.nonsense("a line of %d bytes", len(line))
		}
		if err := c.command(line); err != nil {
			return err
		}
	}
}

// stage does what is configured for a stage. skip tells that the answer has
// been given and the duty is not to be done.
func (c *conversation) stage(at Stage) (skip bool, err error) {
	action, ok := c.config.On[at]
	if !ok {
		return false, nil
	}
	if action.reply == "" {
		return false, c.end(action.ending)
	}
	if err := c.reply(strings.Split(action.reply, "\n")...); err != nil {
		return true, err
	}
	err = c.end(action.ending)
	if errors.Is(err, errDropped) && action.ending == drop {
		c.linger()
	}
	return true, err
}

// end ends the session as an action wants it.
func (c *conversation) end(how ending) error {
	if how == goOn {
		return nil
	}
	if err := c.flush(); err != nil {
		return err
	}
	switch how {
	case reset:
		if tcp, ok := c.raw.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
	case stall:
		// The peer's giving up is seen by reading; Server.Close closes too.
		_ = c.raw.SetDeadline(time.Time{})
		_, _ = io.Copy(io.Discard, c.raw)
		return errStalled
	}
	return errDropped
}

// reply queues lines for sending. They go out when the client is waiting, so
// that answers to pipelined commands travel together (RFC 2920 §3.2).
func (c *conversation) reply(lines ...string) error {
	c.server.note(func() { c.session.Replies = append(c.session.Replies, lines...) })
	for _, line := range lines {
		if _, err := c.out.WriteString(line + "\r\n"); err != nil {
			return err
		}
	}
	if c.config.Delay > 0 {
		select {
		case <-time.After(c.config.Delay):
		case <-c.server.closing:
			return errDropped
		}
		return c.flush()
	}
	return nil
}

func (c *conversation) setDeadline() error {
	return c.raw.SetDeadline(time.Now().Add(c.config.Timeout))
}

func (c *conversation) flush() error {
	if err := c.setDeadline(); err != nil {
		return err
	}
	return c.out.Flush()
}

// line reads a command line, which must end in CRLF and hold no other CR or LF
// (RFC 5321 §2.3.8), and returns it without its end.
func (c *conversation) line() (string, error) {
	ahead, _ := c.in.Peek(c.in.Buffered())
	if bytes.IndexByte(ahead, '\n') < 0 {
		if err := c.flush(); err != nil {
			return "", err
		}
	}
	raw, err := c.in.ReadSlice('\n')
	if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
		if len(raw) > 0 {
			c.violation("ended within the line %q", raw)
		}
		return "", err
	}
	c.server.note(func() { c.session.Commands = append(c.session.Commands, Command{string(raw), c.inTLS}) })
	if err != nil || len(raw) > maxAuthLine {
		return "", c.nonsense("a line of %d bytes or more", len(raw))
	}
	text, ok := strings.CutSuffix(string(raw), "\r\n")
	if !ok || strings.ContainsAny(text, "\r\n\x00") {
		return "", c.nonsense("a bare CR, LF or NUL in %q", raw)
	}
	return text, nil
}

// violation writes down what the peer must not have done.
func (c *conversation) violation(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	c.server.note(func() { c.session.Violations = append(c.session.Violations, text) })
}

// nonsense writes it down and hangs up, for there is no telling what would be
// read next.
func (c *conversation) nonsense(format string, args ...any) error {
	c.violation(format, args...)
	if err := c.reply("500 5.5.2 that is not SMTP"); err != nil {
		return err
	}
	return errViolation
}

// alone tells whether a command that must be the last of its group was
// (RFC 2920 §3.1), and hangs up if it was not.
func (c *conversation) alone(verb string) error {
	if n := c.in.Buffered(); n > 0 {
		ahead, _ := c.in.Peek(min(n, 64))
		return c.nonsense("%d bytes behind %s before its reply: %q", n, verb, ahead)
	}
	return nil
}
