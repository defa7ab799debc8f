package intercept

import (
	"net/netip"
	"sync"
	"syscall"
)

// route is the part of a connection that its legs have in common.
type route struct {
	from netip.Addr     // the client, whose address both legs may carry
	to   netip.AddrPort // the server
}

// connections are those with open sockets, by route and source port. Nobody
// has to take a connection out: one whose socket was closed is found out when
// it is met again, and all of them are looked through when the number has
// doubled since the last time, so the set stays within twice the open sockets
// and a constant.
type connections struct {
	byRoute map[route]map[uint16]*leg
	count   int
	sweepAt int
}

// leg is one connection. It has no socket to ask while it is being dialled.
type leg struct {
	conn syscall.RawConn
}

// open is false once the socket was closed.
func (l *leg) open() bool {
	return l.conn == nil || l.conn.Control(func(uintptr) {}) == nil
}

const smallestSweep = 64

func newConnections() *connections {
	return &connections{byRoute: map[route]map[uint16]*leg{}, sweepAt: smallestSweep}
}

func (c *connections) add(r route, port uint16, l *leg) {
	ports := c.byRoute[r]
	if ports == nil {
		ports = map[uint16]*leg{}
		c.byRoute[r] = ports
	}
	if _, known := ports[port]; !known {
		c.count++
	}
	ports[port] = l
	if c.count >= c.sweepAt {
		c.sweep()
		c.sweepAt = max(smallestSweep, 2*c.count)
	}
}

// remove takes the leg out, unless its port has found another use since.
func (c *connections) remove(r route, port uint16, l *leg) {
	ports := c.byRoute[r]
	if known, ok := ports[port]; !ok || known != l {
		return
	}
	c.count--
	delete(ports, port)
	if len(ports) == 0 {
		delete(c.byRoute, r)
	}
}

func (c *connections) holds(r route, port uint16) bool {
	l, known := c.byRoute[r][port]
	if known && !l.open() {
		c.remove(r, port, l)
		return false
	}
	return known
}

// ports are the source ports in use on a route.
func (c *connections) ports(r route) []uint16 {
	var inUse []uint16
	for port := range c.byRoute[r] {
		if c.holds(r, port) {
			inUse = append(inUse, port)
		}
	}
	return inUse
}

func (c *connections) sweep() {
	for r := range c.byRoute {
		c.ports(r)
	}
}

// legs are both kinds of connection of some routes, under one lock: that a port is
// chosen and that it is known to be ours must not come apart, or our own SYN could
// come back before we know it.
type legs struct {
	mu       sync.Mutex
	client   *connections
	upstream *connections
}

// allLegs are those of all routes. A connection is made under a lock, and that takes
// long enough that others should not all wait for it.
type allLegs [16]legs

func newLegs() *allLegs {
	all := new(allLegs)
	for i := range all {
		all[i].client, all[i].upstream = newConnections(), newConnections()
	}
	return all
}

// of gives the legs between a client and a server. Where the client's address is not
// kept both legs have the server in common, and no more.
func (all *allLegs) of(client netip.Addr, to netip.AddrPort) *legs {
	sum := uint(to.Port())
	for _, a := range []netip.Addr{client, to.Addr()} {
		for _, octet := range a.As16() {
			sum = sum*31 + uint(octet)
		}
	}
	return &all[sum%uint(len(all))]
}

// legsOf are those that the connections of a client to a server belong to.
func (g *Gate) legsOf(client netip.Addr, to netip.AddrPort) *legs {
	if !g.options.PreserveSource {
		client = netip.IPv6Unspecified()
	}
	return g.legs.of(client, to)
}
