package enforce

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The rules walked one after the other, each matcher read as it was written: what
// is asked of an index must come out as it does here.

func walkNetworks(list []netip.Prefix, addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func walkMatches(r *Rule, c Connection, now time.Time) bool {
	if !r.Expires.IsZero() && !now.Before(r.Expires) {
		return false
	}
	isMX := slices.ContainsFunc(c.MXOf, func(domain string) bool { return slices.Contains(r.ToMXOf, domain) })
	return (len(r.FromNetworks) == 0 || walkNetworks(r.FromNetworks, c.Client)) &&
		(len(r.ToNetworks) == 0 && len(r.ToMXOf) == 0 || walkNetworks(r.ToNetworks, c.Upstream) || isMX)
}

func walkConnection(p *Policy, c Connection, now time.Time) *Rule {
	for _, r := range p.Rules() {
		if !r.Envelope() && walkMatches(r, c, now) {
			return r
		}
	}
	return &p.last.Rule
}

func walkEnvelope(p *Policy, c Connection, sender, recipient *Address, now time.Time) *Rule {
	for _, r := range p.EnvelopeRules() {
		if !walkMatches(r, c, now) || len(r.FromDomains) > 0 && !newDomainSet(r.FromDomains).contains(sender) {
			continue
		}
		switch {
		case len(r.ToDomains) == 0:
			return r
		case recipient == nil:
			return nil
		case newDomainSet(r.ToDomains).contains(recipient):
			return r
		}
	}
	return nil
}

func walkDemands(p *Policy, c Connection, now time.Time, least ClientTLS) bool {
	return walkConnection(p, c, now).ClientTLS >= least ||
		slices.ContainsFunc(p.EnvelopeRules(), func(r *Rule) bool { return r.ClientTLS >= least && walkMatches(r, c, now) })
}

// someOf draws lists that overlap, nest and repeat each other.
func someOf[T any](t *rapid.T, label string, from []T) []T {
	if rapid.IntRange(0, 2).Draw(t, label+"?") == 0 {
		return nil
	}
	return rapid.SliceOfN(rapid.SampledFrom(from), 0, 12).Draw(t, label)
}

var (
	drawnNetworks = networks("0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "10.1.2.0/24",
		"10.1.2.3/32", "10.1.2.2/31", "10.1.2.2/32", "10.1.9.9/8", "192.0.2.0/24", "192.0.2.0/25", "192.0.2.128/25", "2001:db8::/32", "2001:db8::/33",
		"2001:db8:8000::/33", "2001:db8::1/128", "fe80::/10", "::ffff:10.0.0.0/104", "8000::/1", "::/1")
	drawnAddresses = []string{"10.1.2.3", "::ffff:10.1.2.3", "10.1.2.2", "10.200.0.1", "11.0.0.1", "192.0.2.1", "192.0.2.200", "203.0.113.1", "2001:db8::1",
		"2001:db8:9000::1", "fe80::1%eth0", "::1", "::a01:203"}
	drawnMatchers = []string{"*", "a.example", "*.a.example", "*.example", "b.a.example", "*.b.a.example", "c.test", "*.test", "example"}
	drawnDomains  = []*Address{nil, {}, {Literal: true}, {Domain: "a.example", Literal: true}, {Domain: "a.example"}, {Domain: "b.a.example"},
		{Domain: "x.b.a.example"}, {Domain: "c.test"}, {Domain: "x.c.test"}, {Domain: "example"}, {Domain: "d.invalid"}}
	drawnHosts = []string{"mx1.example", "mx2.example", "mx3.example"}
)

func drawRule(t *rapid.T, name string) Rule {
	r := Rule{Name: name, FromNetworks: someOf(t, "from_networks", drawnNetworks), ToNetworks: someOf(t, "to_networks", drawnNetworks),
		ToMXOf: someOf(t, "to_mx_of", drawnHosts), TLS: rapid.SampledFrom([]TLSMode{Opportunistic, Forced, Off}).Draw(t, "tls"),
		ClientTLS: rapid.SampledFrom([]ClientTLS{ClientAny, ClientAny, ClientRequired, ClientVerified}).Draw(t, "client_tls")}
	if rapid.Bool().Draw(t, "envelope") {
		r.FromDomains, r.ToDomains = someOf(t, "from_domains", drawnMatchers), someOf(t, "to_domains", drawnMatchers)
	}
	switch rapid.IntRange(0, 3).Draw(t, "expires") {
	case 0:
		r.Expires = noon
	case 1:
		r.Expires = noon.Add(time.Hour)
	}
	return r
}

func drawConnection(t *rapid.T) Connection {
	c := Connection{MXOf: rapid.SliceOfN(rapid.SampledFrom(append(drawnHosts, "mx4.example")), 0, 2).Draw(t, "mx of")}
	for label, into := range map[string]*netip.Addr{"client": &c.Client, "upstream": &c.Upstream} {
		if s := rapid.SampledFrom(append(drawnAddresses, "")).Draw(t, label); s != "" {
			*into = netip.MustParseAddr(s)
		}
	}
	return c
}

func TestTheRuleThatIsFoundIsTheFirstThatMatches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var rules []*compiled
		for i := range rapid.IntRange(0, 40).Draw(t, "rules") {
			rules = append(rules, compile(drawRule(t, fmt.Sprint(i))))
		}
		p := newPolicy(rules, tls12)
		for range 20 {
			c := drawConnection(t)
			sender, recipient := rapid.SampledFrom(drawnDomains).Draw(t, "sender"), rapid.SampledFrom(drawnDomains).Draw(t, "recipient")
			for _, now := range []time.Time{noon.Add(-1), noon, noon.Add(time.Hour)} {
				if got, want := p.ConnectionRule(c, now), walkConnection(p, c, now); got != want {
					t.Fatalf("connection: %q, want %q", name(got), name(want))
				}
				if got, want := p.EnvelopeRule(c, sender, recipient, now), walkEnvelope(p, c, sender, recipient, now); got != want {
					t.Fatalf("envelope: %q, want %q", name(got), name(want))
				}
				if got, want := p.MayHold(c, now), walkDemands(p, c, now, ClientRequired); got != want {
					t.Fatalf("may hold: %v, want %v", got, want)
				}
				if got, want := p.RequestsClientCertificate(c, now), walkDemands(p, c, now, ClientVerified); got != want {
					t.Fatalf("asks for a certificate: %v, want %v", got, want)
				}
			}
		}
	})
}

// Fewest prefixes or not: a list of networks says what each of them says.
func TestAListOfNetworksHasTheAddressesOfEach(t *testing.T) {
	network := rapid.Custom(func(t *rapid.T) netip.Prefix {
		if rapid.Bool().Draw(t, "known") {
			return rapid.SampledFrom(drawnNetworks).Draw(t, "network")
		}
		a := netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "low")})
		return netip.PrefixFrom(a, rapid.IntRange(24, 32).Draw(t, "bits"))
	})
	rapid.Check(t, func(t *rapid.T) {
		list, other := rapid.SliceOfN(network, 0, 60).Draw(t, "list"), rapid.SliceOfN(network, 1, 4).Draw(t, "other")
		s, o := newNetworkSet(list), newNetworkSet(other)
		for i := range 256 {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
			if got, want := s.contains(a), walkNetworks(list, a); got != want {
				t.Fatalf("%v: %v, want %v", a, got, want)
			}
		}
		for _, one := range drawnAddresses {
			if a := netip.MustParseAddr(one); s.contains(a) != walkNetworks(list, a) {
				t.Fatalf("%v: %v", a, s.contains(a))
			}
		}
		meet := len(list) == 0
		for _, p := range list {
			meet = meet || slices.ContainsFunc(other, p.Overlaps)
		}
		if got := s.mayMeet(&o); got != meet {
			t.Fatalf("meet: %v, want %v", got, meet)
		}
		for _, p := range other {
			if got, want := s.covers(p.Masked()), walkCovers(list, p.Masked()); got != want {
				t.Fatalf("covers %v: %v, want %v", p, got, want)
			}
		}
	})
}

// walkCovers reports whether every address of p lies in one of list, by halving p
// until one has all of it or none any.
func walkCovers(list []netip.Prefix, p netip.Prefix) bool {
	inside := false
	for _, q := range list {
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
	raw := p.Addr().AsSlice()
	raw[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	upper, _ := netip.AddrFromSlice(raw)
	return walkCovers(list, netip.PrefixFrom(p.Addr(), p.Bits()+1)) && walkCovers(list, netip.PrefixFrom(upper, p.Bits()+1))
}
