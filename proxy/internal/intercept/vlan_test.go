package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"postern/proxy/proxytest/netlab"
)

// lan is one of several behind the gateway, with one client in it.
type lan struct {
	gateway string // the gateway's interface there
	// number is in its addresses: 10.number.0.0/24 and 2001:db8:number::/64.
	number int
	vlan   bool // of the trunk between both
	taken  bool
}

func (l lan) address(v4 bool, host int) netip.Prefix {
	if v4 {
		return netip.MustParsePrefix(fmt.Sprintf("10.%d.0.%d/24", l.number, host))
	}
	return netip.MustParsePrefix(fmt.Sprintf("2001:db8:%d::%d/64", l.number, host))
}

var lans = []lan{
	{"trunk0", 10, false, false}, // what has no tag
	{"trunk0.20", 20, true, true},
	{"trunk0.30", 30, true, false},
	{"enp129s0f1.4094", 94, true, true}, // as long as names can be
	{"dmz-0", 40, false, true},
}

// lay connects a host to the gateway by the networks: tagged ones over the trunk
// where this kernel has 802.1Q, else by cables of the same names.
func lay(t *testing.T, host *netlab.Host, n *netlab.Network) {
	t.Helper()
	for i, l := range lans {
		far := fmt.Sprintf("far%d", i)
		here := netlab.End{Host: host, Interface: far, Addresses: []netip.Prefix{l.address(true, 2), l.address(false, 2)}}
		there := netlab.End{Host: n.Gateway, Interface: l.gateway, Addresses: []netip.Prefix{l.address(true, 1), l.address(false, 1)}}
		var laid error
		if l.vlan {
			laid = errors.Join(tag(here, "far0", l.number), tag(there, "trunk0", l.number))
		}
		if !l.vlan || errors.Is(laid, unix.EOPNOTSUPP) {
			if l.vlan {
				t.Logf("this kernel has no 802.1Q (CONFIG_VLAN_8021Q): %s is a cable of its own", l.gateway)
			}
			laid = netlab.Connect(here, there)
		}
		if laid != nil {
			t.Fatal(laid)
		}
	}
}

// tag makes an interface of the frames with a tag on another.
func tag(end netlab.End, trunk string, id int) error {
	err := end.Host.Do(func() error {
		below, err := netlink.LinkByName(trunk)
		if err != nil {
			return err
		}
		link := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: end.Interface, ParentIndex: below.Attrs().Index}, VlanId: id}
		if err := netlink.LinkAdd(link); err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	})
	if err != nil {
		return err
	}
	return end.Host.AddAddress(end.Interface, end.Addresses...)
}

func TestOfSeveralInterfacesAndVLANsThoseNamedAreTaken(t *testing.T) {
	for _, plan := range []Plan{tproxyPlan(), redirectPlan()} {
		t.Run(string(plan.Method), func(t *testing.T) {
			n := routed(t)
			clients, err := netlab.NewHost("clients")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = clients.Close() })
			// Not those that the gateway dials from, as netlab's own clients.
			if err := clients.Sysctl("net.ipv4.ip_local_port_range", "32768 44999"); err != nil {
				t.Fatal(err)
			}
			lay(t, clients, n)
			for _, l := range lans {
				if l.taken {
					plan.Interfaces = append(plan.Interfaces, l.gateway)
				}
			}
			up(t, n.Gateway, plan)
			if state := show(t, n.Gateway, plan); !state.Agrees {
				t.Errorf("%q", state.Differences)
			}
			r := startRelay(t, n.Gateway, plan)
			families(t, n, func(t *testing.T, client, server netip.Addr) {
				echo(t, n.Server, at(server, smtp))
				for _, l := range lans {
					// The way to the server leads through this network.
					here, gateway := l.address(client.Is4(), 2).Addr(), l.address(client.Is4(), 1).Addr()
					replaceRoute(t, clients, server, gateway)
					v := mustCall(t, clients, at(here, 0), at(server, smtp))
					if v.wasIntercepted() != l.taken {
						t.Errorf("on %s: intercepted %v", l.gateway, v.wasIntercepted())
					}
					if kept := v.seen.Addr() == here; kept != (plan.PreserveSource || !l.taken) {
						t.Errorf("on %s: the server sees %s", l.gateway, v.seen)
					}
					if !l.taken {
						continue
					}
					if arrival := <-r.arrivals; arrival.Interface != l.gateway || arrival.Client != v.local {
						t.Errorf("on %s: arrived %+v", l.gateway, arrival)
					}
				}
			})
		})
	}
}

func replaceRoute(t *testing.T, host *netlab.Host, to, via netip.Addr) {
	t.Helper()
	err := host.Do(func() error {
		destination := netlink.NewIPNet(to.AsSlice())
		return netlink.RouteReplace(&netlink.Route{Dst: destination, Gw: via.AsSlice()})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// As keepalived's use_vmac makes them (macvlan, RFC 9568 §7.3).
func TestPacketsToAVirtualMACAddressComeInOnItsOwnInterface(t *testing.T) {
	for _, row := range []struct {
		interfaces []string
		taken      bool
	}{{[]string{"lan0"}, false}, {[]string{"lan0", "vrrp.51"}, true}} {
		n := routed(t)
		err := n.Gateway.Do(func() error {
			below, err := netlink.LinkByName("lan0")
			if err != nil {
				return err
			}
			link := &netlink.Macvlan{
				LinkAttrs: netlink.LinkAttrs{Name: "vrrp.51", ParentIndex: below.Attrs().Index}, Mode: netlink.MACVLAN_MODE_PRIVATE,
			}
			return errors.Join(netlink.LinkAdd(link), netlink.LinkSetUp(link))
		})
		if errors.Is(err, unix.EOPNOTSUPP) {
			t.Log("this kernel has no macvlan (CONFIG_MACVLAN)")
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		address, err := n.Gateway.HardwareAddress("vrrp.51")
		if err != nil {
			t.Fatal(err)
		}
		err = n.Client.Do(func() error {
			device, err := netlink.LinkByName("eth0")
			for _, gateway := range []netip.Addr{n.Gateway4, n.Gateway6} {
				err = errors.Join(err, netlink.NeighSet(&netlink.Neigh{LinkIndex: device.Attrs().Index,
					IP: gateway.AsSlice(), HardwareAddr: address, State: netlink.NUD_PERMANENT}))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		plan := tproxyPlan()
		plan.Interfaces = row.interfaces
		up(t, n.Gateway, plan)
		startRelay(t, n.Gateway, plan)
		families(t, n, func(t *testing.T, _, server netip.Addr) {
			echo(t, n.Server, at(server, smtp))
			if v := mustCall(t, n.Client, anyPort, at(server, smtp)); v.wasIntercepted() != row.taken {
				t.Errorf("on %s: intercepted %v", row.interfaces, v.wasIntercepted())
			}
		})
	}
}
