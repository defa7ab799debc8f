package intercept

import (
	"errors"
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
	shell(t, n.Gateway, "sysctl -qw net.ipv4.tcp_mtu_probing=0; ip route add default via 203.0.113.2; ip -6 route add default via 2001:db8:2::2")
	return far, netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("2001:db8:4::2")
}

func TestLongMessagesPassAPathThatIsNarrowInItsMiddle(t *testing.T) {
	for _, plan := range []Plan{tproxyPlan(), redirectPlan()} {
		t.Run(string(plan.Method), func(t *testing.T) {
			n := routed(t)
			far, far4, far6 := narrowed(t, n)
			up(t, n.Gateway, plan)
			startRelay(t, n.Gateway, plan)
			for _, server := range []netip.Addr{far4, far6} {
				echo(t, far, at(server, smtp))
				v := mustCall(t, n.Client, anyPort, at(server, smtp))
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
