package main

import (
	"context"
	"sync"

	"postern/proxy/proxytest"
)

// A ledger is what was sent and what arrived of it.
type ledger struct {
	mu       sync.Mutex
	sent     map[string][32]byte // digests by message
	arrivals map[string][]proxytest.Arrival
	foreign  int // arrivals of what was never sent
	size     int64
	changed  chan struct{} // closed and replaced with each arrival
}

func newLedger() *ledger {
	return &ledger{sent: map[string][32]byte{}, arrivals: map[string][]proxytest.Arrival{}, changed: make(chan struct{})}
}

// send notes a message before it is given to a sender.
func (l *ledger) send(id string, digest [32]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent[id] = digest
}

func (l *ledger) arrive(a proxytest.Arrival) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ours := l.sent[a.ID]; !ours {
		l.foreign++
	}
	l.arrivals[a.ID] = append(l.arrivals[a.ID], a)
	l.size += a.Size
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *ledger) counts() (sent, arrived int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.sent), len(l.arrivals)
}

// below waits until fewer than n messages are on their way.
func (l *ledger) below(ctx context.Context, n int) error {
	for {
		l.mu.Lock()
		done, changed := len(l.sent)-len(l.arrivals) < n, l.changed
		l.mu.Unlock()
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

// A reckoning is what all of it comes to.
type reckoning struct {
	sent, accepted, arrived int
	duplicated              int // arrivals beyond the first of a message
	changed, lost, foreign  int
	chunked, secret         int
	explained               map[string]int // duplicates by cause
	unexplained             []string       // messages
}

// attempts counts, by message, those that ended behind the end of data before the
// sender had heard a reply: the message may have been taken, and is sent again.
type attempts map[string]int

// reckon holds arrivals against what was sent, what the senders were told, and
// in how many attempts they could not know what became of a message.
func (l *ledger) reckon(accepted map[string]bool, doubtful attempts) reckoning {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := reckoning{sent: len(l.sent), foreign: l.foreign, explained: map[string]int{}}
	for id, digest := range l.sent {
		all := l.arrivals[id]
		if accepted[id] {
			r.accepted++
		}
		if len(all) == 0 {
			r.lost++
			continue
		}
		r.arrived++
		good, unsaid := 0, 0
		for _, a := range all {
			switch {
			case a.SHA256 != digest:
				r.changed++
			default:
				good++
			}
			if a.Unsaid {
				unsaid++
			}
		}
		if good == 0 {
			r.lost++
		}
		if all[0].Chunked {
			r.chunked++
		}
		if all[0].TLS {
			r.secret++
		}
		r.explain(id, len(all)-1, unsaid, doubtful[id])
	}
	return r
}

// cutOff is a cause that the senders tell of, and no fault by itself.
const cutOff = "the sender was cut off behind the end of data"

// explain finds a cause for each arrival of a message beyond the first.
func (r *reckoning) explain(id string, more, unsaid, doubtful int) {
	r.duplicated += more
	lost := min(more, unsaid)
	r.explained["the server never sent its 250"] += lost
	cut := min(more-lost, doubtful)
	r.explained[cutOff] += cut
	if more > lost+cut {
		r.unexplained = append(r.unexplained, id)
	}
}
