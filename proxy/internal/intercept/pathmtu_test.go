package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"postern/proxy/proxytest/netlab"
)

// narrowed puts another router between the server's side and a far host, behind a
// link that is narrower than both ends know: only ICMP tells.
func narrowed(t *testing.T, n *netlab.Network) (far *netlab.Host, far4, far6 netip.Addr) {
	t.Helper()
	host := func(name string) *netlab.Host {
		h, err := netlab.NewHost(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = h.Close() })
		return h
	}
	router := host("router")
	far = host("far")
	end := func(h *netlab.Host, name string, addresses ...string) netlab.End {
		return netlab.End{Host: h, Interface: name, Addresses: prefixes(addresses...)}
	}
	err := errors.Join(
		netlab.Connect(end(n.Server, "eth1", "192.0.2.1/30", "2001:db8:3::1/64"), end(router, "eth0", "192.0.2.2/30", "2001:db8:3::2/64")),
		netlab.Connect(end(router, "eth1", "198.51.100.1/24", "2001:db8:4::1/64"), end(far, "eth0", "198.51.100.2/24", "2001:db8:4::2/64")))
	if err != nil {
		t.Fatal(err)
	}
	const forward = "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1; "
	shell(t, n.Server, forward+"ip link set eth1 mtu 1300; ip route add 198.51.100.0/24 via 192.0.2.2; ip -6 route add 2001:db8:4::/64 via 2001:db8:3::2")
	shell(t, router, forward+"ip link set eth0 mtu 1300; ip route add default via 192.0.2.1; ip -6 route add default via 2001:db8:3::1")
	shell(t, far, "ip route add default via 198.51.100.1; ip -6 route add default via 2001:db8:4::1")
	way := fmt.Sprintf("sysctl -qw net.ipv4.tcp_mtu_probing=0; ip route replace 198.51.100.0/24 via %s; ip -6 route replace 2001:db8:4::/64 via %s",
		n.Server4, n.Server6)
	shell(t, n.Gateway, way)
	return far, netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("2001:db8:4::2")
}

func TestLongMessagesPassAPathThatIsNarrowInItsMiddle(t *testing.T) {
	for _, row := range []struct {
		name    string
		network func(*testing.T) *netlab.Network
		plan    Plan
	}{
		{"tproxy", routed, tproxyPlan()},
		{"redirect", routed, redirectPlan()},
		{"across a bridge", bridged, bridgePlan()},
		{"across a bridge, left alone", bridged, bypassing(bridgePlan())},
	} {
		t.Run(row.name, func(t *testing.T) {
			n := row.network(t)
			far, far4, far6 := narrowed(t, n)
			if row.plan.Interfaces[0] == "br0" { // where the server is the way for both
				shell(t, n.Client, fmt.Sprintf("ip route add 198.51.100.0/24 via %s; ip -6 route add 2001:db8:4::/64 via %s", n.Server4, n.Server6))
			}
			up(t, n.Gateway, row.plan)
			if state := show(t, n.Gateway, row.plan); !state.Agrees {
				t.Errorf("%q", state.Differences)
			}
			startRelay(t, n.Gateway, row.plan)
			for _, server := range []netip.Addr{far4, far6} {
				echo(t, far, at(server, smtp))
				v := mustCall(t, n.Client, anyPort, at(server, smtp))
				if got, want := v.wasIntercepted(), len(row.plan.Bypass) == 0; got != want {
					t.Errorf("to %s: intercepted %v, want %v", server, got, want)
				}
				if err := v.SetDeadline(time.Now().Add(patience)); err != nil {
					t.Fatal(err)
				}
				if err := v.transfer(); err != nil {
					t.Errorf("to %s: %v", server, err)
				}
			}
		})
	}
}

func bypassing(p Plan) Plan {
	p.Bypass = prefixes("198.51.100.2/32", "2001:db8:4::/64")
	return p
}
