package memory

import (
	"encoding/binary"
	"net/netip"
	"time"

	"postern/enforce"
)

// A held is a hold as it stands in the file.
type held struct {
	holdKey
	enforce.Hold
	renewed time.Time
}

// keep has changes be noted from now on.
func (h *Holds) keep() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changed.kept, h.changed.most = true, MostHolds
}

// restore adds a hold that the file has, unless there is one. They come in the
// order in which they were renewed.
func (h *Holds) restore(f held, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.entries[f.holdKey] != nil || f.renewed.After(now) {
		return
	}
	e := h.add(f.holdKey)
	e.Hold, e.renewed = f.Hold, f.renewed
}

// forget ends every hold whose client or destination matches.
func (h *Holds) forget(matches func(holdKey) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for k, e := range h.entries {
		if matches(k) {
			h.remove(e)
		}
	}
}

func (h *Holds) unwritten() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.changed.none()
}

func (h *Holds) rewrite() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changed.all()
}

func (h *Holds) take() batch {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := batch{whole: h.changed.whole}
	if b.whole {
		for k, e := range h.entries {
			b.changes = append(b.changes, holdChange(k, e))
		}
	}
	for k := range h.changed.keys {
		b.changes = append(b.changes, holdChange(k, h.entries[k]))
	}
	h.changed.whole, h.changed.keys = false, nil
	return b
}

func holdChange(k holdKey, e *holdEntry) change {
	key := encodeHold(k)
	if e == nil {
		return change{key: key}
	}
	return change{key, sealed(key, e.encode())}
}

func encodeHold(k holdKey) []byte {
	client := k.client.Addr().AsSlice()
	b := append([]byte{byte(len(client))}, client...)
	return append(b, k.upstream.AsSlice()...)
}

func (e *holdEntry) encode() []byte {
	b := []byte{recordFormat}
	b = binary.BigEndian.AppendUint16(b, e.Offered)
	b = binary.AppendVarint(b, e.Since.UnixNano())
	b = binary.AppendVarint(b, e.renewed.UnixNano())
	return binary.AppendUvarint(b, uint64(min(max(e.Refused, 0), 1<<31-1)))
}

func decodeHold(k, v []byte) (held, error) {
	s := scanner{rest: k}
	client := s.addr(int(s.octet()))
	upstream := s.addr(len(s.rest))
	if err := s.done(); err != nil {
		return held{}, err
	}
	h := held{holdKey: keyOf(enforce.Connection{Client: client, Upstream: upstream})}
	s = scanner{rest: v}
	s.bad = s.octet() != recordFormat
	h.Offered = s.uint16()
	h.Since, h.renewed = time.Unix(0, s.varint()), time.Unix(0, s.varint())
	h.Refused = int(s.uint32())
	return h, s.done()
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
