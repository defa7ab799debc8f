package leg

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// stuck is a leg whose peer has not read for so long that a write failed.
func stuck(t *testing.T) (*Conn, net.Conn) {
	t.Helper()
	c, far := pair(t)
	c.write = 50 * time.Millisecond
	piece := make([]byte, 1<<20)
	for {
		if err := c.Write(piece); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			return c, far
		}
	}
}

// What the kernel keeps for a peer that reads nothing is megabytes, for minutes.
func TestAPeerThatDoesNotReadIsResetAndNotServedByTheKernelForEver(t *testing.T) {
	for name, end := range map[string]func(*Conn) error{"Close": (*Conn).Close, "Linger": (*Conn).Linger} {
		c, far := stuck(t)
		began := time.Now()
		if err := end(c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(began); took > lingerTime/2 {
			t.Errorf("%s waited %s for a peer that does not read", name, took)
		}
		if _, err := io.Copy(io.Discard, far); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: the peer read to the end: %v", name, err)
		}
	}
}

// After Abort a write fails because we wanted it to: what was said before is
// still to arrive.
func TestALegThatWasAbortedWithinAWriteIsNotReset(t *testing.T) {
	c, far := pair(t)
	c.write = time.Minute
	failed := make(chan error)
	go func() {
		piece := make([]byte, 1<<20)
		for {
			if err := c.Write(piece); err != nil {
				failed <- err
				return
			}
		}
	}()
	io.ReadFull(far, make([]byte, 1<<20)) // it writes
	c.Abort()
	if err := <-failed; err == nil {
		t.Fatal("a write after Abort succeeded")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, far); err != nil {
		t.Errorf("the peer cannot read to the end: %v", err)
	}
}
