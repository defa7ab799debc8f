package mta

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"syscall"
	"time"

	"postern/proxy/proxytest/netlab"
)

// Server is a mail server of its own: nothing of it is shared with another one
// or with the machine's. Its methods may be called from several goroutines.
type Server interface {
	// Program is the program's name: "Postfix", "Exim", "OpenSMTPD" or "sendmail".
	Program() string

	// Submit puts a message into the queue, as programs on the host do. Lines of
	// the content end in CRLF or LF and leave in CRLF.
	Submit(from string, to []string, content []byte) error
	// Flush has it try at once to deliver what is in the queue, and does not wait
	// for the outcome.
	Flush() error
	// Queue is what has not been delivered yet, in no particular order.
	Queue() ([]Queued, error)
	// WaitQueue waits until the queue is as wanted, twice in a row, and returns it.
	WaitQueue(ctx context.Context, wanted func([]Queued) bool) ([]Queued, error)

	// Messages returns what was delivered to this server's own domains until now
	// and was not forgotten, in no particular order; a message to two recipients
	// twice.
	Messages() ([]Message, error)
	// WaitMessages waits until these are at least n, and returns all.
	WaitMessages(ctx context.Context, n int) ([]Message, error)
	// Forget removes one of them.
	Forget(Message) error

	// Log returns the lines that were logged until now.
	Log() ([]string, error)
	// WaitLog waits for a line that matches, logged at any time, and returns the
	// first.
	WaitLog(ctx context.Context, pattern *regexp.Regexp) (string, error)

	// Stop ends it and removes queue, mailbox and log. The error says so if it had
	// ended by itself before, or would not end when told. A second Stop returns
	// the same.
	Stop() error
}

// Program is one that [Server] is made of.
type Program struct {
	Name string
	// Start starts one on a host and returns once it listens. Where the machine
	// lacks something for it the error is a *[MissingError].
	Start func(*netlab.Host, Options) (Server, error)
}

// Programs are all that this package knows, in the order of their names.
func Programs() []Program {
	return []Program{
		{"Exim", func(h *netlab.Host, o Options) (Server, error) { return asServer(StartExim(h, o)) }},
		{"OpenSMTPD", func(h *netlab.Host, o Options) (Server, error) { return asServer(StartOpenSMTPD(h, o)) }},
		{"Postfix", func(h *netlab.Host, o Options) (Server, error) { return asServer(StartPostfix(h, o)) }},
		{"sendmail", func(h *netlab.Host, o Options) (Server, error) { return asServer(StartSendmail(h, o)) }},
	}
}

// asServer keeps a nil pointer from becoming an interface that is not nil.
func asServer[S Server](s S, err error) (Server, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Level is how a sender uses TLS (smtp_tls_security_level of postconf(5)).
type Level string

// The levels.
const (
	None    Level = "none"    // never
	May     Level = "may"     // where it is offered
	Encrypt Level = "encrypt" // always, whoever the server is
	Verify  Level = "verify"  // always, with a certificate that verifies and has the name; Postfix alone
)

// Options say what a server is like.
type Options struct {
	Name string // its host name: in banner, EHLO and Received

	// As receiver. Without Listen it only sends.
	Listen           []netip.Addr // it listens at port 25 of these
	Domains          []string     // it takes mail for these and keeps it
	Certificate, Key string       // PEM files for STARTTLS, which is offered if given
	Staple           string       // DER file of an OCSP answer that it staples; Exim alone

	// As sender. Routes leads from a recipient domain to the host that gets its
	// mail; "*" is every other domain. Without a route mail bounces.
	Routes map[string]netip.AddrPort
	TLS    Level    // empty: none
	Roots  string   // PEM file of the authorities for Verify
	Names  []string // that a certificate must have for Verify
	// Together has messages leave in one session, where they go to one host: the
	// queue is kept until Flush. Postfix does not keep it, but sends over one
	// connection what is there when it is done with a message.
	Together bool

	// Lenient takes line ends that RFC 5321 §2.3.8 forbids, as far as the program
	// can be told to. Without it the program's own default holds, which for
	// Postfix before 3.9 is the same.
	Lenient bool

	// Parameters are further settings, and stand over all others: lines of main.cf
	// for Postfix, of the main section for Exim, of smtpd.conf for OpenSMTPD (the
	// key as it is, a blank, the value), and definitions in m4 for sendmail.
	Parameters map[string]string
}

// server is what all programs have in common: one process that is the first of a
// namespace, a file that it logs to and a maildir.
type server struct {
	program string
	host    *netlab.Host
	dir     string // all that is its own lies below
	log     string // file
	mailbox string // maildir
	release func() error
	queue   func() ([]Queued, error)

	command *exec.Cmd
	kill    context.CancelFunc
	ended   chan struct{} // closed when the process is gone
	err     error         // how it went, once ended
	once    sync.Once
	stopErr error
}

// These bound how long a start and an orderly stop may take.
const (
	startLimit = 30 * time.Second
	stopLimit  = 10 * time.Second
)

// Program is described at Server.
func (s *server) Program() string { return s.program }

// start runs the program, which stays in the foreground. It is the first process
// of its namespace, whose end is the end of all its children; when the host is
// closed or this program dies it is gone as well.
func (s *server) start(prepare func(*exec.Cmd), name string, args ...string) error {
	ctx, kill := context.WithCancel(context.Background())
	s.kill = kill
	s.command = s.host.Command(ctx, name, args...)
	s.command.SysProcAttr.Cloneflags |= syscall.CLONE_NEWPID
	prepare(s.command)
	if err := s.host.Start(s.command); err != nil {
		kill()
		return err
	}
	s.ended = make(chan struct{})
	go func() {
		s.err = s.command.Wait()
		close(s.ended)
	}()
	return nil
}

// started gives up a server that does not come to what ready waits for.
func (s *server) started(name string, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	err := ready(ctx)
	if err == nil {
		return nil
	}
	log, logErr := s.Log()
	return errors.Join(fmt.Errorf("mta: %s: starting %s: %w; its log: %q", name, s.program, err, log), logErr, s.Stop())
}

// Stop is described at Server.
func (s *server) Stop() error {
	s.once.Do(func() {
		s.stopErr = s.stop()
		if s.release != nil {
			s.stopErr = errors.Join(s.stopErr, s.release())
		}
		s.stopErr = errors.Join(s.stopErr, os.RemoveAll(s.dir))
	})
	return s.stopErr
}

func (s *server) stop() error {
	defer s.kill()
	select {
	case <-s.ended:
		return fmt.Errorf("mta: %s had ended by itself: %w", s.program, s.err)
	default:
	}
	if err := s.command.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("mta: stopping %s: %w", s.program, err)
	}
	timer := time.NewTimer(stopLimit)
	defer timer.Stop()
	select {
	case <-s.ended:
		return nil
	case <-timer.C:
		s.kill()
		<-s.ended
		return fmt.Errorf("mta: %s did not end within %s and was killed", s.program, stopLimit)
	}
}
