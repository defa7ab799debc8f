package memory

import (
	"fmt"
	"net/netip"
	"strings"
)

// A Subject is what can be shown or forgotten: an address, one port of it, a
// network, or a domain.
type Subject struct {
	network netip.Prefix
	port    uint16 // 0: any
	domain  string
}

// ParseSubject reads "203.0.113.7", "203.0.113.7:25", "203.0.113.0/24" (and IPv6
// likewise) or a domain of lower-case A-labels.
func ParseSubject(s string) (Subject, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		if p.Addr().Is4In6() {
			return Subject{}, fmt.Errorf("%q found, expected an IPv4 network as IPv4", s)
		}
		return Subject{network: p.Masked()}, nil
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return Subject{network: netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())}, nil
	}
	if a, err := netip.ParseAddrPort(s); err == nil && a.Addr().Zone() == "" && a.Port() != 0 {
		return Subject{network: netip.PrefixFrom(a.Addr().Unmap(), a.Addr().Unmap().BitLen()), port: a.Port()}, nil
	}
	domain := strings.TrimSuffix(s, ".")
	if len(domain) == 0 || len(domain) > mostDomain || strings.HasPrefix(domain, ".") || strings.Contains(domain, "..") ||
		strings.Trim(domain, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" || strings.Trim(domain, "0123456789.") == "" {
		return Subject{}, fmt.Errorf("%q found, expected an address, a network or a domain", s)
	}
	return Subject{domain: domain}, nil
}

func (s Subject) String() string {
	switch {
	case s.domain != "":
		return s.domain
	case s.port != 0:
		return netip.AddrPortFrom(s.network.Addr(), s.port).String()
	case s.network.IsSingleIP():
		return s.network.Addr().String()
	}
	return s.network.String()
}

func (s Subject) hasDestination(a netip.AddrPort) bool {
	return s.domain == "" && s.network.Contains(a.Addr()) && (s.port == 0 || s.port == a.Port())
}

func (s Subject) hasDomain(k domainKey) bool {
	if s.domain != "" {
		return s.domain == k.domain
	}
	return false
}

// hasHold has those of a client and those to a destination. A client may be an
// IPv6 /64, of which one address is enough.
func (s Subject) hasHold(k holdKey) bool {
	return s.domain == "" && s.port == 0 && (s.network.Overlaps(k.client) || s.network.Contains(k.upstream))
}
