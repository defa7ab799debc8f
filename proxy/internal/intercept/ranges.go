package intercept

import (
	"net/netip"
	"slices"
)

// span is a range of addresses of one family, both ends in it.
type span struct{ first, last netip.Addr }

// spans turns the networks of one family into ranges that neither overlap nor
// touch, in order: interval sets of nftables take nothing else.
func spans(prefixes []netip.Prefix, v4 bool) []span {
	var all []span
	for _, prefix := range prefixes {
		if prefix.Addr().Is4() == v4 {
			all = append(all, span{prefix.Masked().Addr(), lastAddress(prefix)})
		}
	}
	slices.SortFunc(all, func(a, b span) int { return a.first.Compare(b.first) })
	var merged []span
	for _, next := range all {
		if len(merged) > 0 {
			previous := &merged[len(merged)-1]
			after := previous.last.Next() // zero behind the last address of all
			if !after.IsValid() || next.first.Compare(after) <= 0 {
				if next.last.Compare(previous.last) > 0 {
					previous.last = next.last
				}
				continue
			}
		}
		merged = append(merged, next)
	}
	return merged
}

func lastAddress(prefix netip.Prefix) netip.Addr {
	address := prefix.Addr().AsSlice()
	for bit := prefix.Bits(); bit < len(address)*8; bit++ {
		address[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(address)
	return last
}
