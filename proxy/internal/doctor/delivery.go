package doctor

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"postern/proxy/internal/intercept"
)

// somewhere are addresses that no machine has (RFC 5737, RFC 3849), as servers.
var somewhere = map[bool]netip.Addr{
	true: netip.AddrFrom4([4]byte{198, 51, 100, 25}), false: netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: 25}),
}

// ledAway asks the kernel where it would take an intercepted packet of each network
// of clients: a routing rule of somebody else may come before Postern's, and what is
// not delivered then is dropped in silence.
func (e *examination) ledAway() ([]Finding, error) {
	links, err := e.links()
	if err != nil || e.Plan.Method != intercept.TProxy {
		return nil, err
	}
	var found []Finding
	for _, link := range links {
		for _, source := range e.clientsOn(link) {
			route, ok := routeOfIntercepted(link, source)
			if !ok || isLocal(route) {
				continue
			}
			found = append(found, Finding{Severity: Problem,
				What: fmt.Sprintf("a routing rule of somebody else takes intercepted packets of %s on %s away, to table %d", source, link.Attrs().Name, route.Table),
				Why:  "they do not come to Postern and are dropped in silence",
				Mend: []string{fmt.Sprintf("ip -%d rule # give the one that looks table %d up a priority behind %d, or have it leave out fwmark %#x/%#x",
					map[bool]int{true: 4, false: 6}[source.Addr().Is4()], route.Table, intercept.Priority+2, intercept.Mark, intercept.Mark)}})
		}
	}
	return found, nil
}

// clientsOn are the networks of clients that may come in on the link, as far as they
// are known: sources, or else what it is connected to.
func (e *examination) clientsOn(link netlink.Link) []netip.Prefix {
	all := e.Plan.Sources
	if len(all) == 0 {
		all = networksOf(link)
	}
	var out []netip.Prefix
	for _, p := range all {
		if e.listensIn(p.Addr().Is4()) {
			out = append(out, p)
		}
	}
	return out
}

// routeOfIntercepted is not ok where the kernel takes no such packet at all, as of
// addresses that are this machine's own, or that reverse path filters drop.
func routeOfIntercepted(link netlink.Link, source netip.Prefix) (netlink.Route, bool) {
	address := someAddress(source)
	for range 2 { // the first of a network is often this machine's own
		routes, err := netlink.RouteGetWithOptions(somewhere[address.Is4()].AsSlice(),
			&netlink.RouteGetOptions{Iif: link.Attrs().Name, SrcAddr: address.AsSlice(), Mark: intercept.Mark})
		if err == nil && len(routes) == 1 {
			return routes[0], true
		}
		if address = address.Next(); !source.Contains(address) {
			break
		}
	}
	return netlink.Route{}, false
}
