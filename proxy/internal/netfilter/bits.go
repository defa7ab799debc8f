package netfilter

import (
	"bytes"
	"slices"
)

// truth is what can be told of a condition.
type truth int8

const (
	no truth = iota
	maybe
	yes
)

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

func (t truth) not() truth { return yes - t }

func (t truth) and(u truth) truth { return min(t, u) }

// bits are octets of which some bits are known. A value bit that is not known is
// zero.
type bits struct {
	value, known []byte
	// never are what the octets certainly are not, where that is no matter of bits.
	never []span
}

// span is from a value to another, both included, of the first octets.
type span struct{ first, last []byte }

// unknown is n octets of which nothing is known.
func unknown(n int) bits { return bits{value: make([]byte, n), known: make([]byte, n)} }

// exactly is a value of which everything is known.
func exactly(value ...byte) bits {
	return bits{value: value, known: bytes.Repeat([]byte{0xff}, len(value))}
}

// write puts known octets over those at offset.
func (b bits) write(offset int, other bits) {
	copy(b.value[offset:], other.value)
	copy(b.known[offset:], other.known)
}

func (b bits) slice(from, to int) bits { return bits{value: b.value[from:to], known: b.known[from:to]} }

func (b bits) clone() bits { return bits{slices.Clone(b.value), slices.Clone(b.known), b.never} }

// excludes tells whether all from first to last is what b never is.
func (b bits) excludes(first, last []byte) bool {
	return slices.ContainsFunc(b.never, func(s span) bool {
		n := len(s.first)
		return len(first) >= n && len(last) >= n && bytes.Compare(s.first, first[:n]) <= 0 && bytes.Compare(last[:n], s.last) <= 0
	})
}

// masked is (b & mask) ^ xor, as the kernel's bitwise expression computes it. A
// bit that the mask clears is known whatever it was.
func (b bits) masked(mask, xor []byte) bits {
	out := unknown(len(b.value))
	for i := range out.value {
		if i >= len(mask) || i >= len(xor) {
			break
		}
		out.known[i] = b.known[i] | ^mask[i]
		out.value[i] = (b.value[i]&mask[i] ^ xor[i]) & out.known[i]
	}
	for _, s := range b.never {
		// An octet that is kept whole is still never what it never was.
		if n := len(s.first); len(mask) >= n && len(xor) >= n && bytes.Count(mask[:n], []byte{0xff}) == n && bytes.Count(xor[:n], []byte{0}) == n {
			out.never = append(out.never, s)
		}
	}
	return out
}

// or is what is known of a value that is either b or other.
func (b bits) or(other bits) bits {
	out := unknown(len(b.value))
	for i := range out.value {
		out.known[i] = b.known[i] & other.known[i] & ^(b.value[i] ^ other.value[i])
		out.value[i] = b.value[i] & out.known[i]
	}
	return out
}

// equals compares the first octets, as many as value has.
func (b bits) equals(value []byte) truth {
	if len(value) > len(b.value) {
		return maybe
	}
	if b.excludes(value, value) {
		return no
	}
	result := yes
	for i, v := range value {
		if (b.value[i]^v)&b.known[i] != 0 {
			return no
		}
		if b.known[i] != 0xff {
			result = maybe
		}
	}
	return result
}

// least and most are the bounds of what b may be, as octets in order.
func (b bits) least() []byte { return b.value }
func (b bits) most() []byte {
	out := slices.Clone(b.value)
	for i := range out {
		out[i] |= ^b.known[i]
	}
	return out
}

// below tells whether b comes before value, in the order of memcmp.
func (b bits) below(value []byte) truth {
	if len(value) > len(b.value) {
		return maybe
	}
	n := len(value)
	switch {
	case bytes.Compare(b.most()[:n], value) < 0:
		return yes
	case bytes.Compare(b.least()[:n], value) >= 0:
		return no
	}
	return maybe
}

// above tells whether b comes behind value, in the order of memcmp.
func (b bits) above(value []byte) truth {
	if len(value) > len(b.value) {
		return maybe
	}
	n := len(value)
	switch {
	case bytes.Compare(b.least()[:n], value) > 0:
		return yes
	case bytes.Compare(b.most()[:n], value) <= 0:
		return no
	}
	return maybe
}

// within tells whether b lies from first to last, both included.
func (b bits) within(first, last []byte) truth {
	if len(first) > len(b.value) || len(last) != len(first) {
		return maybe
	}
	n := len(first)
	least, most := b.least()[:n], b.most()[:n]
	switch {
	case bytes.Compare(least, first) >= 0 && bytes.Compare(most, last) <= 0:
		return yes
	case bytes.Compare(most, first) < 0 || bytes.Compare(least, last) > 0 || b.excludes(first, last):
		return no
	}
	return maybe
}
