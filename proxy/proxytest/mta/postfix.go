package mta

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"postern/proxy/proxytest/netlab"
)

// Level is how a sender uses TLS (smtp_tls_security_level of postconf(5)).
type Level string

// The levels.
const (
	None    Level = "none"    // never
	May     Level = "may"     // where it is offered
	Encrypt Level = "encrypt" // always, whoever the server is
	Verify  Level = "verify"  // always, with a certificate that verifies and has the name
)

// Options say what a Postfix is like.
type Options struct {
	Name string // its host name: in banner, EHLO and Received

	// As receiver. Without Listen it only sends.
	Listen           []netip.Addr // it listens at port 25 of these
	Domains          []string     // it takes mail for these and keeps it
	Certificate, Key string       // PEM files for STARTTLS, which is offered if given

	// As sender. Routes leads from a recipient domain to the host that gets its
	// mail; "*" is every other domain. Without a route mail bounces.
	Routes map[string]netip.AddrPort
	TLS    Level    // empty: none
	Roots  string   // PEM file of the authorities to verify by
	Names  []string // that a certificate must have for Verify

	// Parameters are further lines of main.cf, and stand over all others.
	Parameters map[string]string
}

// Postfix is a mail server of its own: nothing of it is shared with another one
// or with the machine's. Its methods may be called from several goroutines.
type Postfix struct {
	host   *netlab.Host
	in     installation
	dir    string
	kill   context.CancelFunc
	master *exec.Cmd

	ended   chan struct{} // closed when master is gone
	err     error         // how it went, once ended
	once    sync.Once
	stopErr error
}

// These bound how long a start and an orderly stop may take.
const (
	startLimit = 30 * time.Second
	stopLimit  = 10 * time.Second
)

// StartPostfix starts a Postfix on a host and returns once it listens. Where the
// machine lacks something for it the error is a *[MissingError].
//
// It runs in a process namespace of its own, whose end is the end of all its
// daemons; when the host is closed or this program dies it is gone as well.
func StartPostfix(host *netlab.Host, o Options) (*Postfix, error) {
	if err := severalIDs(); err != nil {
		return nil, err
	}
	in, err := findInstallation()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "postfix-")
	if err != nil {
		return nil, fmt.Errorf("mta: %w", err)
	}
	p := &Postfix{host: host, in: in, dir: dir, ended: make(chan struct{})}
	if err := p.configure(o); err != nil {
		return nil, errors.Join(fmt.Errorf("mta: %s: %w", o.Name, err), os.RemoveAll(dir))
	}
	if err := p.start(); err != nil {
		return nil, errors.Join(fmt.Errorf("mta: %s: %w", o.Name, err), os.RemoveAll(dir))
	}
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	if _, err := p.WaitLog(ctx, startedLine); err != nil {
		log, logErr := p.Log()
		return nil, errors.Join(fmt.Errorf("mta: %s: starting: %w; its log: %q", o.Name, err, log), logErr, p.Stop())
	}
	return p, nil
}

// start runs the master. Being the first process of its namespace it may run in
// the foreground (-i, as in containers).
func (p *Postfix) start() error {
	ctx, kill := context.WithCancel(context.Background())
	p.kill = kill
	p.master = p.host.Command(ctx, filepath.Join(p.in.daemons, "master"), "-i", "-c", p.config())
	p.master.SysProcAttr.Cloneflags |= syscall.CLONE_NEWPID
	p.master.Dir = p.dir
	if err := p.host.Start(p.master); err != nil {
		kill()
		return err
	}
	go func() {
		p.err = p.master.Wait()
		close(p.ended)
	}()
	return nil
}

// Stop ends all daemons and removes queue, mailbox and log. The error says so if
// Postfix had ended by itself before, or would not end when told. A second Stop
// returns the same.
func (p *Postfix) Stop() error {
	p.once.Do(func() { p.stopErr = errors.Join(p.stop(), os.RemoveAll(p.dir)) })
	return p.stopErr
}

func (p *Postfix) stop() error {
	defer p.kill()
	select {
	case <-p.ended:
		return fmt.Errorf("mta: postfix had ended by itself: %w", p.err)
	default:
	}
	if err := p.master.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("mta: stopping postfix: %w", err)
	}
	timer := time.NewTimer(stopLimit)
	defer timer.Stop()
	select {
	case <-p.ended:
		return nil
	case <-timer.C:
		p.kill()
		<-p.ended
		return fmt.Errorf("mta: postfix did not end within %s and was killed", stopLimit)
	}
}
