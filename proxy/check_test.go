package proxy

import (
	"context"
	"net"
	"testing"
	"time"
)

func TestTheWatchdogsCheckFailsWhenAcceptingHasStopped(t *testing.T) {
	s := &Server{stopping: make(chan struct{})}
	for range 2 {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv6loopback})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		s.add(l)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	s.listeners[1].rounds[0].Store(time.Now().Add(-4 * beat).UnixNano())
	if err := s.Check(ctx); err == nil {
		t.Error("a loop that is silent for long is taken for alive")
	}
	s.listeners[1].beat(0)
	if err := s.Check(ctx); err != nil {
		t.Error(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.Check(ctx); err == nil {
		t.Error("a table of sessions that cannot be had is taken for well")
	}
}
