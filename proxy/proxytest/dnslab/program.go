package dnslab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// A program is one that the lab has started.
type program struct {
	command *exec.Cmd
	ended   chan struct{}
}

// start starts a program whose standard error is a log.
func (l *Lab) start(log, name string, args ...string) (*program, error) {
	out, err := os.OpenFile(filepath.Join(l.dir, log), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p := &program{exec.Command(name, args...), make(chan struct{})}
	p.command.Dir, p.command.Stdout, p.command.Stderr = l.dir, out, out
	// It goes with the test, even if that is killed.
	p.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := l.place.Start(p.command); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.ended)
		p.command.Wait() //nolint:errcheck // how it ended is in its log
	}()
	return p, nil
}

// stop ends a program and waits until it has ended. Of none it does nothing.
func (p *program) stop() {
	if p == nil {
		return
	}
	if err := p.command.Process.Signal(syscall.SIGTERM); err == nil {
		select {
		case <-p.ended:
			return
		case <-time.After(patience / 3):
		}
	}
	p.command.Process.Kill() //nolint:errcheck // it may have ended by now
	<-p.ended
}

// await waits until the program's answer for the SOA record of a name is as wanted.
func (l *Lab) await(p *program, at netip.AddrPort, zone string, wanted func([]byte) bool) error {
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		var reply []byte
		err := l.place.Do(func() (err error) {
			reply, err = probe(at, zone)
			return err
		})
		if err == nil && wanted(reply) {
			return nil
		}
		select {
		case <-p.ended:
			return errors.New(filepath.Base(p.command.Path) + " has ended")
		case <-deadline:
			return fmt.Errorf("no good answer in time (%v)", err)
		case <-tick.C:
		}
	}
}

// here is the place where the test runs. Programs are started from one thread that
// lives as long as the lab does, for their death signal comes when that thread ends.
type here chan func()

func newHere() here {
	h := make(here)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for job := range h {
			job()
		}
	}()
	return h
}

func (here) Do(f func() error) error { return f() }

func (h here) Start(command *exec.Cmd) error {
	started := make(chan error, 1)
	h <- func() { started <- command.Start() }
	return <-started
}
