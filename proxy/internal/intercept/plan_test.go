package intercept

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestEveryMistakeOfAPlanIsNamedWithItsKey(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*Plan)
		want   string
	}{
		{"a method that does not exist", func(p *Plan) { p.Method = "magic" }, `intercept.method: found "magic"`},
		{"no interface", func(p *Plan) { p.Interfaces = nil }, "intercept.interfaces: found none"},
		{"loopback with tproxy", func(p *Plan) { p.Interfaces = []string{"lo"} }, "intercept.interfaces: found lo with method tproxy, want method redirect"},
		{"loopback without a user", func(p *Plan) { *p = ownPlan(); p.User = "" }, "intercept.user: found none"},
		{"an interface twice", func(p *Plan) { p.Interfaces = []string{"a", "a"} }, "intercept.interfaces: a stands twice"},
		{"too long an interface", func(p *Plan) { p.Interfaces = []string{"sixteen-bytes-00"} }, "1 to 15 bytes"},
		{"a pattern", func(p *Plan) { p.Interfaces = []string{"eth*"} }, `found "eth*"`},
		{"a path", func(p *Plan) { p.Interfaces = []string{"../all"} }, `found "../all"`},
		{"a VLAN as ip(8) shows it", func(p *Plan) { p.Interfaces = []string{"eth0.20@eth0"} }, `found "eth0.20@eth0", want "eth0.20"`},
		{"no name", func(p *Plan) { p.Interfaces = []string{""} }, `found ""`},
		{"no port", func(p *Plan) { p.Ports = nil }, "intercept.ports: found none"},
		{"port 0", func(p *Plan) { p.Ports = []uint16{0} }, "intercept.ports: found 0"},
		{"a port twice", func(p *Plan) { p.Ports = []uint16{25, 25} }, "intercept.ports: 25 stands twice"},
		{"its own port", func(p *Plan) { p.Ports = []uint16{2525} }, "intercept itself"},
		{"host bits", func(p *Plan) { p.Sources = prefixes("10.0.0.1/8") }, "intercept.sources: found 10.0.0.1/8, want 10.0.0.0/8"},
		{"a mapped network", func(p *Plan) { p.Bypass = prefixes("::ffff:10.0.0.0/120") }, "intercept.bypass"},
		{"no network", func(p *Plan) { p.Bypass = []netip.Prefix{{}} }, "intercept.bypass: found an invalid network"},
		{"no when_down", func(p *Plan) { p.WhenDown = "" }, `intercept.when_down: found ""`},
		{"pass with redirect", func(p *Plan) { *p = redirectPlan(); p.WhenDown = Pass }, "intercept.when_down: pass cannot be had"},
		{"the source kept with redirect", func(p *Plan) { *p = redirectPlan(); p.PreserveSource = true }, "intercept.preserve_source"},
		{"nowhere to listen", func(p *Plan) { p.Listen = nil }, "listen.addresses: found none"},
		{"two addresses a family", func(p *Plan) {
			p.Listen = append(p.Listen, netip.MustParseAddrPort("127.0.0.2:2526"))
		}, "one address a family"},
		{"an address others can reach", func(p *Plan) {
			p.Listen = []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:2525")}
		}, "want a loopback address"},
		{"loopback with redirect", func(p *Plan) {
			listen := p.Listen
			*p = redirectPlan()
			p.Listen = listen
		}, "want 0.0.0.0 or [::]"},
		{"loopback for others' connections too", func(p *Plan) {
			listen := p.Listen
			*p = ownAndOthersPlan()
			p.Listen = listen
		}, "want 0.0.0.0 or [::]"},
		{"another loopback address", func(p *Plan) {
			*p = ownPlan()
			p.Listen = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.2:2525")}
		}, "want 127.0.0.1 with interface lo alone"},
	} {
		plan := tproxyPlan()
		row.change(&plan)
		err := plan.Validate()
		var field *FieldError
		if !errors.As(err, &field) || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
		if _, upErr := plan.Up(); upErr == nil || upErr.Error() != err.Error() {
			t.Errorf("%s: Up says %v", row.name, upErr)
		}
	}
	for _, plan := range []Plan{tproxyPlan(), redirectPlan(), ownPlan(), ownAndOthersPlan(), {Method: None}} {
		if err := plan.Validate(); err != nil {
			t.Errorf("%s: %v", plan.Method, err)
		}
	}
}

func TestAllMistakesAreReportedAtOnce(t *testing.T) {
	err := Plan{Method: "x", WhenDown: "y"}.Validate()
	for _, key := range []string{"method", "when_down", "interfaces", "ports", "listen.addresses"} {
		if !strings.Contains(err.Error(), key) {
			t.Errorf("%s is missing in %v", key, err)
		}
	}
}

func TestSpansHoldExactlyTheAddressesOfTheNetworks(t *testing.T) {
	prefix := rapid.Custom(func(t *rapid.T) netip.Prefix {
		bytes := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 127, 128, 254, 255}), 4, 4).Draw(t, "address")
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte(bytes)), rapid.IntRange(0, 32).Draw(t, "bits"))
		return p.Masked()
	})
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(prefix, 0, 12).Draw(t, "networks")
		ranges := spans(all, true)
		for i := 1; i < len(ranges); i++ {
			if ranges[i-1].last.Next().Compare(ranges[i].first) >= 0 {
				t.Fatalf("%v touch", ranges)
			}
		}
		probes := []netip.Addr{netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("255.255.255.255")}
		for _, p := range all {
			for _, edge := range []netip.Addr{p.Addr(), lastAddress(p), p.Addr().Prev(), lastAddress(p).Next()} {
				if edge.IsValid() {
					probes = append(probes, edge)
				}
			}
		}
		for _, probe := range probes {
			inNetworks, inRanges := false, false
			for _, p := range all {
				inNetworks = inNetworks || p.Contains(probe)
			}
			for _, r := range ranges {
				inRanges = inRanges || r.first.Compare(probe) <= 0 && probe.Compare(r.last) <= 0
			}
			if inNetworks != inRanges {
				t.Fatalf("%s: in the networks %v, in the ranges %v", probe, inNetworks, inRanges)
			}
		}
		if len(spans(all, false)) != 0 {
			t.Fatal("IPv4 networks among those of IPv6")
		}
	})
}
