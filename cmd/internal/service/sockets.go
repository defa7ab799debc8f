package service

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// A Listener is a socket that was handed over listening.
type Listener struct {
	*net.TCPListener
	Name string // FileDescriptorName= of the socket unit, or a name made of the number
}

// Inherited gives the listening TCP sockets that the service manager handed over,
// in its order, and takes the variables that tell of them out of the environment.
// It gives none when none were handed over. Anything else that was handed over is
// an error, which names each; then all are closed and none is given, for to
// listen on some of them would be to leave the others unanswered.
func Inherited() ([]Listener, error) {
	var listeners []Listener
	var errs []error
	for i, f := range activation.Files(true) {
		l, err := listener(f)
		if err != nil {
			errs = append(errs, fmt.Errorf("inherited socket %d (%s): %w", i, f.Name(), err))
		} else {
			listeners = append(listeners, Listener{l, f.Name()})
		}
		// The listener has a descriptor of its own.
		if err := f.Close(); err != nil {
			errs = append(errs, fmt.Errorf("inherited socket %d (%s): %w", i, f.Name(), err))
		}
	}
	if len(errs) == 0 {
		return listeners, nil
	}
	for _, l := range listeners {
		errs = append(errs, l.Close())
	}
	return nil, errors.Join(errs...)
}

func listener(f *os.File) (*net.TCPListener, error) {
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("a socket of %s found, expected TCP", l.Addr().Network()), l.Close())
	}
	if err := listens(tcp); err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	return tcp, nil
}

// listens finds out whether the socket listens: with Accept=yes a socket unit
// hands over a connection, which net.FileListener takes for a listener.
func listens(l *net.TCPListener) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	var listening int
	var asked error
	if err := raw.Control(func(fd uintptr) {
		listening, asked = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	}); err != nil {
		return err
	}
	if asked != nil {
		return os.NewSyscallError("getsockopt", asked)
	}
	if listening == 0 {
		return errors.New("a socket that does not listen found, expected Accept=no in its unit")
	}
	return nil
}
