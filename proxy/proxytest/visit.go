package proxytest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// A visit is one connection of a Counter. Its buffer is small, for there may be
// ten thousand.
type visit struct {
	counter *Counter
	whim    Whim

	raw, conn net.Conn
	in        *bufio.Reader
	inTLS     bool

	message  *tally // of the transaction; nil: no content yet
	envelope bool   // a recipient was taken
}

const visitBuffer = 4 << 10

// errWhim ends a visit by a Whim.
var errWhim = errors.New("whim")

func (v *visit) use(conn net.Conn) {
	v.conn, v.in = conn, bufio.NewReaderSize(conn, visitBuffer)
}

func (v *visit) run() {
	v.use(v.raw)
	err := v.hangUp(AtBanner)
	if err == nil {
		err = v.say("220 " + v.counter.config.Name + " ESMTP proxytest")
	}
	for err == nil {
		var line string
		if line, err = v.line(); err == nil {
			err = v.command(line)
		}
	}
}

// hangUp hangs up if it is the whim to do so here.
func (v *visit) hangUp(at Stage) error {
	if v.whim.At != at {
		return nil
	}
	v.counter.mu.Lock()
	v.counter.hangups[at]++
	v.counter.mu.Unlock()
	if tcp, ok := v.raw.(*net.TCPConn); ok && v.whim.Reset {
		_ = tcp.SetLinger(0)
	}
	return errWhim
}

func (v *visit) arm() error { return v.raw.SetDeadline(time.Now().Add(v.counter.config.Timeout)) }

func (v *visit) say(reply string) error {
	if err := v.arm(); err != nil {
		return err
	}
	_, err := v.conn.Write([]byte(reply + "\r\n"))
	return err
}

func (v *visit) line() (string, error) {
	if err := v.arm(); err != nil {
		return "", err
	}
	line, err := v.in.ReadSlice('\n')
	return strings.TrimSuffix(string(line), "\r\n"), err
}

func (v *visit) command(line string) error {
	word, args, _ := strings.Cut(line, " ")
	switch verb := strings.ToUpper(word); verb {
	case "EHLO", "HELO":
		return v.hello(verb)
	case "STARTTLS":
		return v.startTLS()
	case "RCPT":
		v.envelope = true
		return v.say("250 2.1.5 ok")
	case "DATA":
		return v.data()
	case "BDAT":
		return v.bdat(args)
	case "RSET", "MAIL":
		v.message, v.envelope = nil, false
		return v.say("250 2.0.0 ok")
	case "NOOP":
		return v.say("250 2.0.0 ok")
	case "QUIT":
		return errors.Join(v.say("221 2.0.0 bye"), io.EOF)
	}
	return v.say("502 5.5.2 command not recognized")
}

func (v *visit) hello(verb string) error {
	if err := v.hangUp(AtHello); err != nil {
		return err
	}
	v.message, v.envelope = nil, false
	if verb == "HELO" {
		return v.say("250 " + v.counter.config.Name)
	}
	offers := []string{v.counter.config.Name, "PIPELINING", "SIZE", "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING", "BINARYMIME"}
	if v.counter.config.TLS != nil && !v.inTLS {
		offers = append(offers, "STARTTLS")
	}
	last := len(offers) - 1
	return v.say("250-" + strings.Join(offers[:last], "\r\n250-") + "\r\n250 " + offers[last])
}

func (v *visit) startTLS() error {
	if v.inTLS || v.counter.config.TLS == nil {
		return v.say("503 5.5.1 STARTTLS is not offered")
	}
	if v.in.Buffered() > 0 {
		return errViolation
	}
	if err := v.say("220 2.0.0 go ahead"); err != nil {
		return err
	}
	conn := tls.Server(v.raw, v.counter.config.TLS)
	if err := conn.Handshake(); err != nil {
		return err
	}
	v.use(conn)
	v.inTLS = true
	return nil
}

func (v *visit) data() error {
	if !v.envelope || v.message != nil {
		return v.say("503 5.5.1 no valid recipients")
	}
	if err := v.say("354 go ahead"); err != nil {
		return err
	}
	v.message = newTally()
	reader := dotReader{into: v.message}
	for done := false; !done; {
		if err := v.arm(); err != nil {
			return err
		}
		if _, err := v.in.Peek(1); err != nil {
			return err
		}
		if err := v.hangUp(InContent); err != nil {
			return err
		}
		ahead, _ := v.in.Peek(v.in.Buffered())
		var n int
		n, done = reader.take(ahead)
		if _, err := v.in.Discard(n); err != nil {
			return err
		}
	}
	return v.endOfData(false)
}

func (v *visit) bdat(args string) error {
	number, option, _ := strings.Cut(args, " ")
	size, err := strconv.ParseInt(number, 10, 62)
	if err != nil {
		return errViolation
	}
	if v.message == nil {
		v.message = newTally()
	}
	for left := size; left > 0; {
		if err := v.arm(); err != nil {
			return err
		}
		if _, err := v.in.Peek(1); err != nil {
			return err
		}
		if err := v.hangUp(InContent); err != nil {
			return err
		}
		ahead, _ := v.in.Peek(int(min(left, int64(v.in.Buffered()))))
		v.message.add(ahead)
		left -= int64(len(ahead))
		if _, err := v.in.Discard(len(ahead)); err != nil {
			return err
		}
	}
	switch {
	case !v.envelope:
		v.message = nil
		return v.say("503 5.5.1 no valid recipients")
	case strings.EqualFold(option, "LAST"):
		return v.endOfData(true)
	}
	return v.say(fmt.Sprintf("250 2.0.0 %d octets", size))
}

// endOfData takes the message. Its arrival is told when it is known whether the
// sender could be told.
func (v *visit) endOfData(chunked bool) error {
	if err := v.hangUp(AtEndOfData); err != nil {
		return err
	}
	m := v.message
	v.message, v.envelope = nil, false
	a := Arrival{ID: m.id, SHA256: [32]byte(m.digest.Sum(nil)), Size: m.size, Chunked: chunked, TLS: v.inTLS}
	err := v.hangUp(AtAcceptance)
	if err == nil {
		err = v.say("250 2.0.0 ok")
	}
	a.Unsaid = err != nil
	if v.counter.config.Arrived != nil {
		v.counter.config.Arrived(a)
	}
	return err
}

// A tally is what a Counter knows of a message while it comes.
type tally struct {
	id     string
	size   int64
	digest hash.Hash
	head   []byte // until the mark was found
	marked bool
}

// markWithin bounds in which part of a message the mark is looked for, in octets.
const markWithin = 8 << 10

func newTally() *tally { return &tally{digest: sha256.New()} }

func (t *tally) addWire([]byte) {}

func (t *tally) add(p []byte) {
	t.size += int64(len(p))
	if t.marked || t.size > markWithin+visitBuffer {
		t.digest.Write(p)
		return
	}
	t.head = append(t.head, p...)
	at := bytes.Index(t.head, []byte(Mark))
	if at < 0 {
		return
	}
	id, _, whole := bytes.Cut(t.head[at+len(Mark):], []byte("\r\n"))
	if whole {
		t.id, t.marked = string(id), true
		t.digest.Write(t.head[at:])
		t.head = nil
	}
}
