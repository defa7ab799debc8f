package proxytest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// DefaultCapabilities are what a [Server] offers if it is not told otherwise;
// STARTTLS, AUTH and a limit of SIZE are added by what else is configured.
var DefaultCapabilities = []string{
	"PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "CHUNKING", "BINARYMIME",
}

const (
	defaultName    = "mx.test"
	defaultTimeout = 5 * time.Minute
)

// ServerConfig is what a [Server] is like. The zero value is a well-behaved
// server without TLS.
type ServerConfig struct {
	Name   string      // in banner and EHLO; empty: mx.test
	Banner string      // the text behind 220; empty: "NAME ESMTP proxytest"
	TLS    *tls.Config // nil: STARTTLS is neither offered nor known

	Capabilities    []string          // nil: DefaultCapabilities
	CapabilitiesTLS []string          // within TLS; nil: the same
	HideSTARTTLS    bool              // takes STARTTLS but does not offer it, as behind a box that strips it
	HELOOnly        bool              // answers EHLO with 502
	Users           map[string]string // name to password; AUTH is offered if there are any, in clear too
	MaxSize         int64             // bytes of a message; 0: no limit

	On         map[Stage]Action  // misbehaviour
	Recipients map[string]string // replies to single recipients, by address as it was written
	Inject     []byte            // sent behind the 220 to STARTTLS, with it in one piece
	Delay      time.Duration     // before every reply
	LaxEnd     bool              // ends a message at \n.\n, \n.\r\n and \r\n.\n too

	// OldTLS makes the server blind for the extension supported_versions, as
	// all were before TLS 1.3: with a TLS configuration below 1.3 it answers a
	// modern client with the ServerHello of its own old version, where
	// crypto/tls would send an alert. Who accepts that version cannot finish
	// the handshake, because what the two ends read differs.
	OldTLS bool

	// Discard keeps size and digest of messages and not the bytes.
	Discard bool

	// Timeout bounds each read and write; 0: 5 minutes.
	Timeout time.Duration
}

// Server is an SMTP server for tests. It keeps a record of everything; all
// methods may be called at any time from any goroutine.
type Server struct {
	listener net.Listener
	running  sync.WaitGroup

	mu       sync.Mutex
	config   ServerConfig
	sessions []*Session
	open     map[net.Conn]struct{}
	changed  chan struct{} // closed and replaced whenever the record changes
	closing  chan struct{}
}

// Serve starts a server on a listener, which it then owns. The listener may
// belong to another network namespace.
func Serve(ln net.Listener, cfg ServerConfig) *Server {
	s := &Server{
		listener: ln,
		config:   cfg.withDefaults(),
		open:     map[net.Conn]struct{}{},
		changed:  make(chan struct{}),
		closing:  make(chan struct{}),
	}
	s.running.Go(s.accept)
	return s
}

func (c ServerConfig) withDefaults() ServerConfig {
	if c.Name == "" {
		c.Name = defaultName
	}
	if c.Banner == "" {
		c.Banner = c.Name + " ESMTP proxytest"
	}
	if c.Capabilities == nil {
		c.Capabilities = DefaultCapabilities
	}
	if c.CapabilitiesTLS == nil {
		c.CapabilitiesTLS = c.Capabilities
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	return c
}

// Configure gives the server another temper, for connections yet to come.
func (s *Server) Configure(cfg ServerConfig) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config = cfg.withDefaults()
}

// Addr returns where the server listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Close closes the listener and all connections, and returns when nothing of
// the server runs any more. The record stays.
func (s *Server) Close() error {
	s.mu.Lock()
	select {
	case <-s.closing:
		s.mu.Unlock()
		return net.ErrClosed
	default:
		close(s.closing)
	}
	err := s.listener.Close()
	for c := range s.open {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
	return err
}

func (s *Server) accept() {
	for {
		nc, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors, or the peer is gone already: the next may do.
			select {
			case <-s.closing:
				return
			case <-time.After(10 * time.Millisecond):
				continue
			}
		}
		s.start(nc)
	}
}

func (s *Server) start(nc net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closing:
		_ = nc.Close()
		return
	default:
	}
	session := &Session{ID: len(s.sessions) + 1, Remote: nc.RemoteAddr(), Local: nc.LocalAddr()}
	s.sessions = append(s.sessions, session)
	s.open[nc] = struct{}{}
	s.notify()
	c := newConversation(s, s.config, nc, session)
	s.running.Go(func() {
		end := c.run()
		_ = nc.Close()
		s.note(func() {
			session.Ended, session.End = true, end.Error()
			delete(s.open, nc)
		})
	})
}

// note changes the record under the lock and wakes those who wait for it.
func (s *Server) note(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	s.notify()
}

func (s *Server) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Sessions returns a copy of the record of every connection, in the order in
// which they came.
func (s *Server) Sessions() []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.copySessions()
}

func (s *Server) copySessions() []Session {
	list := make([]Session, 0, len(s.sessions))
	for _, session := range s.sessions {
		list = append(list, session.clone())
	}
	return list
}

// Messages returns the accepted messages of all sessions in the order of the
// sessions, then of their arrival.
func (s *Server) Messages() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Message
	for _, session := range s.sessions {
		list = append(list, session.Messages...)
	}
	return list
}

// WaitMessages waits until n messages have been accepted in all and returns
// them; if ctx ends before, its error and those there are.
func (s *Server) WaitMessages(ctx context.Context, n int) ([]Message, error) {
	err := s.wait(ctx, func() bool { return s.countMessages() >= n })
	list := s.Messages()
	if err != nil {
		err = fmt.Errorf("%d of %d messages arrived: %w", len(list), n, err)
	}
	return list, err
}

func (s *Server) countMessages() int {
	n := 0
	for _, session := range s.sessions {
		n += len(session.Messages)
	}
	return n
}

// WaitSessions waits until n connections have ended and returns the record of
// all; if ctx ends before, its error and what there is.
func (s *Server) WaitSessions(ctx context.Context, n int) ([]Session, error) {
	err := s.wait(ctx, func() bool { return len(s.sessions)-len(s.open) >= n })
	return s.Sessions(), err
}

// Wait waits until the record fulfils a condition and returns it; if ctx ends
// before, its error and the record as it is. enough is called with a copy, each
// time that something happened, and must not call methods of the server.
func (s *Server) Wait(ctx context.Context, enough func([]Session) bool) ([]Session, error) {
	var list []Session
	err := s.wait(ctx, func() bool {
		list = s.copySessions()
		return enough(list)
	})
	return list, err
}

// wait waits for a condition, which is called under the lock.
func (s *Server) wait(ctx context.Context, enough func() bool) error {
	for {
		s.mu.Lock()
		done, changed := enough(), s.changed
		s.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
