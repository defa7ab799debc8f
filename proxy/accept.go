package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"go.uber.org/zap"

	"postern/enforce"
	"postern/proxy/internal/intercept"
	"postern/proxy/internal/session"
)

const (
	beat       = 5 * time.Second // how often an idle accept loop comes round
	backoffMin = 5 * time.Millisecond
	backoffMax = time.Second
)

// accept takes connections from one listener until the server stops. Errors of
// accepting, such as too many open files, are waited out: the connections stay in
// the socket's queue meanwhile.
func (s *Server) accept(l *listener, loop int) error {
	backoff := time.Duration(0)
	for {
		l.beat(loop)
		l.SetDeadline(time.Now().Add(beat))
		conn, err := l.AcceptTCP()
		switch {
		case err == nil:
			backoff = 0
			s.take(conn)
			continue
		case s.isStopping():
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case errors.Is(err, net.ErrClosed):
			return err
		}
		if backoff == 0 {
			s.current.Load().log.Warn("accept failed, trying again", zap.Error(err))
		}
		backoff = min(max(2*backoff, backoffMin), backoffMax)
		select {
		case <-time.After(backoff):
		case <-s.stopping:
			return nil
		}
	}
}

func (s *Server) isStopping() bool {
	select {
	case <-s.stopping:
		return true
	default:
		return false
	}
}

// take begins a session with an accepted connection, or refuses it.
func (s *Server) take(conn *net.TCPConn) {
	snap := s.current.Load()
	arrival, err := s.gate.Arrive(conn)
	if err != nil {
		snap.log.Warn("connection refused", zap.Error(err))
		conn.Close()
		return
	}
	one := session.New(&snap.Snapshot, session.Arrival{
		Conn:      conn,
		Client:    arrival.Client,
		Upstream:  arrival.Destination,
		Interface: arrival.Interface,
	}, s.dial(snap, arrival), snap.log)
	source := sourceOf(arrival.Client.Addr())
	if limit := s.admit(one, source, snap); limit != "" {
		one.Refuse(enforce.Overload, limit)
		return
	}
	go one.Start(func() { s.dismiss(one) })
}

// sourceOf is what one client counts as: its address, or its /64, of which one
// machine has all.
func sourceOf(a netip.Addr) netip.Addr {
	if a.Is4() {
		return a
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a
	}
	return p.Addr()
}

// admit enters a session, or says which limit keeps it out.
func (s *Server) admit(one *session.Session, source netip.Addr, snap *snapshot) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.isStopping():
		return "service is shutting down"
	case len(s.sessions) >= snap.limits.Sessions:
		return "too many sessions"
	case s.sources[source] >= snap.limits.SessionsPerSource:
		return "too many sessions from your address"
	}
	s.sessions[one] = source
	s.sources[source]++
	s.running.Add(1)
	return ""
}

func (s *Server) dismiss(one *session.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	source := s.sessions[one]
	delete(s.sessions, one)
	if s.sources[source]--; s.sources[source] <= 0 {
		delete(s.sources, source)
	}
	s.running.Done()
}

// dial returns how a session connects to its upstream: where the client meant to
// go, or where the configuration sends everybody, which has to be looked up once.
func (s *Server) dial(snap *snapshot, arrival intercept.Arrival) session.Dial {
	return func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		if to.IsValid() {
			return connOrError(s.gate.Dial(ctx, arrival, to))
		}
		return s.dialNamed(ctx, arrival, snap.upstream)
	}
}

// connOrError keeps a nil *net.TCPConn from becoming a net.Conn that is not nil.
func connOrError(conn *net.TCPConn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// dialNamed connects to host:port, trying each address of the host in the order
// of the resolver, all within the time of ctx.
func (s *Server) dialNamed(ctx context.Context, arrival intercept.Arrival, upstream string) (net.Conn, error) {
	host, service, err := net.SplitHostPort(upstream)
	if err != nil {
		return nil, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "tcp", service)
	if err != nil {
		return nil, err
	}
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var failed error
	for i, a := range addresses {
		share := ctx
		if deadline, ok := ctx.Deadline(); ok {
			// An address that does not answer leaves time for the others.
			var cancel context.CancelFunc
			share, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(len(addresses)-i))
			defer cancel()
		}
		conn, err := s.gate.Dial(share, arrival, netip.AddrPortFrom(a.Unmap(), uint16(port)))
		if err == nil {
			return conn, nil
		}
		failed = errors.Join(failed, err)
	}
	return nil, failed
}
