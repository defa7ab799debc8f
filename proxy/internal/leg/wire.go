package leg

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// A wire is the socket under TLS. While a handshake runs it is looked at; while
// message content flows it is read and written in pieces larger than a record, for
// what costs most of passing a record on is telling the kernel.
type wire struct {
	net.Conn
	eyes *eyes // nil when the handshake is over
	mute bool

	flowing bool    // reading is worth a large buffer
	dry     bool    // what is not here already is not waited for
	ahead   *octets // read and not yet taken; nil: nothing is
	r, w    int     // ahead[r:w] is that

	corked bool    // what is written is gathered
	sealed *octets // is that; nil: nothing is
	n      int     // sealed[:n]
}

// octets are a buffer on loan. Of what a session writes at once, 64 KiB, it holds
// the records.
type octets [68 << 10]byte

var lent = sync.Pool{New: func() any { return new(octets) }}

func (w *wire) Read(p []byte) (n int, err error) {
	switch {
	case w.ahead != nil:
		n = copy(p, w.ahead[w.r:w.w])
		if w.r += n; w.r == w.w {
			lent.Put(w.ahead)
			w.ahead = nil
		}
		return n, nil
	case w.dry:
		return 0, os.ErrDeadlineExceeded // which crypto/tls does not hold against the connection
	case w.flowing:
		if err = w.readAhead(); w.ahead == nil {
			return 0, err
		}
		return w.Read(p)
	}
	n, err = w.Conn.Read(p)
	if w.eyes != nil {
		w.eyes.in.Write(p[:n])
		w.eyes.keep(p[:n])
	}
	return n, err
}

// readAhead waits for octets, and then borrows a buffer for all that are there: who
// sends nothing holds none.
func (w *wire) readAhead() error {
	socket, ok := w.Conn.(syscall.Conn)
	if !ok {
		return w.fill(w.Conn.Read)
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		failed = w.fill(func(p []byte) (int, error) { return readNow(int(fd), p) })
		return failed != syscall.EAGAIN
	})
	if err == nil {
		err = failed
	}
	return err
}

// readNow is read(2), with the end of the stream as io.EOF.
func readNow(fd int, p []byte) (int, error) {
	for {
		n, err := syscall.Read(fd, p)
		switch {
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return 0, err
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// fill reads once into a buffer that it borrows, and keeps what came.
func (w *wire) fill(read func([]byte) (int, error)) error {
	buf := lent.Get().(*octets)
	n, err := read(buf[:])
	if n > 0 {
		w.ahead, w.r, w.w = buf, 0, n
		return nil // an error that came with it comes again
	}
	lent.Put(buf)
	return err
}

func (w *wire) Write(p []byte) (int, error) {
	if w.mute {
		return 0, ErrDeclined
	}
	if w.eyes != nil {
		w.eyes.out.Write(p)
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

// uncork writes what was gathered.
func (w *wire) uncork() (err error) {
	w.corked = false
	if w.sealed != nil {
		err = w.flush()
		lent.Put(w.sealed)
		w.sealed = nil
	}
	return err
}
