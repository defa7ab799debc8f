package enforce

import (
	"cmp"
	"net/netip"
	"slices"
)

// The whole of both families, for asking whether a list leaves anybody out.
var (
	allIPv4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	allIPv6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
)

// few is how many entries are sooner walked than looked up.
const few = 4

// A networkSet is one list of network matchers, ready to be asked. What it costs
// to ask depends on how many different lengths of prefix there are, 33 and 129 at
// most, and not on the length of the list.
type networkSet struct {
	written bool // there is a list at all; without one a matcher matches everything
	// prefixes are the same addresses as the list's, by the fewest prefixes that
	// make them up: none lies in another, no two are halves of a third. So one that
	// is covered by any of them together is covered by one of them alone.
	prefixes []netip.Prefix
	table    prefixTable[struct{}] // of the prefixes, where they are more than a few
}

func newNetworkSet(list []netip.Prefix) networkSet {
	s := networkSet{written: len(list) > 0, prefixes: merged(list)}
	if len(s.prefixes) > few {
		for _, p := range s.prefixes {
			s.table.set(p, struct{}{})
		}
	}
	return s
}

// merged gives the fewest prefixes that have the addresses of list between them.
func merged(list []netip.Prefix) []netip.Prefix {
	sorted := make([]netip.Prefix, 0, len(list))
	for _, p := range list {
		if p.IsValid() {
			sorted = append(sorted, p.Masked())
		}
	}
	// By address, and around before inside: what has p in it stands right before.
	slices.SortFunc(sorted, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	kept := sorted[:0]
	for _, p := range sorted {
		if n := len(kept); n > 0 && covering(kept[n-1], p) {
			continue
		}
		kept = append(kept, p)
		for n := len(kept); n > 1 && kept[n-1].Bits() > 0; n = len(kept) {
			whole := netip.PrefixFrom(kept[n-1].Addr(), kept[n-1].Bits()-1).Masked()
			if kept[n-2] != netip.PrefixFrom(whole.Addr(), kept[n-1].Bits()) {
				break
			}
			kept = append(kept[:n-2], whole)
		}
	}
	return kept
}

// covering reports whether all of p lies in q.
func covering(q, p netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) }

// plain gives addr without zone and not mapped. The zone of a link-local address
// and the mapping of IPv4 into IPv6 are how an address was come by, not part of
// it: netip would let both hide an address from a prefix.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// contains reports whether addr lies in one of the prefixes.
func (s *networkSet) contains(addr netip.Addr) bool { return s.has(plain(addr)) }

// has is contains for an address that is plain.
func (s *networkSet) has(addr netip.Addr) bool {
	if len(s.prefixes) > few {
		return addr.IsValid() && s.table.covers(netip.PrefixFrom(addr, addr.BitLen()))
	}
	for i := range s.prefixes {
		if s.prefixes[i].Contains(addr) {
			return true
		}
	}
	return false
}

// covers reports whether every address of p lies in s, be it in several
// prefixes that make up p between them.
func (s *networkSet) covers(p netip.Prefix) bool {
	if len(s.prefixes) > few {
		return s.table.covers(p)
	}
	for _, q := range s.prefixes {
		if covering(q, p) {
			return true
		}
	}
	return false
}

// coversAny reports whether one of the prefixes of t lies in s as a whole.
func (s *networkSet) coversAny(t *networkSet) bool {
	for _, p := range t.prefixes {
		if s.covers(p) {
			return true
		}
	}
	return false
}

// mayMeet reports whether there is an address in both, none meaning all. Of two
// prefixes that have one in common one lies in the other.
func (s *networkSet) mayMeet(t *networkSet) bool {
	return !s.written || !t.written || s.coversAny(t) || t.coversAny(s)
}

// leavesNobodyOut reports whether s is no restriction at all for clients or
// destinations of one family.
func (s *networkSet) leavesNobodyOut() bool {
	return !s.written || s.covers(allIPv4) || s.covers(allIPv6)
}

// coversAll reports whether a matcher with the prefixes of s, none meaning
// everything, matches all that a matcher with the prefixes theirs does.
func (s *networkSet) coversAll(theirs *networkSet) bool {
	if !s.written {
		return true
	}
	if !theirs.written {
		return s.covers(allIPv4) && s.covers(allIPv6)
	}
	for _, p := range theirs.prefixes {
		if !s.covers(p) {
			return false
		}
	}
	return true
}

// A prefixTable has something under each of any number of prefixes. What it costs
// to find all of those around an address depends on how many different lengths
// there are.
type prefixTable[V any] struct {
	at                 map[netip.Prefix]V
	lengths4, lengths6 []int // there are of IPv4 and IPv6, the shortest first
}

// set puts v under p, which must be masked.
func (t *prefixTable[V]) set(p netip.Prefix, v V) {
	if t.at == nil {
		t.at = map[netip.Prefix]V{}
	}
	t.at[p] = v
	lengths := &t.lengths6
	if p.Addr().Is4() {
		lengths = &t.lengths4
	}
	if i, found := slices.BinarySearch(*lengths, p.Bits()); !found {
		*lengths = slices.Insert(*lengths, i, p.Bits())
	}
}

// lengths gives the lengths that a prefix around addr can have.
func (t *prefixTable[V]) lengths(addr netip.Addr) []int {
	if addr.Is4() {
		return t.lengths4
	}
	return t.lengths6
}

// covers reports whether there is something under p or a prefix around it.
func (t *prefixTable[V]) covers(p netip.Prefix) bool {
	for _, bits := range t.lengths(p.Addr()) {
		if bits > p.Bits() {
			return false
		}
		if _, ok := t.at[netip.PrefixFrom(p.Addr(), bits).Masked()]; ok {
			return true
		}
	}
	return false
}
