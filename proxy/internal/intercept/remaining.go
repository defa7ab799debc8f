package intercept

import (
	"context"
	"encoding/binary"
	"net"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// look is how often Down looks whether anything is left to be carried.
const look = 250 * time.Millisecond

// waitOut waits until nothing is left that the rules carry, at most for the
// given time. Where that cannot be known it waits that long.
func waitOut(ctx context.Context, most time.Duration, left func() bool) error {
	end := time.NewTimer(most)
	defer end.Stop()
	again := time.NewTicker(look)
	defer again.Stop()
	for {
		select {
		case <-end.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-again.C:
			if !left() {
				return nil
			}
		}
	}
}

// carried tells whether the rules in force carry packets of a socket, be it of a
// connection that is over (TIME_WAIT): either leg has an intercepted port, the
// client's as its own and the upstream one as the server's, and an address that is
// none of this machine's; to the others packets find their way without rules.
// Redirected connections are in conntrack and not in a socket's addresses: of these
// it cannot be told.
func carried() bool {
	ports, ok := portsInForce()
	if !ok {
		return true
	}
	own, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return true
	}
	isOwn := func(address net.IP) bool {
		return address.IsLoopback() || slices.ContainsFunc(own, func(a netlink.Addr) bool { return a.IP.Equal(address) })
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := netlink.SocketDiagTCP(family)
		if err != nil && !withoutFamily(err) {
			return true
		}
		for _, s := range sockets {
			if s.State != netlink.TCP_LISTEN && !isOwn(s.ID.Source) &&
				(slices.Contains(ports, s.ID.SourcePort) || slices.Contains(ports, s.ID.DestinationPort)) {
				return true
			}
		}
	}
	return false
}

// portsInForce are the intercepted ports, as the kernel has them; it is not ok
// where the interception is of another kind than tproxy.
func portsInForce() (ports []uint16, ok bool) {
	connection, err := nftables.New()
	if err != nil {
		return nil, false
	}
	t := &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
	chain, err := connection.ListChain(t, hookChain)
	if err != nil || chain.Type != nftables.ChainTypeFilter {
		return nil, false
	}
	s, err := connection.GetSetByName(t, setPorts)
	if err != nil {
		return nil, false
	}
	elements, err := connection.GetSetElements(s)
	if err != nil {
		return nil, false
	}
	for _, e := range elements {
		if len(e.Key) != 2 {
			return nil, false
		}
		ports = append(ports, binary.BigEndian.Uint16(e.Key))
	}
	return ports, true
}
