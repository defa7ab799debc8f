package enforce

import (
	"fmt"
	"net/netip"
	"testing"
)

// many gives n rules of a large site: connection rules by server, by client and by
// both, envelope rules by recipient, by sender and by client. None hides another.
func many(n int) []Rule {
	rules := make([]Rule, n)
	for i := range rules {
		at := []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(11 + i>>16), byte(i >> 8), byte(i), 0}), 24)}
		own := []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)}
		r := Rule{Name: fmt.Sprint("rule ", i), TLS: Forced, Auto: true}
		switch i % 6 {
		case 0:
			r.ToNetworks = at
		case 1:
			r.FromNetworks, r.ClientTLS = own, ClientRequired
		case 2:
			r.FromNetworks, r.ToNetworks = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, at
		case 3:
			r.ToDomains = []string{fmt.Sprintf("partner%d.example", i), fmt.Sprintf("*.partner%d.example", i)}
		case 4:
			r.FromDomains, r.ClientTLS = []string{fmt.Sprintf("branch%d.example", i)}, ClientRequired
		case 5:
			r.FromNetworks, r.ToDomains = own, []string{"*.health.example"}
		}
		rules[i] = r
	}
	return rules
}

func compiledOf(b *testing.B, n int) *Policy {
	p, errs := Compile(many(n), 0)
	if len(errs) > 0 {
		b.Fatal(errs[0])
	}
	return p
}

// sizes runs f for policies of so many rules. What it measures must not grow with
// them.
func sizes(b *testing.B, f func(b *testing.B, p *Policy)) {
	for _, n := range []int{1, 10, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := compiledOf(b, n)
			b.ReportAllocs()
			b.ResetTimer()
			f(b, p)
		})
	}
}

func BenchmarkConnectionRule(b *testing.B) {
	sizes(b, func(b *testing.B, p *Policy) {
		c := conn("192.0.2.1", "203.0.113.1") // of no rule: the built-in one decides
		for b.Loop() {
			p.ConnectionRule(c, noon)
		}
	})
}

func BenchmarkEnvelopeRule(b *testing.B) {
	sizes(b, func(b *testing.B, p *Policy) {
		c, sender, recipient := conn("192.0.2.1", "203.0.113.1"), &Address{Domain: "sender.test"}, &Address{Domain: "mail.recipient.test"}
		for b.Loop() {
			p.EnvelopeRule(c, sender, recipient, noon)
		}
	})
}

func BenchmarkMayHold(b *testing.B) {
	sizes(b, func(b *testing.B, p *Policy) {
		c := conn("192.0.2.1", "203.0.113.1")
		for b.Loop() {
			p.MayHold(c, noon)
		}
	})
}

func BenchmarkRequestsClientCertificate(b *testing.B) {
	sizes(b, func(b *testing.B, p *Policy) {
		c := conn("192.0.2.1", "203.0.113.1")
		for b.Loop() {
			p.RequestsClientCertificate(c, noon)
		}
	})
}

func BenchmarkRelay(b *testing.B) {
	for _, n := range []int{1, 10, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var relays []netip.Prefix
			for i := range n {
				relays = append(relays, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24))
			}
			p := compiledOf(b, 1).Verifying(Verification{Relays: relays})
			c := conn("192.0.2.1", "203.0.113.1")
			b.ReportAllocs()
			for b.Loop() {
				p.Relay(c)
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{10, 1000, 2000, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				compiledOf(b, n)
			}
		})
	}
}
