package netlab

import (
	"errors"
	"net/netip"
	"os"
)

// Network is three hosts in a row. The client reaches the server only through
// the gateway.
type Network struct {
	Client, Gateway, Server *Host

	// The addresses of the client (eth0), of the gateway's side towards the
	// client and of the server (eth0), IPv4 and IPv6.
	Client4, Client6   netip.Addr
	Gateway4, Gateway6 netip.Addr
	Server4, Server6   netip.Addr
}

var (
	anywhere4 = netip.MustParsePrefix("0.0.0.0/0")
	anywhere6 = netip.MustParsePrefix("::/0")
)

// NewRouted makes a network whose gateway is a router:
//
//	client eth0 10.1.0.2/24 ── lan0 10.1.0.1  gateway  wan0 203.0.113.1 ── eth0 203.0.113.2/24 server
//	       2001:db8:1::2/64         2001:db8:1::1     2001:db8:2::1       2001:db8:2::2/64
//
// Client and server have the gateway as their default route. Further mail
// servers live on the server host: add addresses of its networks to eth0.
func NewRouted() (*Network, error) { return NewRoutedWith(Connect) }

// NewRoutedWith is NewRouted with cables that the caller lays: first the one
// between client and gateway, then the one between server and gateway.
func NewRoutedWith(lay func(a, b End) error) (*Network, error) {
	n := &Network{
		Client4: netip.MustParseAddr("10.1.0.2"), Client6: netip.MustParseAddr("2001:db8:1::2"),
		Gateway4: netip.MustParseAddr("10.1.0.1"), Gateway6: netip.MustParseAddr("2001:db8:1::1"),
		Server4: netip.MustParseAddr("203.0.113.2"), Server6: netip.MustParseAddr("2001:db8:2::2"),
	}
	wan4, wan6 := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8:2::1")
	build := func() error {
		return errors.Join(
			lay(End{n.Client, "eth0", subnets(n.Client4, n.Client6)},
				End{n.Gateway, "lan0", subnets(n.Gateway4, n.Gateway6)}),
			lay(End{n.Server, "eth0", subnets(n.Server4, n.Server6)},
				End{n.Gateway, "wan0", subnets(wan4, wan6)}),
			n.Client.AddRoute(anywhere4, n.Gateway4), n.Client.AddRoute(anywhere6, n.Gateway6),
			n.Server.AddRoute(anywhere4, wan4), n.Server.AddRoute(anywhere6, wan6),
			n.Gateway.forward(),
		)
	}
	return n.make(build)
}

// NewBridged makes a network whose gateway is a bridge, br0 over lan0 and wan0,
// between client and server in one subnet:
//
//	client eth0 10.1.0.2/24 ── lan0 [br0 10.1.0.1] wan0 ── eth0 10.1.0.25/24 server
//	       2001:db8:1::2/64         2001:db8:1::1         2001:db8:1::25/64
//
// The gateway has addresses and routes, and does not forward until told to.
func NewBridged() (*Network, error) {
	n := &Network{
		Client4: netip.MustParseAddr("10.1.0.2"), Client6: netip.MustParseAddr("2001:db8:1::2"),
		Gateway4: netip.MustParseAddr("10.1.0.1"), Gateway6: netip.MustParseAddr("2001:db8:1::1"),
		Server4: netip.MustParseAddr("10.1.0.25"), Server6: netip.MustParseAddr("2001:db8:1::25"),
	}
	build := func() error {
		return errors.Join(
			Connect(End{n.Client, "eth0", subnets(n.Client4, n.Client6)}, End{n.Gateway, "lan0", nil}),
			Connect(End{n.Server, "eth0", subnets(n.Server4, n.Server6)}, End{n.Gateway, "wan0", nil}),
			n.Gateway.AddBridge("br0", []string{"lan0", "wan0"}, subnets(n.Gateway4, n.Gateway6)...),
			// Where br_netfilter is compiled in it is on in every new namespace.
			n.Gateway.bridgeNetfilterOff(),
		)
	}
	return n.make(build)
}

func (n *Network) make(build func() error) (*Network, error) {
	for _, place := range []struct {
		host **Host
		name string
	}{{&n.Client, "client"}, {&n.Gateway, "gateway"}, {&n.Server, "server"}} {
		host, err := NewHost(place.name)
		if err != nil {
			return nil, errors.Join(err, n.Close())
		}
		*place.host = host
	}
	if err := errors.Join(build(), n.separatePorts()); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// separatePorts gives client and gateway ports of their own to dial from. A
// gateway that dials in the client's name may by chance use a port that the
// client is about to use towards the same server, and break that connection:
// once in tens of thousands in the world, but more often here, where all hosts
// are one kernel and draw ports from one sequence.
func (n *Network) separatePorts() error {
	return errors.Join(
		n.Client.Sysctl("net.ipv4.ip_local_port_range", "32768 44999"),
		n.Gateway.Sysctl("net.ipv4.ip_local_port_range", "45000 60999"),
	)
}

// bridgeNetfilterOff keeps bridged packets out of the IP hooks. A kernel
// without br_netfilter has nothing to switch off.
func (h *Host) bridgeNetfilterOff() error {
	for _, name := range []string{"iptables", "ip6tables"} {
		err := h.Sysctl("net/bridge/bridge-nf-call-"+name, "0")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Close lets all hosts go.
func (n *Network) Close() error {
	var errs []error
	for _, host := range []*Host{n.Client, n.Gateway, n.Server} {
		if host != nil {
			errs = append(errs, host.Close())
		}
	}
	return errors.Join(errs...)
}

// subnets gives each address the prefix length usual in the lab.
func subnets(addresses ...netip.Addr) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, address := range addresses {
		bits := 24
		if address.Is6() {
			bits = 64
		}
		prefixes = append(prefixes, netip.PrefixFrom(address, bits))
	}
	return prefixes
}
