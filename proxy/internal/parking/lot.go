// Package parking is where a connection waits that nobody has anything to say on.
// One thread watches over all of them, so that waiting needs no goroutine of its
// own: a stack and a buffer for each direction would be most of what an idle
// connection costs.
//
// It reads and writes nothing, and closes nothing.
package parking

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Lot holds sockets that are waited for. The zero Lot is empty and ready; while
// it is empty nothing of it runs.
type Lot struct {
	mu     sync.Mutex
	guests map[int32]*guest // by descriptor; each guest under all of its own
	watch  *watch           // nil while the lot is empty
}

// A guest is one wait.
type guest struct {
	sockets []int32
	wake    func()
	limit   *time.Timer
}

// A watch is the thread that looks out, while there is anybody to look out for.
type watch struct{ epoll, bell int }

// Park has wake called, on a goroutine of its own and once, when one of the sockets
// has something to be read (its end is something, too), at the time until, or when
// leave is called. Until then the sockets must be neither read nor closed. leave may
// be called from any goroutine, and any number of times.
//
// What was read from a socket already is not seen here: that is the caller's to
// look at before. The error is for sockets that cannot be watched; wake is never
// called then.
func (l *Lot) Park(sockets []net.Conn, until time.Time, wake func()) (leave func(), err error) {
	g := &guest{wake: wake}
	for _, s := range sockets {
		fd, err := descriptor(s)
		if err != nil {
			return nil, err
		}
		g.sockets = append(g.sockets, fd)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.enter(g); err != nil {
		return nil, err
	}
	leave = func() { l.leave(g) }
	g.limit = time.AfterFunc(time.Until(until), leave)
	return leave, nil
}

func descriptor(s net.Conn) (int32, error) {
	socket, ok := s.(syscall.Conn)
	if !ok {
		return 0, errors.New("parking: no socket")
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("parking: %w", err)
	}
	var descriptor int32
	if err := raw.Control(func(fd uintptr) { descriptor = int32(fd) }); err != nil {
		return 0, fmt.Errorf("parking: %w", err)
	}
	return descriptor, nil
}

// enter begins to watch over a guest, for all of its sockets or for none; l.mu is
// held.
func (l *Lot) enter(g *guest) error {
	if l.watch == nil {
		if err := l.begin(); err != nil {
			return fmt.Errorf("parking: %w", err)
		}
	}
	for i, fd := range g.sockets {
		event := &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: fd}
		if err := unix.EpollCtl(l.watch.epoll, unix.EPOLL_CTL_ADD, int(fd), event); err != nil {
			l.forget(g.sockets[:i])
			l.ringIfEmpty()
			return fmt.Errorf("parking: %w", err)
		}
		l.guests[fd] = g
	}
	return nil
}

// begin starts the thread; l.mu is held.
func (l *Lot) begin() error {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, bell, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(bell)})
	}
	if err != nil {
		return errors.Join(err, unix.Close(epoll))
	}
	l.watch, l.guests = &watch{epoll, bell}, make(map[int32]*guest)
	go l.look(l.watch)
	return nil
}

// look wakes whom something has come for, until the lot is empty.
func (l *Lot) look(w *watch) {
	events := make([]unix.EpollEvent, 128)
	for {
		n, err := unix.EpollWait(w.epoll, events, -1)
		if err != nil && err != unix.EINTR {
			panic("parking: epoll_wait: " + err.Error()) // a mistake of ours: the descriptor is not what it was
		}
		l.mu.Lock()
		for _, e := range events[:max(n, 0)] {
			if g := l.guests[e.Fd]; g != nil {
				l.dismiss(g)
			} else if e.Fd == int32(w.bell) {
				var rung [8]byte
				unix.Read(w.bell, rung[:]) // or it would ring for ever
			}
		}
		empty := len(l.guests) == 0
		if empty {
			l.watch, l.guests = nil, nil
		}
		l.mu.Unlock()
		if empty {
			unix.Close(w.bell)
			unix.Close(w.epoll)
			return
		}
	}
}

func (l *Lot) leave(g *guest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watch == nil || l.guests[g.sockets[0]] != g {
		return // it has left
	}
	l.dismiss(g)
	l.ringIfEmpty()
}

// dismiss ends the wait of a guest; l.mu is held.
func (l *Lot) dismiss(g *guest) {
	l.forget(g.sockets)
	if g.limit != nil {
		g.limit.Stop()
	}
	go g.wake()
}

// forget stops watching sockets; l.mu is held.
func (l *Lot) forget(sockets []int32) {
	for _, fd := range sockets {
		unix.EpollCtl(l.watch.epoll, unix.EPOLL_CTL_DEL, int(fd), nil) // closing them would do as well
		delete(l.guests, fd)
	}
}

// ringIfEmpty has the thread see that there is nobody left; l.mu is held.
func (l *Lot) ringIfEmpty() {
	if len(l.guests) == 0 {
		unix.Write(l.watch.bell, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}
