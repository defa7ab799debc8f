package session

import (
	"bytes"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"postern/enforce"
)

// A hooked socket tells of what passes.
type hooked struct {
	*net.TCPConn
	read, write func(p []byte)
}

func (h *hooked) Read(p []byte) (int, error) {
	n, err := h.TCPConn.Read(p)
	if h.read != nil && n > 0 {
		h.read(p[:n])
	}
	return n, err
}

func (h *hooked) Write(p []byte) (int, error) {
	if h.write != nil {
		h.write(p)
	}
	return h.TCPConn.Write(p)
}

// ended fails unless the session ends soon.
func (b *bench) ended(within time.Duration) {
	b.t.Helper()
	select {
	case <-b.done:
	case <-time.After(within):
		b.t.Errorf("the session still runs after %s", within)
	}
}

// An upstream that goes on asking within AUTH before the client has answered.
func TestAnUpstreamThatAsksAgainAndAgainWithinAUTHDoesNotHangTheSession(t *testing.T) {
	b := newBench(t, options{})
	up := b.greeted(true, "AUTH LOGIN")
	b.client.say("STARTTLS\n")
	b.client.hears("220 2.0.0 …")
	if err := b.client.startTLS(nil); err != nil {
		t.Fatal(err)
	}
	b.client.say("EHLO client.example\n")
	b.client.reply()
	b.client.say("AUTH LOGIN\n")
	up.hears("AUTH LOGIN")
	up.say("334 a\n334 b\n334 c\n334 d\n")
	b.client.hears("334 a")
	b.client.raw.Close()
	up.raw.Close()
	b.ended(3 * time.Second)
}

// A client refused for good, whose line has no end.
func TestAFarewellEndsAtALineWithoutEnd(t *testing.T) {
	b := newBench(t, options{rules: []enforce.Rule{{Name: "all", TLS: enforce.Forced, OnViolation: enforce.OnViolationReject}}})
	up := b.server()
	up.say("220 mx.example.net\n")
	b.client.hears("220 mx.example.net")
	b.client.say("EHLO a\n")
	up.hears("EHLO a")
	up.say("250 mx.example.net\n")
	b.client.raws(strings.Repeat("x", 100_000))
	b.client.raw.SetReadDeadline(time.Now().Add(time.Second))
	n, _ := io.Copy(io.Discard, b.client.r)
	if n > 10_000 {
		t.Errorf("for one line the client hears %d octets in a second", n)
	}
	b.client.raw.Close()
}

// A client that ends its sending side within a line, or within a later chunk,
// still hears that its message was accepted.
func TestTheReplyToAMessageReachesAClientThatEndsItsSendingSide(t *testing.T) {
	for name, behind := range map[string]string{
		"within a line":                    "QUI",
		"within a chunk that is swallowed": "BDAT 100\r\nabc",
		"within the next message":          "MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nBDAT 100 LAST\r\nabc",
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, options{})
			up := b.greeted(true, "CHUNKING", "PIPELINING")
			b.client.raws("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nBDAT 3 LAST\r\nabc" + behind)
			b.client.raw.(*net.TCPConn).CloseWrite()
			up.hears("MAIL FROM:<a@x.example>", "RCPT TO:<b@x.example>", "BDAT 3 LAST")
			up.octets("abc")
			time.Sleep(50 * time.Millisecond)
			io.WriteString(up.conn, "250 ok\r\n250 ok\r\n250 2.0.0 queued\r\n")
			all, _ := io.ReadAll(b.client.r)
			if !strings.Contains(string(all), "queued") {
				t.Errorf("the client hears %q, the upstream accepted the message", all)
			}
		})
	}
}

// A client that stalls within a later chunk is not told 421 in the place of the
// reply to its message.
func TestATimeoutWithinALaterChunkDoesNotOvertakeTheReplyToAMessage(t *testing.T) {
	for name, behind := range map[string]string{
		"swallowed":        "BDAT 100\r\nabc",
		"the next message": "MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nBDAT 100 LAST\r\nabc",
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, options{edit: func(s *Snapshot) { s.Timeouts.Data = 200 * time.Millisecond }})
			up := b.greeted(true, "CHUNKING", "PIPELINING")
			b.client.raws("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nBDAT 3 LAST\r\nabc" + behind)
			up.hears("MAIL FROM:<a@x.example>", "RCPT TO:<b@x.example>", "BDAT 3 LAST")
			up.octets("abc")
			io.WriteString(up.conn, "250 ok\r\n250 ok\r\n")
			b.client.hears("250 ok", "250 ok")
			time.Sleep(500 * time.Millisecond)
			io.WriteString(up.conn, "250 2.0.0 queued\r\n")
			b.client.hears("250 2.0.0 queued")
		})
	}
}

// The drain limit passes between the upstream's reply and the client's hearing it.
func TestAnAbortDoesNotLoseAReplyThatHasCome(t *testing.T) {
	var hook atomic.Pointer[func(p []byte)]
	b := newBench(t, options{wrap: func(c net.Conn) net.Conn {
		return &hooked{TCPConn: c.(*net.TCPConn), write: func(p []byte) {
			if f := hook.Load(); f != nil {
				(*f)(p)
			}
		}}
	}})
	up := b.greeted(true)
	inData(b, up)
	b.client.say("x\n.\n")
	up.octets("x\r\n.\r\n")
	f := func(p []byte) {
		if bytes.Contains(p, []byte("queued")) {
			b.session.Abort()
		}
	}
	hook.Store(&f)
	up.say("250 2.0.0 queued\n")
	got, err := b.client.r.ReadString('\n')
	if !strings.HasPrefix(got, "250 2.0.0 queued") {
		t.Errorf("the client hears %q (%v), the upstream accepted the message", got, err)
	}
}

// Chunk upon chunk, the next always sent before the last is answered.
func TestAnAbortEndsASessionThatIsNeverWithoutAReplyToCome(t *testing.T) {
	b := newBench(t, options{})
	up := b.greeted(true, "CHUNKING", "PIPELINING")
	b.client.say("MAIL FROM:<a@x.example>\nRCPT TO:<b@x.example>\nBDAT 3\nx\n")
	up.hears("MAIL FROM:<a@x.example>", "RCPT TO:<b@x.example>", "BDAT 3")
	up.octets("x\r\n")
	up.say("250 ok\n250 ok\n")
	b.client.hears("250 ok", "250 ok")
	b.session.Drain()
	b.session.Abort()
	for i := range 20 {
		if _, err := io.WriteString(b.client.conn, "BDAT 3\r\nx\r\n"); err != nil {
			return
		}
		up.raw.SetReadDeadline(time.Now().Add(time.Second))
		if got, err := up.r.ReadString('\n'); got != "BDAT 3\r\n" || err != nil {
			return
		}
		up.octets("x\r\n")
		io.WriteString(up.conn, "250 chunk\r\n")
		if got, err := b.client.r.ReadString('\n'); got != "250 chunk\r\n" || err != nil {
			return
		}
		if i == 19 {
			t.Error("20 chunks after the abort the session still takes more")
		}
	}
}

// A last chunk that is refused for want of a recipient leaves the sender in force
// (RFC 3030 §2): what was pipelined behind it must not go up as a message of that
// sender, to a recipient who was judged with another.
func TestNoMessageGoesUpInAnEnvelopeThatWasNotJudged(t *testing.T) {
	b := newBench(t, options{})
	up := b.greeted(true, "CHUNKING", "PIPELINING")
	b.client.raws("MAIL FROM:<a@one.example>\r\nRCPT TO:<nobody@x.example>\r\nBDAT 3 LAST\r\none" +
		"MAIL FROM:<b@two.example>\r\nRCPT TO:<c@x.example>\r\nBDAT 3 LAST\r\ntwo")
	up.hears("MAIL FROM:<a@one.example>", "RCPT TO:<nobody@x.example>", "BDAT 3 LAST")
	up.octets("oneMAIL FROM:<b@two.example>\r\nRCPT TO:<c@x.example>\r\n")
	up.say("250 ok\n550 no\n503 no valid recipients\n503 nested\n250 ok\n")
	rest, _ := io.ReadAll(up.r)
	if strings.Contains(string(rest), "two") {
		t.Errorf("goes up to c as a message of a, though judged as one of b: %q", rest)
	}
}
