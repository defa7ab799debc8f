package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"postern/proxy/proxytest"
)

// honestEach is how often the honest client sends a message.
const honestEach = 50 * time.Millisecond

// An honest client sends one small message after the other, each in a session of
// its own, and keeps time.
type honest struct {
	load *assault

	mu      sync.Mutex
	windows []*window
}

// A window is what an honest client saw in one part of a scenario.
type window struct {
	name                     string
	sent, accepted, deferred int
	failed                   []string
	took                     []time.Duration // accepted ones
}

func newHonest(l *assault) *honest { return &honest{load: l, windows: []*window{{name: "before"}}} }

// begin opens another window; a message counts where it was begun.
func (h *honest) begin(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.windows = append(h.windows, &window{name: name})
}

func (h *honest) run(ctx context.Context) {
	tick := time.NewTicker(honestEach)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.send(context.WithoutCancel(ctx))
		case <-ctx.Done():
			return
		}
	}
}

func (h *honest) send(ctx context.Context) {
	h.mu.Lock()
	w := h.windows[len(h.windows)-1]
	h.mu.Unlock()
	began := time.Now()
	accepted, deferred, words := h.deliver(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	w.sent++
	switch {
	case accepted:
		w.accepted++
		w.took = append(w.took, time.Since(began))
	case deferred:
		w.deferred++
	default:
		w.failed = append(w.failed, words)
	}
}

func (h *honest) deliver(ctx context.Context) (accepted, deferred bool, words string) {
	conn, err := h.load.dial(ctx, honestClient, honestServer)
	if err != nil {
		return false, false, err.Error()
	}
	d := proxytest.Delivery{
		Name: "honest.hospital.example", Timeout: patience,
		Mails: []proxytest.Mail{{From: soakUser, To: []string{"office@partner.example"}, Content: letter(newToken(), 4<<10), Pipelined: true}},
	}
	report := proxytest.Deliver(conn, d)
	last := report.Greeting
	if last.Code == 220 {
		last = report.Hello
	}
	return report.Accepted(d), last.Code/100 == 4, fmt.Sprint(report.Err, report.Transcript)
}

// judge prints the windows and finds fault where mail did not flow.
func (h *honest) judge() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.windows {
		median, p99, longest := quantiles(w.took)
		h.load.row("honest mail "+w.name, fmt.Sprintf("%d sent, %d accepted, %d deferred, %d failed; median %s, p99 %s, longest %s",
			w.sent, w.accepted, w.deferred, len(w.failed), median, p99, longest))
		if len(w.failed) > 0 {
			h.load.finding("honest mail %s: %d failed: %s", w.name, len(w.failed), w.failed[0])
		}
		mayDefer := h.load.deferring && w.name == "during"
		if w.deferred > 0 && !mayDefer || w.accepted == 0 && !mayDefer {
			h.load.finding("honest mail %s: %d accepted, %d deferred", w.name, w.accepted, w.deferred)
		}
		if longest > h.load.starving {
			h.load.finding("honest mail %s: a delivery took %s", w.name, longest)
		}
	}
}

// quantiles are the median, the 99th percentile and the longest, rounded.
func quantiles(took []time.Duration) (median, p99, longest time.Duration) {
	if len(took) == 0 {
		return 0, 0, 0
	}
	sorted := slices.Sorted(slices.Values(took))
	pick := func(share float64) time.Duration {
		return sorted[int(share*float64(len(sorted)-1))].Round(100 * time.Microsecond)
	}
	return pick(0.5), pick(0.99), pick(1)
}
