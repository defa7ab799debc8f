package memory

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"postern/enforce"
)

// The bounds of Holds, in entries. A connection was accepted before its client
// is remembered, so nobody fills the table with addresses that are not theirs;
// who has many of their own pushes out their own first.
const (
	MostHolds      = 1 << 16
	MostOfABlock   = MostHolds / 16 // of one IPv4 /16 or IPv6 /32, as registries give them out
	MostOfAClient  = 64             // of one IPv4 address or IPv6 /64
	blockBits4     = 16
	blockBits6     = 32
	clientBits6    = 64
	sharesOfAnyone = 3
)

// Holds are clients whose TLS handshake with a destination fell below the floor.
// Such a client often comes back in clear, and a mail that its rule meant to have
// in TLS would leave without.
//
// A client is an IPv4 address or an IPv6 /64, of which one machine has all. The
// zero Holds is empty and ready. Its methods may be called by any number of
// sessions at once.
type Holds struct {
	mu      sync.Mutex
	entries map[holdKey]*holdEntry
	shares  map[netip.Prefix]*list.List // of a client or a block, the longest untouched first
	all     list.List
	changed changes[holdKey]
	cleared map[holdKey]time.Time // where holds are kept: those that were ended here
}

type holdKey struct {
	client   netip.Prefix
	upstream netip.Addr
}

// An entry stands in three lists: its client's, its block's and that of all.
type holdEntry struct {
	holdKey
	enforce.Hold
	failed  time.Time // the last handshake
	renewed time.Time // by that, or by a refusal since
	places  [sharesOfAnyone]*list.Element
}

// Begin notes that c's handshake failed because it offered no more than the TLS
// version offered. It begins a hold or renews the one there is.
func (h *Holds) Begin(c enforce.Connection, offered uint16, now time.Time) {
	k := keyOf(c)
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.entries[k]
	if e == nil {
		e = h.add(k)
		e.Since = now
	}
	e.Offered, e.failed = offered, now
	h.touch(e, now)
}

// Find gives what is known of c when it was renewed less than lasts ago.
func (h *Holds) Find(c enforce.Connection, lasts time.Duration, now time.Time) *enforce.Hold {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.find(c, lasts, now)
	if e == nil {
		return nil
	}
	hold := e.Hold
	hold.Until = e.renewed.Add(lasts)
	return &hold
}

// Refused counts that a client was refused because of its hold and, if asked to,
// renews it.
func (h *Holds) Refused(c enforce.Connection, lasts time.Duration, renew bool, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e := h.find(c, lasts, now); e != nil {
		e.Refused++
		h.changed.note(e.holdKey)
		if renew {
			h.touch(e, now)
		}
	}
}

// Clear ends the hold of a client whose handshake succeeded.
func (h *Holds) Clear(c enforce.Connection, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e := h.entries[keyOf(c)]; e != nil {
		h.remove(e)
		h.ended(e.holdKey, now)
	}
}

// find forgets what has run out.
func (h *Holds) find(c enforce.Connection, lasts time.Duration, now time.Time) *holdEntry {
	e := h.entries[keyOf(c)]
	if e != nil && now.Sub(e.renewed) >= lasts {
		h.remove(e)
		return nil
	}
	return e
}

func (h *Holds) touch(e *holdEntry, now time.Time) {
	e.renewed = now
	h.changed.note(e.holdKey)
	for i, of := range h.lists(e.holdKey) {
		of.MoveToBack(e.places[i])
	}
}

// add makes room and an entry for k. Of whatever is full, the client's share, the
// block's or the table, the entry that was touched longest ago goes.
func (h *Holds) add(k holdKey) *holdEntry {
	if h.entries == nil {
		h.entries, h.shares = make(map[holdKey]*holdEntry), make(map[netip.Prefix]*list.List)
	}
	for i, most := range [sharesOfAnyone]int{MostOfAClient, MostOfABlock, MostHolds} {
		if of := h.lists(k)[i]; of.Len() >= most {
			h.remove(of.Front().Value.(*holdEntry))
		}
	}
	e := &holdEntry{holdKey: k}
	h.entries[k] = e
	delete(h.cleared, k)
	for i, of := range h.lists(k) {
		e.places[i] = of.PushBack(e)
	}
	return e
}

func (h *Holds) remove(e *holdEntry) {
	delete(h.entries, e.holdKey)
	h.changed.note(e.holdKey)
	for i, of := range h.lists(e.holdKey) {
		of.Remove(e.places[i])
	}
	for _, p := range []netip.Prefix{e.client, block(e.client)} {
		if h.shares[p].Len() == 0 {
			delete(h.shares, p)
		}
	}
}

// lists are those that an entry for k stands in. A client's prefix is never that
// of a block: it is longer.
func (h *Holds) lists(k holdKey) [sharesOfAnyone]*list.List {
	return [...]*list.List{h.share(k.client), h.share(block(k.client)), &h.all}
}

func (h *Holds) share(p netip.Prefix) *list.List {
	if h.shares[p] == nil {
		h.shares[p] = list.New()
	}
	return h.shares[p]
}

func block(client netip.Prefix) netip.Prefix {
	if client.Addr().Is4() {
		return netip.PrefixFrom(client.Addr(), blockBits4).Masked()
	}
	return netip.PrefixFrom(client.Addr(), blockBits6).Masked()
}

func keyOf(c enforce.Connection) holdKey {
	return holdKey{clientOf(c.Client), c.Upstream.Unmap().WithZone("")}
}
