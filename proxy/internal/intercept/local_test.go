package intercept

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"postern/proxy/proxytest/netlab"
)

// posternUser is whom the relay runs as where it takes this machine's own
// connections. Nobody need have that number: the rules know numbers alone.
const posternUser = 4711

// ownPlan takes the connections that the gateway itself makes.
func ownPlan() Plan {
	p := redirectPlan()
	p.Interfaces, p.User = []string{Loopback}, "4711"
	p.Listen = tproxyPlan().Listen
	return p
}

// ownAndOthersPlan also takes those of the client.
func ownAndOthersPlan() Plan {
	p := redirectPlan()
	p.Interfaces, p.User = []string{Loopback, "lan0"}, "4711"
	return p
}

// asUser opens sockets of another user: the kernel goes by the file system user
// of the thread that opens them, which may change it for a moment.
func asUser(uid int, open func() error) error {
	if uid == os.Geteuid() {
		return open()
	}
	// What cannot be is not an error to the kernel, but shows.
	if _, err := unix.SetfsuidRetUid(uid); err != nil {
		return err
	}
	if now, _ := unix.SetfsuidRetUid(-1); now != uid {
		return errors.New("this process cannot act as another user")
	}
	err := open()
	_, back := unix.SetfsuidRetUid(os.Geteuid())
	return errors.Join(err, back)
}

// callAs is call by another user.
func callAs(host *netlab.Host, uid int, to netip.AddrPort) (*visit, error) {
	var conn *net.TCPConn
	err := host.Do(func() error {
		return asUser(uid, func() error {
			dialled, err := net.DialTimeout("tcp", to.String(), patience)
			if err == nil {
				conn = dialled.(*net.TCPConn)
			}
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return greeted(conn)
}

// locally runs the test with the gateway's own addresses towards the server.
func locally(t *testing.T, n *netlab.Network, test func(t *testing.T, own, server netip.Addr)) {
	t.Helper()
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		own := netip.MustParseAddr("203.0.113.1")
		if server.Is6() {
			own = netip.MustParseAddr("2001:db8:2::1")
		}
		test(t, own, server)
	})
}

func TestConnectionsOfThisMachineItselfAreTakenAndLeaveFromTheirOwnAddress(t *testing.T) {
	for name, plan := range map[string]Plan{"alone": ownPlan(), "beside an interface": ownAndOthersPlan()} {
		t.Run(name, func(t *testing.T) {
			n := routed(t)
			install(t, n.Gateway, "strict", strict()...)
			// The machine has a second address, of which it is not to be found out by
			// binding whether it is its own.
			second4, second6 := netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8:2::9")
			err := errors.Join(
				n.Gateway.AddAddress("wan0", netip.PrefixFrom(second4, 24), netip.PrefixFrom(second6, 64)),
				n.Gateway.Sysctl("net.ipv4.ip_nonlocal_bind", "1"),
				n.Gateway.Sysctl("net.ipv6.ip_nonlocal_bind", "1"),
			)
			if err != nil {
				t.Fatal(err)
			}
			up(t, n.Gateway, plan)
			if state := show(t, n.Gateway, plan); !state.Agrees || !state.Taking {
				t.Errorf("%+v", state)
			}
			r := startRelayAs(t, n.Gateway, plan, posternUser)
			locally(t, n, func(t *testing.T, own, server netip.Addr) {
				second := second4
				if server.Is6() {
					second = second6
				}
				echo(t, n.Server, at(server, smtp))
				for _, from := range []netip.AddrPort{anyPort, at(second, 0), at(second, 40001)} {
					v := mustCall(t, n.Gateway, from, at(server, smtp))
					arrival := <-r.arrivals
					if arrival.Client != v.local || arrival.Destination != at(server, smtp) || arrival.Interface != Loopback {
						t.Errorf("arrived %+v, from %s", arrival, v.local)
					}
					if v.seen.Addr() != v.local.Addr() || !v.wasIntercepted() {
						t.Errorf("the server sees %s, the mail server is %s", v.seen, v.local)
					}
					if err := v.transfer(); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

func TestBesideItsOwnConnectionsThoseOfOthersAreTaken(t *testing.T) {
	n := routed(t)
	plan := ownAndOthersPlan()
	up(t, n.Gateway, plan)
	r := startRelayAs(t, n.Gateway, plan, posternUser)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		v := mustCall(t, n.Client, anyPort, at(server, smtp))
		// A client is not this machine: its address is not taken without privilege.
		if arrival := <-r.arrivals; arrival.Interface != "lan0" || v.seen.Addr() == client || !v.wasIntercepted() {
			t.Errorf("arrived %+v, the server sees %s", arrival, v.seen)
		}
	})
}

func TestOfThisMachinesOwnConnectionsOnlyThoseThatThePlanNamesAreTaken(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*Plan)
		uid    int
		port   uint16
		want   bool
	}{
		{"to port 25", func(*Plan) {}, 0, 25, true},
		{"of another user", func(*Plan) {}, posternUser + 1, 25, true},
		{"of Postern's user", func(*Plan) {}, posternUser, 25, false},
		{"to another port", func(*Plan) {}, 0, 587, false},
		{"from an address in sources", func(p *Plan) { p.Sources = prefixes("203.0.113.1/32", "2001:db8:2::1/128") }, 0, 25, true},
		{"from no address in sources", func(p *Plan) { p.Sources = prefixes("10.1.0.0/24", "2001:db8:1::/64") }, 0, 25, false},
		{"to a server in bypass", func(p *Plan) { p.Bypass = prefixes("203.0.113.2/32", "2001:db8:2::2/128") }, 0, 25, false},
		{"of a plan for others", func(p *Plan) { *p = redirectPlan() }, 0, 25, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			n := routed(t)
			plan := ownPlan()
			row.change(&plan)
			up(t, n.Gateway, plan)
			startRelayAs(t, n.Gateway, plan, posternUser)
			locally(t, n, func(t *testing.T, own, server netip.Addr) {
				echo(t, n.Server, at(server, row.port))
				v, err := callAs(n.Gateway, row.uid, at(server, row.port))
				if err != nil {
					t.Fatal(err)
				}
				defer v.Close()
				if v.wasIntercepted() != row.want {
					t.Errorf("intercepted %v, want %v", v.wasIntercepted(), row.want)
				}
			})
		})
	}
}

func TestMailForThisMachineItselfIsNotTouched(t *testing.T) {
	n := routed(t)
	plan := ownPlan()
	up(t, n.Gateway, plan)
	startRelayAs(t, n.Gateway, plan, posternUser)
	for _, own := range []netip.Addr{n.Gateway4, n.Gateway6, loopbackOf(true), loopbackOf(false), netip.MustParseAddr("127.0.0.9")} {
		echo(t, n.Gateway, at(own, smtp))
		if v := mustCall(t, n.Gateway, anyPort, at(own, smtp)); v.wasIntercepted() {
			t.Errorf("a connection to %s was intercepted", own)
		}
	}
}

// Postern that runs as somebody else meets its own connections.
func TestItsOwnConnectionThatIsNotExemptedIsRefusedAsALoop(t *testing.T) {
	n := routed(t)
	plan := ownPlan()
	up(t, n.Gateway, plan)
	r := startRelayAs(t, n.Gateway, plan, posternUser+1)
	locally(t, n, func(t *testing.T, own, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		if v, err := call(n.Gateway, anyPort, at(server, smtp)); err == nil {
			t.Errorf("answered %s", v.seen)
		}
		if err := <-r.refused; !errors.Is(err, ErrLoop) || !strings.Contains(err.Error(), "[intercept] user") {
			t.Errorf("the relay says %v", err)
		}
		if got := len(r.arrivals); got != 1 {
			t.Errorf("%d connections were dialled onwards, want the mail server's alone", got)
		}
		<-r.arrivals
	})
}

// A program that has closed its socket no longer keeps the kernel from giving its
// port away, while Postern's leg may still be open.
func TestAnUpstreamPortEqualToTheMailServersIsAvoided(t *testing.T) {
	n := routed(t)
	plan := ownPlan()
	gate := gateOf(t, plan)
	if err := n.Gateway.Sysctl("net.ipv4.ip_local_port_range", "50000 50001"); err != nil {
		t.Fatal(err)
	}
	locally(t, n, func(t *testing.T, own, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		gate.legsOf(own, at(server, smtp)).client.add(route{own, at(server, smtp)}, 50000, &leg{})
		var got netip.AddrPort
		err := n.Gateway.Do(func() error {
			conn, err := gate.Dial(within(t, patience), Arrival{Client: at(own, 50000), Interface: Loopback}, at(server, smtp))
			if err != nil {
				return err
			}
			got = netip.MustParseAddrPort(conn.LocalAddr().String())
			return conn.Close()
		})
		if err != nil || got != at(own, 50001) {
			t.Errorf("dialled from %s, %v", got, err)
		}
	})
}

// No rule is needed: what comes in on lo is let in by every firewall.
func TestBesideTheFirewallsOfOthersThisMachinesOwnConnectionsAreTaken(t *testing.T) {
	s := toolsOf(t)
	for _, wall := range []string{"docker", "router", "ufw", "firewalld"} {
		t.Run(wall, func(t *testing.T) {
			n := routed(t)
			if err := n.Gateway.AddBridge("docker0", nil, prefixes("172.17.0.1/16", "fd00:17::1/64")...); err != nil {
				t.Fatal(err)
			}
			s.put(t, n.Gateway, wall)
			before := s.seen(t, n.Gateway)
			plan := ownPlan()
			up(t, n.Gateway, plan)
			s.unchanged(t, n.Gateway, "after up", before)
			startRelayAs(t, n.Gateway, plan, posternUser)
			locally(t, n, func(t *testing.T, own, server netip.Addr) {
				echo(t, n.Server, at(server, smtp))
				v := mustCall(t, n.Gateway, anyPort, at(server, smtp))
				if err := v.transfer(); err != nil || !v.wasIntercepted() || v.seen.Addr() != own {
					t.Errorf("the server sees %s: %v", v.seen, err)
				}
			})
			downWholly(t, n.Gateway)
			s.unchanged(t, n.Gateway, "after down", before)
		})
	}
}

func TestThisMachinesOwnConnectionsGoOnWhenInterceptionComesAndGoes(t *testing.T) {
	n := routed(t)
	plan := ownPlan()
	locally(t, n, func(t *testing.T, own, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		before := mustCall(t, n.Gateway, anyPort, at(server, smtp))
		up(t, n.Gateway, plan)
		once := snapshot(t, n.Gateway)
		up(t, n.Gateway, plan)
		if twice := snapshot(t, n.Gateway); !reflect.DeepEqual(once, twice) {
			t.Errorf("once %q, twice %q", once, twice)
		}
		if _, err := call(n.Gateway, anyPort, at(server, smtp)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("while nothing listens: %v, want a reset", err)
		}
		r := startRelayAs(t, n.Gateway, plan, posternUser)
		taken := mustCall(t, n.Gateway, anyPort, at(server, smtp))
		if before.wasIntercepted() || !taken.wasIntercepted() {
			t.Errorf("intercepted: one from before %v, a new one %v", before.wasIntercepted(), taken.wasIntercepted())
		}
		downFirstStep(t, n.Gateway)
		if state := show(t, n.Gateway, plan); state.Taking || !state.Lingering {
			t.Errorf("%+v", state)
		}
		r.stopListening()
		after := mustCall(t, n.Gateway, anyPort, at(server, smtp))
		if after.wasIntercepted() {
			t.Error("a new connection was still intercepted")
		}
		for name, v := range map[string]*visit{"from before": before, "taken": taken, "from after": after} {
			if err := v.transfer(); err != nil {
				t.Errorf("the connection %s: %v", name, err)
			}
		}
		downWholly(t, n.Gateway)
	})
}

func TestReversePathFiltersDoNotMindThisMachinesOwnConnections(t *testing.T) {
	n := routed(t)
	for _, which := range []string{"all", "default", "lo", "wan0"} {
		for key, value := range map[string]string{"rp_filter": "1", "src_valid_mark": "1", "route_localnet": "0", "accept_local": "0"} {
			if err := n.Gateway.Sysctl("net/ipv4/conf/"+which+"/"+key, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	plan := ownPlan()
	up(t, n.Gateway, plan)
	startRelayAs(t, n.Gateway, plan, posternUser)
	locally(t, n, func(t *testing.T, own, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		if v := mustCall(t, n.Gateway, anyPort, at(server, smtp)); !v.wasIntercepted() || v.seen.Addr() != own {
			t.Errorf("the server sees %s", v.seen)
		}
	})
}
