package memory

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"time"

	"postern/enforce"
	"postern/enforce/kept"
)

// A held is a hold as it is kept or, if it was cleared, when that was.
type held struct {
	holdKey
	enforce.Hold
	failed  time.Time // or cleared, then
	renewed time.Time
	cleared bool
}

// mostCleared bounds for how many clients it is known that their hold was ended.
const mostCleared = MostOfABlock

// holdRecords are Holds as a Keeper sees them.
//
// Of a hold and the end of one under the same key, what was later stands, the
// handshake that failed or the one that succeeded; both at one time, the hold. When a
// hold was renewed by a refusal does not matter there: the gateway that refused had
// not heard of its end. Of two holds the one whose handshake failed later gives the
// version that was offered (of the same time, the lower); the later times of that and
// of its being renewed stand, the earlier since and the greater number of refusals.
type holdRecords struct {
	*Holds
	lasts func() time.Duration
}

func (h holdRecords) Kind() string    { return holdsBucket }
func (h holdRecords) Most() int       { return MostHolds }
func (h holdRecords) Rewrite()        { h.mu.Lock(); defer h.mu.Unlock(); h.changed.all() }
func (h holdRecords) Written(ok bool) { h.mu.Lock(); defer h.mu.Unlock(); h.changed.written(ok) }
func (h holdRecords) Unwritten() bool { h.mu.Lock(); defer h.mu.Unlock(); return !h.changed.none() }

// Tidy forgets ends that no gateway can have missed. Of holds, find does it.
func (h holdRecords) Tidy(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	maps.DeleteFunc(h.cleared, func(_ holdKey, at time.Time) bool { return now.Sub(at) >= h.lasts() })
}

// keep has changes be noted from now on.
func (h *Holds) keep() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changed.kept, h.changed.most = true, MostHolds+mostCleared
}

// Restore goes in the order in which they were renewed, as they stand here.
func (h holdRecords) Restore(list []kept.Record, now time.Time) (damaged int) {
	holds := make([]held, 0, len(list))
	for _, r := range list {
		one, err := decodeHoldRecord(r)
		if err != nil {
			damaged++
			continue
		}
		if one.renewed.After(now) { // a clock that was ahead must not make it last for ever
			one.renewed = now
		}
		if one.failed.After(now) {
			one.failed = now
		}
		holds = append(holds, one)
	}
	slices.SortStableFunc(holds, func(a, b held) int { return a.renewed.Compare(b.renewed) })
	for _, one := range holds {
		h.restore(one)
	}
	return damaged
}

func decodeHoldRecord(r kept.Record) (held, error) {
	body, err := opened(r.Key, r.Value)
	if err != nil {
		return held{}, err
	}
	return decodeHold(r.Key, body)
}

func (h *Holds) restore(f held) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ended := h.entries[f.holdKey], h.cleared[f.holdKey]
	switch {
	case f.cleared && e != nil && e.failed.Before(f.failed):
		h.remove(e)
		h.changed.settled(f.holdKey)
	case f.cleared && e != nil, f.cleared && ended.After(f.failed), f.failed.Before(ended):
		h.changed.note(f.holdKey) // what is known here is later
	case f.cleared:
		h.changed.settled(f.holdKey)
	case e == nil:
		e = h.add(f.holdKey)
		e.Hold, e.failed, e.renewed = f.Hold, f.failed, f.renewed
		h.changed.settled(f.holdKey)
	default:
		h.join(e, f)
	}
}

func (h *Holds) join(e *holdEntry, f held) {
	if c := f.failed.Compare(e.failed); c > 0 || c == 0 && f.Offered < e.Offered {
		e.Offered, e.failed = f.Offered, f.failed
	}
	e.Refused = max(e.Refused, f.Refused)
	if f.Since.Before(e.Since) {
		e.Since = f.Since
	}
	if f.renewed.After(e.renewed) {
		h.touch(e, f.renewed)
	}
	if e.Hold.Offered == f.Offered && e.Refused == f.Refused && e.Since.Equal(f.Since) &&
		e.failed.Equal(f.failed) && e.renewed.Equal(f.renewed) {
		h.changed.settled(e.holdKey)
	} else {
		h.changed.note(e.holdKey)
	}
}

// ended notes when the hold of k was ended, for gateways that still have it.
func (h *Holds) ended(k holdKey, at time.Time) {
	if !h.changed.kept {
		return
	}
	if h.cleared == nil {
		h.cleared = make(map[holdKey]time.Time)
	}
	for oldest := range h.cleared { // any: who is out of touch for so long has it until it runs out
		if len(h.cleared) < mostCleared {
			break
		}
		delete(h.cleared, oldest)
	}
	h.cleared[k] = at
}

// Forget ends every hold that a subject names. It is no end of one by a success:
// gateways are told of it otherwise.
func (h holdRecords) Forget(subject string) {
	what, err := ParseSubject(subject)
	if err != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for k, e := range h.entries {
		if what.hasHold(k) {
			h.remove(e)
		}
	}
}

func (h holdRecords) Offer() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for k := range h.entries {
		h.changed.note(k)
	}
	for k := range h.cleared {
		h.changed.note(k)
	}
}

func (h holdRecords) Take(most int) kept.Batch {
	h.mu.Lock()
	defer h.mu.Unlock()
	keys, whole := h.changed.take(most)
	b := kept.Batch{Whole: whole}
	if whole {
		for k := range h.entries {
			b.Records = append(b.Records, h.record(k))
		}
		for k := range h.cleared {
			b.Records = append(b.Records, h.record(k))
		}
	}
	for _, k := range keys {
		b.Records = append(b.Records, h.record(k))
	}
	return b
}

func (h holdRecords) record(k holdKey) kept.Record {
	r := kept.Record{Key: encodeHold(k)}
	if e := h.entries[k]; e != nil {
		r.Value, r.Until = sealed(r.Key, e.encode()), e.renewed.Add(h.lasts())
	} else if at := h.cleared[k]; !at.IsZero() {
		r.Value, r.Until, r.Ended = sealed(r.Key, encodeCleared(at)), at.Add(h.lasts()), true
	}
	return r
}

func encodeHold(k holdKey) []byte {
	client := k.client.Addr().AsSlice()
	b := append([]byte{byte(len(client))}, client...)
	return append(b, k.upstream.AsSlice()...)
}

func (e *holdEntry) encode() []byte {
	b := []byte{heldFormat}
	b = binary.BigEndian.AppendUint16(b, e.Offered)
	b = binary.AppendVarint(b, e.Since.UnixNano())
	b = binary.AppendVarint(b, e.failed.UnixNano())
	b = binary.AppendVarint(b, e.renewed.UnixNano())
	return binary.AppendUvarint(b, uint64(min(max(e.Refused, 0), 1<<31-1)))
}

// What begins a record says what it is of. Of recordFormat are holds that do not say
// when their handshake failed.
const (
	clearedFormat = 2 // a hold that was cleared
	heldFormat    = 3
)

func encodeCleared(at time.Time) []byte {
	return binary.AppendVarint([]byte{clearedFormat}, at.UnixNano())
}

func decodeHold(k, v []byte) (held, error) {
	key, err := decodeHoldKey(k)
	if err != nil {
		return held{}, err
	}
	h := held{holdKey: key}
	s := scanner{rest: v}
	format := s.octet()
	switch format {
	case recordFormat, heldFormat:
		h.Offered, h.Since = s.uint16(), time.Unix(0, s.varint())
		h.failed = time.Unix(0, s.varint())
		if h.renewed = h.failed; format == heldFormat {
			h.renewed = time.Unix(0, s.varint())
		}
	case clearedFormat:
		h.failed, h.cleared = time.Unix(0, s.varint()), true
		h.renewed = h.failed
		return h, s.done()
	default:
		s.bad = true
	}
	h.Refused = int(s.uint32())
	return h, s.done()
}

func decodeHoldKey(k []byte) (holdKey, error) {
	s := scanner{rest: k}
	client := s.addr(int(s.octet()))
	upstream := s.addr(len(s.rest))
	return keyOf(enforce.Connection{Client: client, Upstream: upstream}), s.done()
}

// clientOf is what one machine has of addresses: an IPv4 address or an IPv6 /64.
func clientOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = clientBits6
	}
	return netip.PrefixFrom(a, bits).Masked()
}
