package intercept

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"postern/proxy/proxytest/netlab"
)

// dialFrom dials as the daemon on the gateway would.
func dialFrom(t *testing.T, host *netlab.Host, gate *Gate, client, destination netip.AddrPort) (*net.TCPConn, error) {
	t.Helper()
	var conn *net.TCPConn
	err := host.Do(func() (err error) {
		conn, err = gate.Dial(within(t, patience), Arrival{Client: client}, destination)
		return err
	})
	if err == nil {
		t.Cleanup(func() { _ = conn.Close() })
	}
	return conn, err
}

func TestTheUpstreamLegNeverTakesThePortOfAClientLeg(t *testing.T) {
	n := routed(t)
	install(t, n.Gateway, "strict", strict()...)
	plan := tproxyPlan()
	up(t, n.Gateway, plan)
	// Few enough ports that chance would choose the client's within a few turns.
	if err := n.Gateway.Sysctl("net.ipv4.ip_local_port_range", "40000 40004"); err != nil {
		t.Fatal(err)
	}
	startRelay(t, n.Gateway, plan)
	canAvoid := kernelCanAvoid(t)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		for turn := range 12 {
			port := uint16(40001 + turn%3)
			capture, err := n.Gateway.Capture("wan0", nil)
			if err != nil {
				t.Fatal(err)
			}
			v, err := call(n.Client, at(client, port), at(server, smtp))
			if err != nil {
				t.Fatal(err)
			}
			if v.seen.Addr() != client || v.seen.Port() == port {
				t.Errorf("client %s, upstream %s", v.local, v.seen)
			}
			if !canAvoid {
				_ = v.Close()
				_, _ = capture.Stop()
				continue // the connection may then stand still: see avoid
			}
			if err := errors.Join(v.transfer(), v.serverCloses()); err != nil {
				t.Errorf("from port %d: %v", port, err)
			}
			packets, err := capture.Stop()
			if err != nil {
				t.Fatal(err)
			}
			for _, packet := range packets {
				flow, segment, ok := netlab.TCPSegment(packet.Data)
				if ok && segment.SYN && flow.From == v.local {
					t.Errorf("a SYN left from the client's own port %d", port)
				}
			}
		}
	})
}

func kernelCanAvoid(t *testing.T) bool {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	return avoid(fd, []uint16{40000})
}

func TestAPortThatCanOnlyBeTheClientsIsRefused(t *testing.T) {
	n := routed(t)
	plan := tproxyPlan()
	up(t, n.Gateway, plan)
	if err := n.Gateway.Sysctl("net.ipv4.ip_local_port_range", "40000 40000"); err != nil {
		t.Fatal(err)
	}
	r := startRelay(t, n.Gateway, plan)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		if _, err := call(n.Client, at(client, 40000), at(server, smtp)); err == nil {
			t.Error("a connection was made")
		}
		// The port may not be free again at once when it is tried anew.
		if err := <-r.refused; !errors.Is(err, errSharedPort) && !errors.Is(err, ErrPortsExhausted) {
			t.Errorf("the relay says %v", err)
		}
	})
}

func TestALongestStretchOfPortsHoldsNoneOfThem(t *testing.T) {
	for _, row := range []struct {
		ports       []uint16
		first, last uint16
	}{
		{[]uint16{50000}, 0, 49999},
		{[]uint16{40000}, 40001, 0},
		{[]uint16{60999}, 0, 60998},
		{[]uint16{32768}, 32769, 0},
		{[]uint16{2000}, 2001, 0},
		{[]uint16{65535}, 0, 65534},
		{[]uint16{60000, 33000}, 33001, 59999},
		{[]uint16{40000, 40001}, 40002, 0},
	} {
		if first, last := longestStretch(row.ports); first != row.first || last != row.last {
			t.Errorf("%v: %d to %d, want %d to %d", row.ports, first, last, row.first, row.last)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		ports := rapid.SliceOfN(rapid.Uint16Min(1), 1, 50).Draw(t, "ports")
		first, last := longestStretch(ports)
		if last != 0 && first > last {
			t.Fatalf("%d to %d", first, last)
		}
		for _, port := range ports {
			if port >= first && (last == 0 || port <= last) {
				t.Fatalf("%d is within %d to %d", port, first, last)
			}
		}
	})
}

func TestAnExhaustedPortRangeIsNamed(t *testing.T) {
	n := routed(t)
	if err := n.Gateway.Sysctl("net.ipv4.ip_local_port_range", "50000 50001"); err != nil {
		t.Fatal(err)
	}
	plan := tproxyPlan()
	up(t, n.Gateway, plan)
	gate := gateOf(t, plan)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		for range 2 {
			if _, err := dialFrom(t, n.Gateway, gate, at(client, 1), at(server, smtp)); err != nil {
				t.Fatal(err)
			}
		}
		_, err := dialFrom(t, n.Gateway, gate, at(client, 1), at(server, smtp))
		if !errors.Is(err, ErrPortsExhausted) || !strings.Contains(err.Error(), "ip_local_port_range") {
			t.Errorf("got %v, want %v", err, ErrPortsExhausted)
		}
		// The same ports serve another server.
		more := client.Next()
		if _, err := dialFrom(t, n.Gateway, gate, at(more, 1), at(server, smtp)); err != nil {
			t.Errorf("for another client: %v", err)
		}
	})
}

func TestManyServersShareThePortsOfOneClient(t *testing.T) {
	n := routed(t)
	if err := n.Gateway.Sysctl("net.ipv4.ip_local_port_range", "50000 50001"); err != nil {
		t.Fatal(err)
	}
	plan := tproxyPlan()
	up(t, n.Gateway, plan)
	gate := gateOf(t, plan)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		for port := uint16(smtp); port < smtp+4; port++ {
			echo(t, n.Server, at(server, port))
			for range 2 {
				if _, err := dialFrom(t, n.Gateway, gate, at(client, 1), at(server, port)); err != nil {
					t.Fatalf("server port %d: %v", port, err)
				}
			}
		}
	})
}

func TestDialEndsWithItsContext(t *testing.T) {
	n := routed(t)
	plan := tproxyPlan()
	up(t, n.Gateway, plan)
	gate := gateOf(t, plan)
	// Addresses of the server's network where nobody lives: no answer comes.
	for _, nobody := range []string{"203.0.113.99", "2001:db8:2::99"} {
		server := netip.MustParseAddr(nobody)
		client := n.Client4
		if server.Is6() {
			client = n.Client6
		}
		began := time.Now()
		err := n.Gateway.Do(func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			defer cancel()
			conn, err := gate.Dial(ctx, Arrival{Client: at(client, 1)}, at(server, smtp))
			if err == nil {
				_ = conn.Close()
			}
			return err
		})
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() || time.Since(began) > patience {
			t.Errorf("%s: %v after %v, want a timeout", server, err, time.Since(began))
		}
		if n := upstreamLegs(gate); n != 0 {
			t.Errorf("%d upstream legs are remembered", n)
		}
	}
}

func upstreamLegs(gate *Gate) (n int) {
	for i := range gate.legs {
		n += gate.legs[i].upstream.count
	}
	return n
}

func TestARefusedConnectionIsReportedAsRefused(t *testing.T) {
	n := routed(t)
	plan := tproxyPlan()
	up(t, n.Gateway, plan)
	for _, preserve := range []bool{true, false} {
		plan.PreserveSource = preserve
		gate := gateOf(t, plan)
		families(t, n, func(t *testing.T, client, server netip.Addr) {
			_, err := dialFrom(t, n.Gateway, gate, at(client, 1), at(server, smtp))
			if !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("got %v", err)
			}
			if n := upstreamLegs(gate); n != 0 {
				t.Errorf("%d upstream legs are remembered", n)
			}
		})
	}
}

func TestWithoutPreserveSourceTheGatewaysAddressIsSeen(t *testing.T) {
	n := routed(t)
	plan := tproxyPlan()
	plan.PreserveSource = false
	up(t, n.Gateway, plan)
	startRelay(t, n.Gateway, plan)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		v := mustCall(t, n.Client, anyPort, at(server, smtp))
		if v.seen.Addr() == client {
			t.Errorf("the server sees %s", v.seen)
		}
	})
}

func TestClosedConnectionsAreForgotten(t *testing.T) {
	n := routed(t)
	plan := tproxyPlan()
	plan.PreserveSource = false
	gate := gateOf(t, plan)
	echo(t, n.Server, at(n.Server4, smtp))
	for range 2 * smallestSweep {
		conn, err := dialFrom(t, n.Gateway, gate, at(n.Client4, 1), at(n.Server4, smtp))
		if err != nil {
			t.Fatal(err)
		}
		// A reset, so that the test itself does not run out of ports.
		if err := errors.Join(conn.SetLinger(0), conn.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if count := upstreamLegs(gate); count >= smallestSweep {
		t.Errorf("%d upstream legs are remembered", count)
	}
}

func TestWhatIsNoDestinationIsNotDialled(t *testing.T) {
	gate := gateOf(t, tproxyPlan())
	for _, destination := range []string{"0.0.0.0:25", "[::]:25", "203.0.113.2:0", "[2001:db8::1]:25"} {
		_, err := gate.Dial(within(t, patience), Arrival{Client: netip.MustParseAddrPort("10.1.0.2:1")}, netip.MustParseAddrPort(destination))
		if err == nil {
			t.Errorf("%s was dialled for an IPv4 client", destination)
		}
	}
	if _, err := gate.Dial(within(t, patience), Arrival{}, anyPort); err == nil {
		t.Error("the zero address was dialled")
	}
}
