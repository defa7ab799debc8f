package service

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Headroom is address space that nothing is ever written to. The runtime takes it
// for part of what is in use, and so lets that much garbage gather before it
// collects: by itself it would do so with every 4 MB, for every few dozen sessions.
// It occupies no memory, and what is above it is collected as ever.
type Headroom struct{ unused []byte }

// headroom is in octets: what some hundreds of sessions leave behind. Collecting takes
// about 1 % of the processor time with it; a relay without it was seen to spend 8 %.
// Other sizes were not measured.
const headroom = 32 << 20

// KeepHeadroom gives a process headroom, until Release.
func KeepHeadroom() *Headroom { return &Headroom{make([]byte, headroom)} }

// Release lets it go. It has to be called, or the headroom is itself garbage.
func (h *Headroom) Release() { runtime.KeepAlive(h.unused) }

const (
	// calmCheck is how often it is looked whether a burst is over, and calm what
	// may be allocated between two looks, in octets, where it is.
	calmCheck = 5 * time.Second
	calm      = 2 << 20
	// worthwhile is how much has to be there to be given back, in octets.
	worthwhile = 8 << 20
)

// GiveBack has the memory given back, when a burst of work is over, that it left
// behind: nobody allocates then, and so nothing would be collected for minutes. It
// returns when the context ends.
func GiveBack(ctx context.Context) {
	look := time.NewTicker(calmCheck)
	defer look.Stop()
	allocated, collected := memory().allocated, uint64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		m := memory()
		if m.allocated-allocated < calm && m.allocated-collected > worthwhile && m.held > m.live+max(worthwhile, m.live/4) {
			debug.FreeOSMemory()
			collected = m.allocated
		}
		allocated = m.allocated
	}
}

// usage is in octets. The headroom is in held and in live alike.
type usage struct {
	allocated uint64 // ever
	held      uint64 // of the operating system's memory
	live      uint64 // when it was last collected
}

func memory() usage {
	samples := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"}, {Name: "/gc/heap/live:bytes"},
	}
	metrics.Read(samples)
	value := func(i int) uint64 { return samples[i].Value.Uint64() }
	return usage{allocated: value(0), held: value(1) - value(2), live: value(3)}
}
