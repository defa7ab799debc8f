package intercept

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"postern/proxy/proxytest/netlab"
)

func bridged(t *testing.T) *netlab.Network {
	t.Helper()
	n, err := netlab.NewBridged()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func bridgePlan() Plan {
	p := tproxyPlan()
	p.Interfaces = []string{"br0"}
	return p
}

func forward(t *testing.T, n *netlab.Network) {
	t.Helper()
	err := errors.Join(
		n.Gateway.Sysctl("net.ipv4.ip_forward", "1"),
		n.Gateway.Sysctl("net.ipv6.conf.all.forwarding", "1"),
		n.Gateway.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), n.Server4),
		n.Gateway.AddRoute(netip.MustParsePrefix("::/0"), n.Server6),
	)
	if err != nil {
		t.Fatal(err)
	}
}

func TestAcrossABridgeAddressesAreKept(t *testing.T) {
	n := bridged(t)
	plan := bridgePlan()
	up(t, n.Gateway, plan)
	if state := show(t, n.Gateway, plan); !state.Agrees || !state.Taking {
		t.Errorf("%+v", state)
	}
	r := startRelay(t, n.Gateway, plan)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		v := mustCall(t, n.Client, anyPort, at(server, smtp))
		arrival := <-r.arrivals
		if arrival.Client != v.local || arrival.Destination != at(server, smtp) || arrival.Interface != "br0" {
			t.Errorf("arrived %+v", arrival)
		}
		if v.seen.Addr() != client || !v.wasIntercepted() {
			t.Errorf("the server sees %s, the client is %s", v.seen, v.local)
		}
		if err := v.transfer(); err != nil {
			t.Error(err)
		}
	})
}

func TestAcrossABridgeConnectionsAreRedirected(t *testing.T) {
	n := bridged(t)
	plan := redirectPlan()
	plan.Interfaces = []string{"br0"}
	up(t, n.Gateway, plan)
	r := startRelay(t, n.Gateway, plan)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		v := mustCall(t, n.Client, anyPort, at(server, smtp))
		arrival := <-r.arrivals
		if arrival.Client != v.local || arrival.Destination != at(server, smtp) || arrival.Interface != "br0" {
			t.Errorf("arrived %+v", arrival)
		}
		if err := v.transfer(); err != nil || !v.wasIntercepted() {
			t.Errorf("the server sees %s: %v", v.seen, err)
		}
	})
}

// frameSources are the MAC addresses that TCP segments came from.
func frameSources(packets []netlab.Packet, from netip.AddrPort) map[string]bool {
	sources := map[string]bool{}
	for _, packet := range packets {
		flow, _, ok := netlab.TCPSegment(packet.Data)
		if ok && flow.From == from {
			sources[net.HardwareAddr(packet.Data[6:12]).String()] = true
		}
	}
	return sources
}

func TestBypassedTrafficIsNeverLiftedOffTheBridge(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*Plan)
		port   uint16
	}{
		{"a client in bypass", func(p *Plan) { p.Bypass = prefixes("10.1.0.2/32", "2001:db8:1::2/128") }, 25},
		{"a server in bypass", func(p *Plan) { p.Bypass = prefixes("10.1.0.25/32", "2001:db8:1::25/128") }, 25},
		{"a client not in sources", func(p *Plan) { p.Sources = prefixes("10.2.0.0/16", "2001:db8:2::/48") }, 25},
		{"another port", func(*Plan) {}, 587},
	} {
		t.Run(row.name, func(t *testing.T) {
			n := bridged(t)
			plan := bridgePlan()
			row.change(&plan)
			up(t, n.Gateway, plan)
			startRelay(t, n.Gateway, plan)
			clientMAC, err := n.Client.HardwareAddress("eth0")
			if err != nil {
				t.Fatal(err)
			}
			families(t, n, func(t *testing.T, client, server netip.Addr) {
				echo(t, n.Server, at(server, row.port))
				capture, err := n.Server.Capture("eth0", nil)
				if err != nil {
					t.Fatal(err)
				}
				v := mustCall(t, n.Client, anyPort, at(server, row.port))
				packets, err := capture.Stop()
				if err != nil {
					t.Fatal(err)
				}
				if v.wasIntercepted() {
					t.Error("it was intercepted")
				}
				// Bridged frames keep the client's MAC address, routed ones do not.
				sources := frameSources(packets, v.local)
				if len(sources) != 1 || !sources[clientMAC.String()] {
					t.Errorf("frames came from %v, want the client's %s alone", sources, clientMAC)
				}
			})
		})
	}
}

func TestABridgeBlocksWhileNothingListens(t *testing.T) {
	n := bridged(t)
	plan := bridgePlan()
	up(t, n.Gateway, plan)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		r := startRelay(t, n.Gateway, plan)
		useThroughPostern(t, n, client, server)
		r.kill()
		for port := uint16(firstReused); port <= lastReused; port++ {
			if _, err := call(n.Client, at(client, port), at(server, smtp)); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("from reused port %d: %v, want a reset", port, err)
			}
		}
	})
}

func TestABridgePassesWhileNothingListens(t *testing.T) {
	n := bridged(t)
	forward(t, n)
	plan := bridgePlan()
	plan.WhenDown = Pass
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		before := mustCall(t, n.Client, anyPort, at(server, smtp))
		up(t, n.Gateway, plan)
		r := startRelay(t, n.Gateway, plan)
		if err := before.say("still there"); err != nil {
			t.Errorf("a connection from before: %v", err)
		}
		useThroughPostern(t, n, client, server)
		r.kill()
		directFromReusedPorts(t, n, client, server)
		// Nothing is carried any more: what was in TIME_WAIT was used again.
		if ending := takeDown(t, n.Gateway, Removal{Linger: DefaultLinger}); ending != TakenOut {
			t.Errorf("ending %d", ending)
		}
		directFromReusedPorts(t, n, client, server)
	})
}

func TestPassOnABridgeNeedsForwardingAndARoute(t *testing.T) {
	n := bridged(t)
	plan := bridgePlan()
	plan.WhenDown = Pass
	refusal := func() string {
		err := n.Gateway.Do(func() error { _, err := plan.Up(); return err })
		var obstacle *ObstacleError
		if !errors.As(err, &obstacle) {
			t.Fatalf("got %v", err)
		}
		return err.Error()
	}
	if text := refusal(); !strings.Contains(text, "net.ipv4.ip_forward") {
		t.Errorf("%s", text)
	}
	if err := n.Gateway.Sysctl("net.ipv4.ip_forward", "1"); err != nil {
		t.Fatal(err)
	}
	if text := refusal(); !strings.Contains(text, "default route") {
		t.Errorf("%s", text)
	}
	forward(t, n)
	up(t, n.Gateway, plan)
}

// IPv6 is not forwarded here: what was lifted would be lost.
func TestAFamilyThatWouldOnlyPassIsNotLiftedOffTheBridge(t *testing.T) {
	n := bridged(t)
	err := errors.Join(
		n.Gateway.Sysctl("net.ipv4.ip_forward", "1"),
		n.Gateway.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), n.Server4),
	)
	if err != nil {
		t.Fatal(err)
	}
	plan := bridgePlan()
	plan.WhenDown, plan.Listen = Pass, plan.Listen[:1]
	up(t, n.Gateway, plan)
	startRelay(t, n.Gateway, plan)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		if v := mustCall(t, n.Client, anyPort, at(server, smtp)); v.wasIntercepted() != client.Is4() {
			t.Errorf("intercepted %v", v.wasIntercepted())
		}
	})
}

func TestBridgeNetfilterIsRefusedByName(t *testing.T) {
	n := bridged(t)
	before := snapshot(t, n.Gateway)
	for _, name := range []string{"iptables", "ip6tables"} {
		err := n.Gateway.Sysctl("net/bridge/bridge-nf-call-"+name, "1")
		if errors.Is(err, os.ErrNotExist) {
			if os.Getenv("CI") == "true" {
				t.Fatal("this kernel has no br_netfilter to test with")
			}
			t.Log("this kernel has no br_netfilter to test with")
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		err = n.Gateway.Do(func() error { _, err := bridgePlan().Up(); return err })
		checked := n.Gateway.Do(bridgePlan().CheckMachine)
		for _, err := range []error{err, checked} {
			if err == nil || !strings.Contains(err.Error(), "net.bridge.bridge-nf-call-"+name) {
				t.Errorf("got %v", err)
			}
		}
		if err := n.Gateway.Sysctl("net/bridge/bridge-nf-call-"+name, "0"); err != nil {
			t.Fatal(err)
		}
	}
	if after := snapshot(t, n.Gateway); !reflect.DeepEqual(before, after) {
		t.Errorf("before %q, after %q", before, after)
	}
}

func TestAPortOfABridgeIsRefusedInItsPlace(t *testing.T) {
	n := bridged(t)
	err := n.Gateway.Do(func() error { _, err := tproxyPlan().Up(); return err })
	if err == nil || !strings.Contains(err.Error(), "put br0 in its place") {
		t.Errorf("got %v", err)
	}
}

func TestShowNoticesAChangedBridge(t *testing.T) {
	n := bridged(t)
	plan := bridgePlan()
	up(t, n.Gateway, plan)
	err := netlab.Connect(netlab.End{Host: n.Client, Interface: "eth1"}, netlab.End{Host: n.Gateway, Interface: "dmz0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Gateway.JoinBridge("br0", "dmz0"); err != nil {
		t.Fatal(err)
	}
	state := show(t, n.Gateway, plan)
	text := strings.Join(state.Differences, "\n")
	if state.Agrees || !strings.Contains(text, "set interfaces0 of table bridge has other members") {
		t.Errorf("%q", state.Differences)
	}
	up(t, n.Gateway, plan)
	if state := show(t, n.Gateway, plan); !state.Agrees {
		t.Errorf("%q", state.Differences)
	}
}

// A machine that starts has no bridge yet when its rules are put in force. What
// crosses it before they are put in force again waits, and is not let pass.
func TestConnectionsWaitAcrossABridgeThatWasNotThereEarly(t *testing.T) {
	n := bridged(t)
	forward(t, n) // for the connections from before
	plan := bridgePlan()
	// For the lab's own is there from the start, others stand for it.
	if err := n.Gateway.AddBridge("br8", nil); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name       string
		interfaces []string
	}{
		{"none is there", []string{"br9"}},
		{"one is there, another is not", []string{"br8", "br9"}},
		{"it has no ports yet", []string{"br8"}},
	} {
		t.Run(row.name, func(t *testing.T) { waitsAcross(t, n, plan, row.interfaces) })
	}
}

func waitsAcross(t *testing.T, n *netlab.Network, plan Plan, interfaces []string) {
	early := func(p Plan) {
		p.Interfaces = interfaces
		if err := n.Gateway.Do(func() error { _, err := p.UpEarly(); return err }); err != nil {
			t.Fatal(err)
		}
	}
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		downWholly(t, n.Gateway)
		before := mustCall(t, n.Client, anyPort, at(server, smtp))
		early(plan)
		if err := before.say("from before"); err != nil {
			t.Error(err)
		}
		waited := make(chan *visit)
		go func() {
			v, err := call(n.Client, anyPort, at(server, smtp))
			if err != nil {
				t.Error(err)
			}
			waited <- v
		}()
		select {
		case v := <-waited:
			t.Fatalf("it did not wait: %+v", v)
		case <-time.After(300 * time.Millisecond): // nothing says that a packet was dropped
		}
		startRelay(t, n.Gateway, plan)
		up(t, n.Gateway, plan)
		if v := <-waited; v == nil || !v.wasIntercepted() {
			t.Errorf("it was not intercepted: %+v", v)
		}
	})
	plan.WhenDown = Pass
	early(plan)
	echo(t, n.Server, at(n.Server4, smtp))
	if v := mustCall(t, n.Client, anyPort, at(n.Server4, smtp)); v.wasIntercepted() {
		t.Error("intercepted by nobody")
	}
}

// What is known of a machine that starts is taken already.
func TestABridgeThatIsThereEarlyIsLiftedWhileAnotherIsWaitedFor(t *testing.T) {
	n := bridged(t)
	plan := bridgePlan()
	startRelay(t, n.Gateway, plan)
	plan.Interfaces = append(plan.Interfaces, "br9")
	if err := n.Gateway.Do(func() error { _, err := plan.UpEarly(); return err }); err != nil {
		t.Fatal(err)
	}
	families(t, n, func(t *testing.T, _, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		if v := mustCall(t, n.Client, anyPort, at(server, smtp)); !v.wasIntercepted() {
			t.Error("it was not intercepted")
		}
	})
}
