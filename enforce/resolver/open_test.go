package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// Whoever sends mail chooses the names, and a server that says nothing keeps each
// question for its whole time.
func TestTheQuestionsThatAreOpenAtATimeAreBounded(t *testing.T) {
	f := newFake(t)
	var mu sync.Mutex
	names := map[string]bool{}
	f.serve(func(q asked) [][]byte {
		mu.Lock()
		defer mu.Unlock()
		if q.RecursionDesired {
			names[q.Question[0].Name] = true
		}
		return recursing(q)
	})
	r := New(Options{Servers: []netip.AddrPort{f.at}, Timeout: 500 * time.Millisecond})
	r.open = make(chan struct{}, 3)
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			if _, err := r.TXT(t.Context(), fmt.Sprintf("a%d.example", i)); !errors.Is(err, ErrTimeout) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	mu.Lock()
	defer mu.Unlock()
	// Some more than have a place may begin at the very end of their time.
	if len(names) == 0 || len(names) > 20 {
		t.Errorf("%d names were asked for, %d at a time", len(names), cap(r.open))
	}
}

func TestWhoHasNoTimeLeftHasNothingBegun(t *testing.T) {
	f := newFake(t)
	r := New(Options{Servers: []netip.AddrPort{f.at}})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.MX(gone, "example.com"); !errors.Is(err, ErrTimeout) {
		t.Error(err)
	}
	if n := len(r.open) + len(f.queries); n > 0 {
		t.Errorf("%d questions", n)
	}
}
