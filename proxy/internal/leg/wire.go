package leg

import (
	"net"
	"os"
	"sync"
	"syscall"
)

// A wire is the socket under TLS. While a handshake runs it is looked at; while
// message content flows records are read as long as there are any, and written
// together, for what costs most of passing one on is telling the kernel.
type wire struct {
	net.Conn
	eyes *eyes // nil when the handshake is over
	mute bool

	raw    syscall.RawConn // of the socket; nil while content does not flow
	dry    bool            // what is not here is not waited for: ErrDeadlineExceeded
	frame  framing         // of what was read
	more   bool            // what was read last may hold more than one record
	failed error           // of a read that did not wait; the next that does tells it

	// Who reads writes, too: an alert, or the answer to a KeyUpdate (RFC 8446 §4.6.3).
	writing sync.Mutex
	arm     func() error // gives a write its time; nil while the handshake has its own
	corked  bool         // what is written is gathered
	sealed  *octets      // is that; nil: nothing is
	n       int          // sealed[:n]
}

// octets are a buffer on loan. Of what a session writes at once, 64 KiB, it holds
// the records.
type octets [68 << 10]byte

var lent = sync.Pool{New: func() any { return new(octets) }}

func (w *wire) Read(p []byte) (n int, err error) {
	if w.dry {
		return w.readNow(p)
	}
	if w.failed != nil {
		return 0, w.failed
	}
	n, err = w.Conn.Read(p)
	if w.eyes != nil {
		w.eyes.in.Write(p[:n])
		w.eyes.keep(p[:n])
	}
	w.more = w.frame.ends(p[:n]) > 1
	return n, err
}

// framing follows where TLS records end (RFC 8446 §5.1).
type framing struct {
	header int // octets of the header that have been seen, of 5
	left   int // octets of the record that have not; its length while the header comes
}

// ends counts the records that end in p.
func (f *framing) ends(p []byte) (n int) {
	for len(p) > 0 {
		if f.header < 5 {
			if f.header >= 3 {
				f.left = f.left<<8 | int(p[0])
			}
			p = p[1:]
			if f.header++; f.header < 5 || f.left > 0 {
				continue
			}
		}
		taken := min(f.left, len(p))
		f.left -= taken
		p = p[taken:]
		if f.left == 0 {
			f.header = 0
			n++
		}
	}
	return n
}

// flow begins or ends the reading of content that flows.
func (w *wire) flow(begin bool) {
	switch socket, ok := w.Conn.(syscall.Conn); {
	case !begin:
		w.raw = nil
	case ok && w.raw == nil:
		w.raw, _ = socket.SyscallConn() // an error means a closed socket, which reading tells
	}
}

// readNow reads what the socket has, if that is worth looking at. Where there is
// nothing it gives the one error that crypto/tls does not hold against a connection.
func (w *wire) readNow(p []byte) (n int, err error) {
	if w.raw == nil {
		return 0, os.ErrDeadlineExceeded
	}
	failed := w.raw.Read(func(fd uintptr) bool {
		n, err = syscall.Read(int(fd), p)
		return true
	})
	switch {
	case failed != nil:
		return 0, failed
	case err != nil && err != syscall.EAGAIN && err != syscall.EINTR:
		w.failed = &net.OpError{Op: "read", Net: "tcp", Source: w.LocalAddr(), Addr: w.RemoteAddr(), Err: os.NewSyscallError("read", err)}
		return 0, os.ErrDeadlineExceeded
	case err != nil, n <= 0:
		return 0, os.ErrDeadlineExceeded // an end is there when it is waited for
	}
	return n, nil
}

func (w *wire) Write(p []byte) (int, error) {
	if w.mute {
		return 0, ErrDeclined
	}
	if w.eyes != nil {
		w.eyes.out.Write(p)
	}
	w.writing.Lock()
	defer w.writing.Unlock()
	if w.arm != nil {
		if err := w.arm(); err != nil {
			return 0, err
		}
	}
	if !w.corked {
		return w.Conn.Write(p)
	}
	if w.sealed == nil {
		w.sealed, w.n = lent.Get().(*octets), 0
	}
	if len(p) > len(w.sealed)-w.n {
		if err := w.flush(); err != nil {
			return 0, err
		}
	}
	if len(p) > len(w.sealed) {
		return w.Conn.Write(p)
	}
	w.n += copy(w.sealed[w.n:], p)
	return len(p), nil
}

func (w *wire) flush() error {
	_, err := w.Conn.Write(w.sealed[:w.n])
	w.n = 0
	return err
}

// cork has what is written gathered until uncork, or until it is too much.
func (w *wire) cork() {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.corked = true
}

// uncork writes what was gathered. What comes after it is written behind it.
func (w *wire) uncork() (err error) {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.corked = false
	if w.sealed != nil {
		err = w.flush()
		lent.Put(w.sealed)
		w.sealed = nil
	}
	return err
}
