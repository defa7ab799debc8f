package enforce

import (
	"net/netip"
	"slices"
)

// The whole of both families, for asking whether a list leaves anybody out.
var (
	allIPv4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	allIPv6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
)

// A networkSet is one list of network matchers. It is asked through its methods
// only, so that a prefix table can take the place of the list.
type networkSet []netip.Prefix

// mayMeet reports whether there is an address in both, none meaning all.
func (s networkSet) mayMeet(t networkSet) bool {
	if len(s) == 0 || len(t) == 0 {
		return true
	}
	return slices.ContainsFunc(s, func(p netip.Prefix) bool {
		return slices.ContainsFunc(t, p.Overlaps)
	})
}

// contains reports whether addr lies in one of the prefixes. The zone of a
// link-local address and the mapping of IPv4 into IPv6 are how an address was
// come by, not part of it: netip would let both hide an address from a prefix.
func (s networkSet) contains(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	for _, p := range s {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// covers reports whether every address of p lies in s, be it in several
// prefixes that make up p between them.
func (s networkSet) covers(p netip.Prefix) bool {
	inside := false
	for _, q := range s {
		if q.Addr().Is4() != p.Addr().Is4() {
			continue
		}
		if q.Bits() <= p.Bits() && q.Contains(p.Addr()) {
			return true
		}
		inside = inside || p.Overlaps(q)
	}
	if !inside {
		return false
	}
	// Some of p is covered by longer prefixes: look at its halves. This ends,
	// for a prefix of full length has nothing longer inside.
	low, high := halves(p)
	return s.covers(low) && s.covers(high)
}

// halves splits p, which is not of full length, into the two prefixes one bit
// longer.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	bits := p.Bits()
	raw := p.Addr().AsSlice()
	raw[bits/8] |= 0x80 >> (bits % 8)
	upper, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(p.Addr(), bits+1), netip.PrefixFrom(upper, bits+1)
}

// leavesNobodyOut reports whether s is no restriction at all for clients or
// destinations of one family.
func (s networkSet) leavesNobodyOut() bool {
	return len(s) == 0 || s.covers(allIPv4) || s.covers(allIPv6)
}

// coversAll reports whether a matcher with the prefixes of s, none meaning
// everything, matches all that a matcher with the prefixes theirs does.
func (s networkSet) coversAll(theirs networkSet) bool {
	if len(s) == 0 {
		return true
	}
	if len(theirs) == 0 {
		theirs = networkSet{allIPv4, allIPv6}
	}
	for _, p := range theirs {
		if !s.covers(p) {
			return false
		}
	}
	return true
}
