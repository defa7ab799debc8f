package intercept

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"postern/proxy/proxytest/netlab"
)

// With the mark a packet of Postern's own would be routed back to this machine
// where a rule of somebody else's restores it, and a firewall would take it for
// one of a client. So anything that leaves this machine with it is dropped here:
// what a socket sends carries the socket's mark.
func TestPosternsOwnSocketsNeverCarryTheMark(t *testing.T) {
	for _, plan := range []Plan{tproxyPlan(), redirectPlan()} {
		t.Run(string(plan.Method), func(t *testing.T) {
			n := routed(t)
			drop := marked()
			drop = join(drop[:len(drop)-1], verdict(expr.VerdictDrop))
			install(t, n.Gateway, "unmarked", firewall{nftables.ChainHookOutput, nftables.ChainPolicyAccept, [][]expr.Any{drop}})
			up(t, n.Gateway, plan)
			r := startRelay(t, n.Gateway, plan)
			families(t, n, func(t *testing.T, client, server netip.Addr) {
				echo(t, n.Server, at(server, smtp))
				v := mustCall(t, n.Client, anyPort, at(server, smtp))
				if !v.wasIntercepted() {
					t.Error("the connection was not intercepted")
				}
				if err := v.transfer(); err != nil {
					t.Error(err)
				}
				marks := r.marks(t)
				if len(marks) != 2 { // one a leg
					t.Errorf("the open sockets are %v, want one a leg", marks)
				}
				for far, mark := range marks {
					if mark != 0 {
						t.Errorf("the socket to %s has the mark %#x", far, mark)
					}
				}
			})
		})
	}
}

// Where the kernel gives accepted sockets the mark of what they accepted, those
// of the clients have it; the one to the server still has not.
func TestTheUpstreamSocketTakesNoMarkFromTheClientsOne(t *testing.T) {
	n := routed(t)
	if err := n.Gateway.Sysctl("net.ipv4.tcp_fwmark_accept", "1"); err != nil {
		t.Fatal(err)
	}
	plan := tproxyPlan()
	up(t, n.Gateway, plan)
	r := startRelay(t, n.Gateway, plan)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		v := mustCall(t, n.Client, anyPort, at(server, smtp))
		marks := r.marks(t)
		if marks[v.local] != Mark {
			t.Errorf("the client's socket has the mark %#x: this test proves nothing", marks[v.local])
		}
		if mark, ok := marks[at(server, smtp)]; !ok || mark != 0 {
			t.Errorf("the server's socket: %v, mark %#x", ok, mark)
		}
	})
}

// marks are those of the open sockets, by their far end.
func (r *relay) marks(t *testing.T) map[netip.AddrPort]int {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	marks := map[netip.AddrPort]int{}
	for _, conn := range r.conns {
		err := control(conn, func(fd int) error {
			mark, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK)
			marks[unmap(conn.RemoteAddr().(*net.TCPAddr).AddrPort())] = mark
			return err
		})
		if err != nil && !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
	}
	return marks
}

// The server answers over a second link, so its packets come in on an interface
// that the plan does not name and that Postern sends nothing through. It is not
// there yet when the plan is put in force.
func TestAnswersOfTheServerMayComeInOnAnyInterface(t *testing.T) {
	n := routed(t)
	plan := tproxyPlan()
	up(t, n.Gateway, plan)
	back4, back6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:3::1")
	err := errors.Join(
		netlab.Connect(
			netlab.End{Host: n.Server, Interface: "eth1", Addresses: prefixes("192.0.2.2/24", "2001:db8:3::2/64")},
			netlab.End{Host: n.Gateway, Interface: "back0", Addresses: prefixes("192.0.2.1/24", "2001:db8:3::1/64")}),
		n.Server.AddRoute(netip.PrefixFrom(n.Client4, 32), back4),
		n.Server.AddRoute(netip.PrefixFrom(n.Client6, 128), back6),
		n.Gateway.Sysctl("net/ipv4/conf/all/rp_filter", "0"),
		n.Gateway.Sysctl("net/ipv4/conf/back0/rp_filter", "0"),
	)
	if err != nil {
		t.Fatal(err)
	}
	if state := show(t, n.Gateway, plan); !state.Agrees {
		t.Errorf("%q", state.Differences)
	}
	// Nothing of the server's gets in by the way to it.
	install(t, n.Gateway, "oneway", firewall{nftables.ChainHookPrerouting, nftables.ChainPolicyAccept, [][]expr.Any{
		join(incoming("wan0"), isTCP(), verdict(expr.VerdictDrop))}})
	startRelay(t, n.Gateway, plan)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		v := mustCall(t, n.Client, anyPort, at(server, smtp))
		if v.seen.Addr() != client || !v.wasIntercepted() {
			t.Errorf("the server sees %s, the client is %s", v.seen, v.local)
		}
		if err := v.transfer(); err != nil {
			t.Error(err)
		}
	})
}
