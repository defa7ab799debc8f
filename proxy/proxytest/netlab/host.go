package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Host is a network of one's own: interfaces, addresses, routes, netfilter
// rules, conntrack and /proc/sys/net. Sockets made inside Do belong to it for
// life, whichever thread uses them later.
type Host struct {
	name string
	ns   *os.File

	jobs    chan func() // run on the home thread, which never leaves the host
	closing chan struct{}
	ended   chan struct{}
	once    sync.Once
}

// NewHost makes a host without any interface but lo, which is up. IPv6 duplicate
// address detection is off, so that an address can be used at once.
func NewHost(name string) (*Host, error) {
	h := &Host{
		name: name, jobs: make(chan func()),
		closing: make(chan struct{}), ended: make(chan struct{}),
	}
	made := make(chan error)
	go h.home(made)
	if err := <-made; err != nil {
		return nil, fmt.Errorf("netlab: host %s: %w", name, err)
	}
	for _, which := range []string{"all", "default"} {
		if err := h.Sysctl("net/ipv6/conf/"+which+"/accept_dad", "0"); err != nil {
			return nil, errors.Join(err, h.Close())
		}
	}
	if err := h.Do(loopbackUp); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// home unshares its thread and lives on it until the host is closed. The thread
// is never unlocked, so it dies with the goroutine and cannot be reused for
// anything outside. Programs are forked from it, for their death signal is tied
// to the thread that forked them.
func (h *Host) home(made chan<- error) {
	runtime.LockOSThread()
	defer close(h.ended)
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		made <- fmt.Errorf("unshare: %w", err)
		return
	}
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		made <- err
		return
	}
	h.ns = ns
	made <- nil
	for {
		select {
		case <-h.closing:
			return
		case job := <-h.jobs:
			job()
		}
	}
}

// Name is what NewHost was given.
func (h *Host) Name() string { return h.name }

// Close lets the host go: its programs are killed, and its interfaces vanish
// when the last socket in it is closed. Closing twice does nothing.
func (h *Host) Close() error {
	err := error(nil)
	h.once.Do(func() {
		close(h.closing)
		<-h.ended
		if h.ns != nil {
			err = h.ns.Close()
		}
	})
	return err
}

// Do runs the function on a thread inside the host and waits for it. What it
// opens belongs to the host. It must not start goroutines that are to stay
// inside (they run on other threads), and it must not end its goroutine, as
// testing.T.FailNow does: it returns an error instead.
func (h *Host) Do(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		outside, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		defer outside.Close()
		if err := unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("netlab: entering %s: %w", h.name, err)
			return
		}
		finished := false
		defer func() {
			if !finished {
				result <- fmt.Errorf("netlab: the function run in %s ended its goroutine", h.name)
			}
		}()
		err = f()
		finished = true
		// A thread that cannot return stays locked and dies with this goroutine:
		// nothing else may ever run in the wrong network.
		if unix.Setns(int(outside.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// Listen opens a TCP listener on the host.
func (h *Host) Listen(address netip.AddrPort) (*net.TCPListener, error) {
	var listener *net.TCPListener
	err := h.Do(func() error {
		var config net.ListenConfig
		config.SetMultipathTCP(false)
		opened, err := config.Listen(context.Background(), network(address), address.String())
		if err == nil {
			listener = opened.(*net.TCPListener)
		}
		return err
	})
	return listener, err
}

// Dial opens a TCP connection from the host. A zero from lets the kernel choose;
// a given port may be one that is still in TIME_WAIT.
func (h *Host) Dial(ctx context.Context, from, to netip.AddrPort) (*net.TCPConn, error) {
	var conn *net.TCPConn
	err := h.Do(func() error {
		dialer := net.Dialer{Control: reuseAddress}
		if from.IsValid() {
			dialer.LocalAddr = net.TCPAddrFromAddrPort(from)
		}
		dialled, err := dialer.DialContext(ctx, network(to), to.String())
		if err == nil {
			conn = dialled.(*net.TCPConn)
		}
		return err
	})
	return conn, err
}

func network(address netip.AddrPort) string {
	if address.Addr().Unmap().Is4() {
		return "tcp4"
	}
	return "tcp6"
}

func reuseAddress(_, _ string, raw syscall.RawConn) error {
	var optionErr error
	err := raw.Control(func(fd uintptr) {
		optionErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	})
	return errors.Join(err, optionErr)
}

// Command prepares a program for Start or Run on a host. It is killed when the
// context ends, the host is closed or this program dies.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, name, args...)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return command
}

// Start starts a program made by Command inside the host. Its own Start method
// would start it wherever the calling thread happens to be.
func (h *Host) Start(command *exec.Cmd) error {
	result := make(chan error, 1)
	select {
	case <-h.ended:
		return fmt.Errorf("netlab: host %s is closed", h.name)
	case h.jobs <- func() { result <- command.Start() }:
	}
	return <-result
}

// Run is Start and Wait.
func (h *Host) Run(command *exec.Cmd) error {
	if err := h.Start(command); err != nil {
		return err
	}
	return command.Wait()
}

// Sysctl sets a value below /proc/sys/net as the host sees it. The key is
// written with dots, or with slashes where an interface name has a dot.
func (h *Host) Sysctl(key, value string) error {
	if !strings.Contains(key, "/") {
		key = strings.ReplaceAll(key, ".", "/")
	}
	// /proc/sys/net shows the namespace of the thread that opens it; the rest of
	// /proc/sys is the machine's and not ours to change.
	if !strings.HasPrefix(key, "net/") {
		return fmt.Errorf("netlab: sysctl %s is not of the network", key)
	}
	err := h.Do(func() error {
		file, err := os.OpenFile("/proc/sys/"+key, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = file.WriteString(value)
		if closeErr := file.Close(); err == nil {
			err = closeErr
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("netlab: host %s: sysctl %s = %s: %w", h.name, key, value, err)
	}
	return nil
}
