package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// strictReversePath tells whether packets on an interface are dropped unless the
// way back to their sender is the same interface (RFC 3704 §2.2). The stricter of
// two settings is not what holds, but the greater: 2 is loose.
func strictReversePath(name string) (bool, error) {
	greater := ""
	for _, which := range []string{"all", name} {
		value, err := sysctl("net/ipv4/conf/" + which + "/rp_filter")
		if err != nil {
			return false, err
		}
		greater = max(greater, value)
	}
	return greater == "1", nil
}

func reversePath(_ context.Context, e *examination) ([]Finding, error) {
	if !e.intercepts() {
		return nil, nil
	}
	links, err := e.links()
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, link := range links {
		name := link.Attrs().Name
		strict, err := strictReversePath(name)
		if err != nil {
			return found, err
		}
		if !strict || isLoopback(link) {
			continue
		}
		if astray := e.astray(link); len(astray) > 0 {
			found = append(found, Finding{Severity: Problem,
				What: fmt.Sprintf("rp_filter is strict on %s, and the way to %s does not lead there", name, strings.Join(astray, ", ")),
				Why:  "the kernel drops what comes from there in silence, before any rule",
				Mend: []string{setSysctl("net/ipv4/conf/"+name+"/rp_filter", "2")}})
		}
	}
	more, err := uplinks()
	return append(found, more...), err
}

// astray are the clients' networks whose addresses are reached another way than
// by the link. Without sources in the configuration nobody knows who they are.
func (e *examination) astray(link netlink.Link) []string {
	var out []string
	for _, source := range e.Plan.Sources {
		if !source.Addr().Is4() || !e.only(link, source) {
			continue
		}
		routes, err := netlink.RouteGet(someAddress(source).AsSlice())
		if err != nil || len(routes) == 0 || routes[0].LinkIndex == link.Attrs().Index || isLocal(routes[0]) {
			continue // no route at all is said by nobody better than by the network
		}
		out = append(out, source.String())
	}
	return out
}

// only tells whether clients of the network can come in on no other interface of
// the plan that they are routed to.
func (e *examination) only(link netlink.Link, source netip.Prefix) bool {
	routes, err := netlink.RouteGet(someAddress(source).AsSlice())
	if err != nil || len(routes) == 0 {
		return true
	}
	for _, name := range e.Plan.Interfaces {
		other, err := linkNamed(name)
		if err == nil && other != nil && other.Attrs().Index == routes[0].LinkIndex && name != link.Attrs().Name {
			return false
		}
	}
	return true
}

// someAddress of a network is one that a host may have.
func someAddress(p netip.Prefix) netip.Addr {
	if next := p.Addr().Next(); p.Contains(next) {
		return next
	}
	return p.Addr()
}

func isLocal(r netlink.Route) bool { return r.Type == unix.RTN_LOCAL }

// uplinks looks at machines with several ways out, where answers of servers may
// come in another way than connections to them leave.
func uplinks() ([]Finding, error) {
	names := map[string]bool{}
	for _, route := range defaultRoutes(family{v4: true, number: netlink.FAMILY_V4}) {
		if link, err := netlink.LinkByIndex(route.LinkIndex); err == nil {
			names[link.Attrs().Name] = true
		}
	}
	var found []Finding
	for name := range names {
		strict, err := strictReversePath(name)
		if err != nil {
			return found, err
		}
		if len(names) > 1 && strict {
			found = append(found, Finding{Severity: Note,
				What: fmt.Sprintf("there are %d ways to the internet, and rp_filter is strict on %s", len(names), name),
				Why:  "answers that come in there to connections that left another way are dropped in silence",
				Mend: []string{setSysctl("net/ipv4/conf/"+name+"/rp_filter", "2")}})
		}
	}
	return found, nil
}

// leastMTU is what IPv6 asks of every link (RFC 8200 §5).
const leastMTU = 1280

func mtu(_ context.Context, e *examination) ([]Finding, error) {
	inside, err := e.links()
	if err != nil || !e.intercepts() {
		return nil, err
	}
	var outside []netlink.Link
	var found []Finding
	for _, f := range e.families() {
		for _, route := range defaultRoutes(f) {
			if link, err := netlink.LinkByIndex(route.LinkIndex); err == nil {
				outside = append(outside, link)
			}
		}
	}
	seen := map[string]bool{}
	for _, link := range append(append([]netlink.Link{}, inside...), outside...) {
		name := link.Attrs().Name
		if link.Attrs().MTU < leastMTU && !seen[name] && e.listensIn(false) {
			found = append(found, Finding{Severity: Problem, What: fmt.Sprintf("the MTU of %s is %d, and IPv6 needs %d", name, link.Attrs().MTU, leastMTU),
				Why: "the kernel switches IPv6 off on such an interface", Mend: []string{fmt.Sprintf("ip link set %s mtu %d", ShellWord(name), leastMTU)}})
		}
		seen[name] = true
	}
	probing, err := sysctl("net/ipv4/tcp_mtu_probing")
	if err != nil || probing != "0" {
		return found, err
	}
	return append(found, e.blackHole(inside, outside)...), nil
}

// blackHole is a path on which the answer "fragmentation needed" (RFC 1191, RFC
// 8201) may not come to whoever sent too much, because it is filtered.
func (e *examination) blackHole(inside, outside []netlink.Link) []Finding {
	mend := []string{setSysctl("net/ipv4/tcp_mtu_probing", "1") + " # RFC 4821, for IPv6 too"}
	for _, a := range inside {
		for _, b := range outside {
			if a.Attrs().MTU != b.Attrs().MTU && !isLoopback(a) {
				return []Finding{{Severity: Note,
					What: fmt.Sprintf("%s has an MTU of %d and %s one of %d, and net.ipv4.tcp_mtu_probing = 0", a.Attrs().Name, a.Attrs().MTU, b.Attrs().Name, b.Attrs().MTU),
					Why:  "where ICMP is filtered on the way, long messages hang and short ones do not", Mend: mend}}
			}
		}
	}
	return nil
}

func (e *examination) listensIn(v4 bool) bool {
	for _, f := range e.families() {
		if f.v4 == v4 {
			return true
		}
	}
	return false
}
