package leg

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"postern/smtpwire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func pair(t *testing.T) (*Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	far.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() { near.Close(); far.Close() })
	return New(near, 10*time.Second), far
}

func TestAnInterruptEndsTheWaitForACommandAndLosesNothing(t *testing.T) {
	c, far := pair(t)
	io.WriteString(far, "NO")
	result := make(chan error)
	go func() {
		_, err := c.ReadCommand(100, time.Minute)
		result <- err
	}()
	c.Interrupt()
	if err := <-result; !errors.Is(err, ErrInterrupted) {
		t.Fatal(err)
	}
	io.WriteString(far, "OP\r\n")
	if line, err := c.ReadCommand(100, time.Minute); string(line) != "NOOP" || err != nil {
		t.Errorf("%q, %v", line, err)
	}
}

func TestAnInterruptDoesNotDisturbContent(t *testing.T) {
	c, far := pair(t)
	c.Interrupt()
	io.WriteString(far, "content")
	if p, err := c.PeekContent(time.Minute); string(p) != "content" || err != nil {
		t.Errorf("%q, %v", p, err)
	}
}

// A message may take hours; one that comes an octet at a time may not.
func TestContentThatTricklesEndsInTime(t *testing.T) {
	const limit = 300 * time.Millisecond
	for name, tc := range map[string]struct {
		piece int
		ends  bool
	}{"an octet at a time": {1, true}, "slowly, but so that it comes to an end": {contentStep, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, far := pair(t)
			began := time.Now()
			go func() {
				for range 40 {
					time.Sleep(limit / 20) // the peer that is tested against
					far.Write(make([]byte, tc.piece))
				}
				far.Close()
			}()
			for {
				p, err := c.PeekContent(limit)
				c.Advance(len(p))
				if err == nil {
					continue
				}
				if got := EndingOf(err); (got == Timeout) != tc.ends || tc.ends && time.Since(began) < limit {
					t.Errorf("after %s: %v", time.Since(began), err)
				}
				return
			}
		})
	}
}

// Each message has its own time, whatever the one before it took.
func TestTheTimeForContentBeginsWithTheContent(t *testing.T) {
	const limit = 400 * time.Millisecond
	c, far := pair(t)
	for range 3 {
		go func() {
			time.Sleep(limit * 2 / 3) // the peer that is tested against
			far.Write([]byte("x"))
		}()
		p, err := c.PeekContent(limit)
		if err != nil {
			t.Fatal(err)
		}
		c.Advance(len(p))
		c.EndContent()
	}
}

func TestAnAbortEndsEveryRead(t *testing.T) {
	c, _ := pair(t)
	c.Abort()
	for name, read := range map[string]func() error{
		"command": func() error { _, err := c.ReadCommand(100, time.Minute); return err },
		"content": func() error { _, err := c.PeekContent(time.Minute); return err },
		"reply":   func() error { c.SetReplyDeadline(time.Now().Add(time.Minute)); _, err := c.ReadReply(1); return err },
		"start":   func() error { _, err := c.PeekStart(time.Minute); return err },
		"handshake": func() error {
			_, _, err := c.StartServer(&tls.Config{}, time.Minute)
			return err
		},
	} {
		if err := read(); !errors.Is(err, ErrAborted) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAbortEndsAWriteThatThePeerDoesNotTake(t *testing.T) {
	c, _ := pair(t)
	done := make(chan error)
	go func() {
		var err error
		for err == nil {
			err = c.Write(make([]byte, 1<<20))
		}
		done <- err
	}()
	time.AfterFunc(50*time.Millisecond, c.Abort)
	select {
	case err := <-done:
		if EndingOf(err) != Timeout {
			t.Errorf("%v", err)
		}
	case <-time.After(8 * time.Second):
		t.Error("the write goes on")
	}
}

func TestTheLastWordsArriveOverWhatWasNotRead(t *testing.T) {
	c, far := pair(t)
	if _, err := io.WriteString(far, strings.Repeat("x", 100_000)); err != nil {
		t.Fatal(err)
	}
	c.Write([]byte("421 bye\r\n"))
	c.Flush()
	go c.Linger()
	got, err := io.ReadAll(far)
	if string(got) != "421 bye\r\n" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	far.Close()
}

func TestNothingIsCarriedOverIntoTLS(t *testing.T) {
	c, far := pair(t)
	io.WriteString(far, "STARTTLS\r\nNOOP\r\n")
	if _, err := c.ReadCommand(100, time.Minute); err != nil {
		t.Fatal(err)
	}
	for c.Buffered() == 0 { // both lines came in one segment, or the second soon
		if _, err := c.PeekStart(time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := c.StartServer(&tls.Config{}, time.Minute); !errors.Is(err, ErrInjected) {
		t.Error(err)
	}
}

func TestAHandshakeThatStallsEndsInTime(t *testing.T) {
	c, _ := pair(t)
	began := time.Now()
	_, h, err := c.StartClient(&tls.Config{InsecureSkipVerify: true}, 100*time.Millisecond)
	if EndingOf(err) != Timeout || h.Offered == nil || time.Since(began) > 10*time.Second {
		t.Errorf("%v, %+v", err, h)
	}
}

func TestEachEndIsToldApart(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want Ending
	}{
		{nil, ""},
		{io.EOF, Closed},
		{fmt.Errorf("read: %w", io.EOF), Closed},
		{io.ErrUnexpectedEOF, Reset},
		{&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, Reset},
		{syscall.EPIPE, Reset},
		{os.ErrDeadlineExceeded, Timeout},
		{&net.OpError{Op: "remote error", Err: tls.AlertError(42)}, Alert},
		{smtpwire.ErrBareNewline, Broken},
		{fmt.Errorf("read: %w", &net.OpError{Op: "local error", Err: tls.AlertError(10)}), Broken},
		{errors.New("tls: received unexpected handshake message of type *tls.clientHelloMsg"), Broken},
		{tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, Broken},
		{ErrInjected, Broken},
		{ErrAborted, Aborted},
		{net.ErrClosed, Aborted},
		{errors.New("what"), Unlikely},
	} {
		if got := EndingOf(tc.err); got != tc.want {
			t.Errorf("%v: %q, want %q", tc.err, got, tc.want)
		}
	}
	if alert, ok := RemoteAlert(&net.OpError{Op: "remote error", Err: tls.AlertError(48)}); alert != 48 || !ok {
		t.Errorf("%d, %v", alert, ok)
	}
}
