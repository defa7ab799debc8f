package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"postern/proxy/proxytest"
)

// A tide is a flood of connections that are held open.
type tide struct {
	mu              sync.Mutex
	open            []net.Conn
	granted, halves int // sessions, and those of them that are in half a handshake
	refused         int // told 421 4.3.2
	odd             []string
	told            []time.Duration // until a refused one was told
}

// floodFromOne makes many connections from one address: sessions_per_source
// holds.
func (l *assault) floodFromOne(ctx context.Context) error {
	t := l.surge(ctx, l.sources[:1])
	l.ebb(ctx, t, perSource)
	if t.granted != perSource {
		l.finding("%d sessions were granted, the limit is %d", t.granted, perSource)
	}
	return nil
}

// floodFromMany makes many connections from many addresses: sessions holds.
func (l *assault) floodFromMany(ctx context.Context) error {
	t := l.surge(ctx, l.sources)
	l.ebb(ctx, t, everywhere)
	return nil
}

// surgeAtOnce is how many connections are made at the same time.
const surgeAtOnce = 64

// surge makes the connections. Every other one that is let in begins a handshake
// and goes no further.
func (l *assault) surge(ctx context.Context, from []netip.Addr) *tide {
	t := &tide{}
	numbers := make(chan int)
	var running sync.WaitGroup
	for range surgeAtOnce {
		running.Go(func() {
			for n := range numbers {
				l.wave(ctx, t, from[n%len(from)], n)
			}
		})
	}
	for n := range l.flood {
		numbers <- n
	}
	close(numbers)
	running.Wait()
	return t
}

func (l *assault) wave(ctx context.Context, t *tide, from netip.Addr, n int) {
	began := time.Now()
	conn, err := l.dial(ctx, from, idleServers[n%len(idleServers)])
	if err != nil {
		t.note(func() { t.odd = append(t.odd, err.Error()) })
		return
	}
	client := proxytest.NewClient(conn, patience)
	reply, err := client.ReadReply()
	switch {
	case err == nil && reply.Code == 220 && n%2 == 0:
		half := client
		_, err = half.Hello("EHLO", "flood.example")
		if err == nil {
			_, err = half.Command("STARTTLS")
		}
		t.note(func() { t.granted++; t.halves++; t.open = append(t.open, conn) })
	case err == nil && reply.Code == 220:
		t.note(func() { t.granted++; t.open = append(t.open, conn) })
	case err == nil && reply.Code == 421 && len(reply.Lines) > 0 && len(reply.Lines[0]) >= 5 && reply.Lines[0][:5] == "4.3.2":
		t.note(func() { t.refused++; t.told = append(t.told, time.Since(began)) })
		conn.Close()
	default:
		t.note(func() { t.odd = append(t.odd, fmt.Sprint(reply, err)) })
		conn.Close()
	}
	if err != nil {
		t.note(func() { t.odd = append(t.odd, err.Error()) })
	}
}

func (t *tide) note(change func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change()
}

// ebb lets the flood stand for a moment, judges it and lets it go.
func (l *assault) ebb(ctx context.Context, t *tide, limit int) {
	pause(ctx, 3*time.Second)
	median, p99, longest := quantiles(t.told)
	l.row("connections of the flood", l.flood)
	l.row("sessions granted, the limit being", fmt.Sprintf("%d, %d; %d of them in half a handshake", t.granted, limit, t.halves))
	l.row("refused with 421 4.3.2", fmt.Sprintf("%d; told after: median %s, p99 %s, longest %s", t.refused, median, p99, longest))
	if t.granted > limit || t.granted+t.refused != l.flood {
		l.finding("%d granted, %d refused of %d with a limit of %d", t.granted, t.refused, l.flood, limit)
	}
	if len(t.odd) > 0 {
		l.finding("%d connections fared otherwise, the first: %s", len(t.odd), t.odd[0])
	}
	for _, conn := range t.open {
		conn.Close()
	}
	// The room that they took has to be free again before honest mail counts.
	l.waitSessions(ctx, l.daemon, t.granted)
}

// waitSessions waits until so many sessions that were granted have ended: until
// then they count against the limits.
func (l *assault) waitSessions(ctx context.Context, d *daemon, n int) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := d.wait(ctx, func() bool {
		ended := 0
		for _, r := range d.records {
			if r.Reason != "overload" && r.Client.Address != honestClient {
				ended++
			}
		}
		return ended >= n
	})
	if err != nil {
		l.finding("sessions of the flood have not ended: %v", err)
	}
}
