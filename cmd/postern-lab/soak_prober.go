package main

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A prober connects steadily and counts how that goes. Nobody refuses a
// connection for as long as somebody holds the sockets.
type prober struct {
	connected, refused, unanswered atomic.Int64
}

const (
	probeEach = 50 * time.Millisecond
	probeWait = 15 * time.Second // a lost SYN is sent again after 1, 3 and 7 s
)

func (p *prober) run(ctx context.Context, l *lab) {
	tick := time.NewTicker(probeEach)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.once(ctx, l)
		case <-ctx.Done():
			return
		}
	}
}

func (p *prober) once(ctx context.Context, l *lab) {
	waiting, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	conn, err := l.network.Client.Dial(waiting, netip.AddrPortFrom(probeClient, 0), netip.AddrPortFrom(soakChunks, smtpPort))
	switch {
	case err == nil:
		p.connected.Add(1)
		conn.Close()
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ECONNRESET):
		p.refused.Add(1)
	case ctx.Err() == nil:
		p.unanswered.Add(1)
	}
}
