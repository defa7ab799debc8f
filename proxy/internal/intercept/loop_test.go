package intercept

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"postern/proxy/proxytest/netlab"
)

func TestAConnectionToPosternsOwnAddressIsRefusedAsALoop(t *testing.T) {
	for _, plan := range []Plan{tproxyPlan(), redirectPlan()} {
		t.Run(string(plan.Method), func(t *testing.T) {
			n := routed(t)
			up(t, n.Gateway, plan)
			r := startRelay(t, n.Gateway, plan)
			families(t, n, func(t *testing.T, client, server netip.Addr) {
				direct := map[bool]netip.AddrPort{
					true: netip.MustParseAddrPort("127.0.0.1:2525"), false: netip.MustParseAddrPort("[::1]:2525"),
				}[client.Is4()]
				if _, err := call(n.Gateway, anyPort, direct); err == nil {
					t.Error("it was served")
				}
				if err := <-r.refused; !errors.Is(err, ErrLoop) {
					t.Errorf("the relay says %v", err)
				}
			})
		})
	}
}

func TestAClientThatDialsTheRedirectPortItselfIsRefusedAsALoop(t *testing.T) {
	n := routed(t)
	plan := redirectPlan()
	up(t, n.Gateway, plan)
	r := startRelay(t, n.Gateway, plan)
	for _, gateway := range []netip.Addr{n.Gateway4, n.Gateway6} {
		if _, err := call(n.Client, anyPort, at(gateway, 2525)); err == nil {
			t.Error("it was served")
		}
		if err := <-r.refused; !errors.Is(err, ErrLoop) {
			t.Errorf("the relay says %v", err)
		}
	}
}

func TestAConnectionThatConntrackDoesNotKnowIsRefusedAsALoop(t *testing.T) {
	n := routed(t)
	plan := redirectPlan() // never put in force: conntrack is idle
	r := startRelay(t, n.Gateway, plan)
	for _, gateway := range []netip.Addr{n.Gateway4, n.Gateway6} {
		if _, err := call(n.Client, anyPort, at(gateway, 2525)); err == nil {
			t.Error("it was served")
		}
		if err := <-r.refused; !errors.Is(err, ErrLoop) {
			t.Errorf("the relay says %v", err)
		}
	}
}

func TestDiallingPosternsOwnAddressIsRefusedAsALoop(t *testing.T) {
	for _, plan := range []Plan{tproxyPlan(), redirectPlan()} {
		n := routed(t)
		r := startRelay(t, n.Gateway, plan)
		for _, own := range plan.Listen {
			destination := own
			if own.Addr().IsUnspecified() {
				destination = at(n.Gateway4, own.Port())
				if own.Addr().Is6() {
					destination = at(n.Gateway6, own.Port())
				}
			}
			if _, err := dialFrom(t, n.Gateway, r.gate, at(n.Client4, 1), destination); !errors.Is(err, ErrLoop) {
				t.Errorf("%s: %v", destination, err)
			}
		}
	}
}

// bounce makes the server host a router that sends what is not its own back to
// the gateway, where it comes in on an intercepted interface.
func bounce(t *testing.T, n *netlab.Network, far netip.Prefix, via netip.Addr) {
	t.Helper()
	err := errors.Join(
		n.Gateway.AddRoute(far, via),
		n.Server.Sysctl("net.ipv4.ip_forward", "1"),
		n.Server.Sysctl("net.ipv6.conf.all.forwarding", "1"),
	)
	if err != nil {
		t.Fatal(err)
	}
}

func TestItsOwnUpstreamConnectionComingBackIsRefusedAsALoop(t *testing.T) {
	n := routed(t)
	bounce(t, n, netip.MustParsePrefix("198.51.100.0/24"), n.Server4)
	bounce(t, n, netip.MustParsePrefix("2001:db8:ff::/48"), n.Server6)
	// Usually IPv4 itself drops packets that come in from one's own address.
	if err := n.Gateway.Sysctl("net.ipv4.conf.wan0.accept_local", "1"); err != nil {
		t.Fatal(err)
	}
	plan := tproxyPlan()
	plan.PreserveSource = false
	plan.Interfaces = []string{"lan0", "wan0"}
	up(t, n.Gateway, plan)
	r := startRelay(t, n.Gateway, plan)
	for _, far := range []string{"198.51.100.1", "2001:db8:ff::1"} {
		destination := at(netip.MustParseAddr(far), smtp)
		if v, err := call(n.Client, anyPort, destination); err == nil {
			t.Errorf("%s answered %s", far, v.seen)
		}
		if err := <-r.refused; !errors.Is(err, ErrLoop) {
			t.Errorf("%s: the relay says %v", far, err)
		}
		if got := len(r.arrivals); got != 1 {
			t.Errorf("%s: %d connections were dialled onwards, want the client's alone", far, got)
		}
		<-r.arrivals
	}
}

func TestAConnectionThatComesBackIsNeverServedTwice(t *testing.T) {
	// Here the kernel sees to it: answers to the client's address go to the real
	// client, and conntrack redirects a connection once.
	for _, plan := range []Plan{tproxyPlan(), redirectPlan()} {
		t.Run(string(plan.Method), func(t *testing.T) {
			n := routed(t)
			bounce(t, n, netip.MustParsePrefix("198.51.100.0/24"), n.Server4)
			bounce(t, n, netip.MustParsePrefix("2001:db8:ff::/48"), n.Server6)
			plan.Interfaces = []string{"lan0", "wan0"}
			up(t, n.Gateway, plan)
			r := startRelay(t, n.Gateway, plan)
			r.connect.Store(int64(time.Second))
			for _, far := range []string{"198.51.100.1", "2001:db8:ff::1"} {
				if v, err := call(n.Client, anyPort, at(netip.MustParseAddr(far), smtp)); err == nil {
					t.Errorf("%s answered %s", far, v.seen)
				}
				<-r.refused
				if got := len(r.arrivals); got != 1 {
					t.Errorf("%s: %d connections were dialled onwards, want the client's alone", far, got)
				}
				<-r.arrivals
			}
		})
	}
}

func TestALocalAddressIsToldFromOthersWithoutListingInterfaces(t *testing.T) {
	n := routed(t)
	err := n.Gateway.Do(func() error {
		addresses, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, address := range addresses {
			ip, _ := netip.AddrFromSlice(address.IP)
			if ip.IsLinkLocalUnicast() {
				continue
			}
			if !isLocal(ip.Unmap()) {
				t.Errorf("%s is not taken for local", ip)
			}
		}
		for _, other := range []netip.Addr{n.Client4, n.Client6, n.Server4, n.Server6} {
			if isLocal(other) {
				t.Errorf("%s is taken for local", other)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestUnderNoneThereIsNoDestinationAndNoLoop(t *testing.T) {
	gate, err := NewGate(Options{Method: None})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := gate.Listen(within(t, patience), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := net.DialTCP("tcp4", nil, listener.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := listener.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	arrival, err := gate.Arrive(conn)
	if err != nil || arrival.Destination.IsValid() || arrival.Interface != "lo" ||
		arrival.Client != client.LocalAddr().(*net.TCPAddr).AddrPort() {
		t.Errorf("arrived %+v, %v", arrival, err)
	}
}
