package intercept

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// routingProtocol, beside mark and table, marks our routes and rules as ours
// (rtnetlink's rtm_protocol; the number is in the range left to the administrator and not in iproute2's
// rt_protos).
const routingProtocol = 125

var routingFamilies = []struct {
	number int
	all    *net.IPNet
}{
	{netlink.FAMILY_V4, &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}},
	{netlink.FAMILY_V6, &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}},
}

// routing is what stands in the kernel of our policy routing.
type routing struct {
	rules  []netlink.Rule
	routes []netlink.Route
}

// The priorities of our routing rules. What looks a route up for packets of this
// machine's own goes round the rule that delivers marked packets here, for the
// mark also reaches reverse path filters (src_valid_mark) and sockets
// (tcp_fwmark_accept), whose look-ups must not end there; to the kernel they all
// come in on lo. No interface is named, so that one that is added later needs
// nothing: answers of servers may come in on any.
const (
	goRound = Priority + iota
	deliver
	landing // where goRound leads, which does nothing
)

// wantedRules are in the order in which they are put in force: never is there
// deliver without goRound.
func (p Plan) wantedRules() []netlink.Rule {
	if p.Method != TProxy {
		return nil
	}
	var rules []netlink.Rule
	for _, family := range routingFamilies {
		add := func(priority int, complete func(*netlink.Rule)) {
			rule := netlink.NewRule()
			rule.Family, rule.Priority, rule.Protocol = family.number, priority, routingProtocol
			complete(rule)
			rules = append(rules, *rule)
		}
		add(landing, func(r *netlink.Rule) { r.Type = nl.FR_ACT_NOP })
		add(goRound, func(r *netlink.Rule) { r.IifName, r.Goto = "lo", landing })
		add(deliver, func(r *netlink.Rule) {
			mask := uint32(Mark)
			r.Mark, r.Mask, r.Table = Mark, &mask, Table
		})
	}
	return rules
}

// wantedRoutes deliver everything to this machine.
func (p Plan) wantedRoutes() ([]netlink.Route, error) {
	if p.Method != TProxy {
		return nil, nil
	}
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("intercept: lo: %w", err)
	}
	var routes []netlink.Route
	for _, family := range routingFamilies {
		if family.number == netlink.FAMILY_V6 {
			off, err := ipv6IsOff()
			if err != nil {
				return nil, err
			}
			if off {
				continue // lo takes no route then, and nothing of IPv6 comes in
			}
		}
		routes = append(routes, netlink.Route{
			Family: family.number, Dst: family.all, Table: Table, Type: unix.RTN_LOCAL,
			Scope: netlink.SCOPE_HOST, LinkIndex: loopback.Attrs().Index, Protocol: routingProtocol,
		})
	}
	return routes, nil
}

// ipv6IsOff tells whether IPv6 is switched off (disable_ipv6) on every interface,
// and on those to come. Where it is off on lo alone its packets could not be
// delivered to Postern, and would be lost in silence.
func ipv6IsOff() (bool, error) {
	const dir = "/proc/sys/net/ipv6/conf/"
	off := func(name string) bool {
		value, err := os.ReadFile(dir + name + "/disable_ipv6")
		return err == nil && strings.TrimSpace(string(value)) == "1"
	}
	if !off("lo") {
		return false, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, fmt.Errorf("intercept: %w", err)
	}
	for _, e := range entries {
		if e.Name() != "all" && !off(e.Name()) {
			return false, &ObstacleError{
				What:   fmt.Sprintf("IPv6 is switched off on lo and not on %s: its connections could not be delivered", e.Name()),
				Remedy: "sysctl -w net.ipv6.conf.lo.disable_ipv6=0, or switch it off everywhere (net.ipv6.conf.all.disable_ipv6=1)",
			}
		}
	}
	return true, nil
}

// installed finds our rules and routes, whatever plan they were made for.
func installed() (routing, error) {
	var r routing
	err := eachEntry(func(rule *netlink.Rule, route *netlink.Route) error {
		switch {
		case rule != nil && isOurRule(*rule):
			r.rules = append(r.rules, *rule)
		case route != nil && isOurRoute(*route):
			r.routes = append(r.routes, *route)
		}
		return nil
	})
	return r, err
}

// The protocol alone is no proof: 125 is anybody's to use.
func isOurRule(rule netlink.Rule) bool {
	if rule.Protocol != routingProtocol {
		return false
	}
	return isDelivery(rule) || rule.Mask == nil && rule.Table == 0 &&
		(rule.Priority == goRound && rule.Goto == landing || rule.Priority == landing && rule.Goto < 0)
}

func isDelivery(rule netlink.Rule) bool {
	return rule.Table == Table && rule.Mark == Mark && rule.Mask != nil && *rule.Mask == Mark
}

func isOurRoute(route netlink.Route) bool {
	return route.Protocol == routingProtocol && route.Table == Table && route.Type == unix.RTN_LOCAL
}

// checkTable refuses to share the routing table with somebody else: our routes
// would catch their packets.
func checkTable() error {
	return eachEntry(func(rule *netlink.Rule, route *netlink.Route) error {
		what := ""
		switch {
		case rule != nil && !isOurRule(*rule) && rule.Table == Table:
			what = "a routing rule of somebody else leads there"
		case route != nil && !isOurRoute(*route) && route.Table == Table:
			what = "a route of somebody else stands in it"
		default:
			return nil
		}
		return &ObstacleError{
			What:   fmt.Sprintf("routing table %d is in use: %s", Table, what),
			Remedy: "free that number",
		}
	})
}

// checkRules refuses a kernel that has IPv6 without routing rules for it, and so only
// one table: the local route for everything would be put into that one.
func checkRules() error {
	_, err := netlink.RuleList(netlink.FAMILY_V6)
	return lacksRules(err, func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	})
}

// lacksRules is given what listing the rules came to, and opening a socket.
func lacksRules(listing error, open func() error) error {
	if !withoutFamily(listing) || withoutFamily(open()) {
		return nil
	}
	return &ObstacleError{
		What:   "the kernel has IPv6 and no routing rules for it (CONFIG_IPV6_MULTIPLE_TABLES), needed for method tproxy",
		Remedy: "take a kernel that has them, or start this one with ipv6.disable=1",
	}
}

// eachEntry calls visit with every rule and every route there is, until it
// fails. A kernel without IPv6 has no entries of that family.
func eachEntry(visit func(*netlink.Rule, *netlink.Route) error) error {
	for _, family := range routingFamilies {
		rules, err := netlink.RuleList(family.number)
		if withoutFamily(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("intercept: listing routing rules (CONFIG_IP_MULTIPLE_TABLES): %w", err)
		}
		for _, rule := range rules {
			rule.Family = family.number
			if err := visit(&rule, nil); err != nil {
				return err
			}
		}
		routes, err := netlink.RouteListFiltered(family.number, &netlink.Route{}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return fmt.Errorf("intercept: listing routes: %w", err)
		}
		for _, route := range routes {
			route.Family = family.number
			if err := visit(nil, &route); err != nil {
				return err
			}
		}
	}
	return nil
}

func sameRule(a, b netlink.Rule) bool {
	return a.Family == b.Family && a.IifName == b.IifName && a.Mark == b.Mark &&
		(a.Mask == nil) == (b.Mask == nil) && (a.Mask == nil || *a.Mask == *b.Mask) &&
		a.Table == b.Table && a.Priority == b.Priority && a.Goto == b.Goto &&
		a.OifName == "" && a.Src == nil && a.Dst == nil && !a.Invert
}

func sameRoute(a, b netlink.Route) bool {
	return a.Family == b.Family && a.Table == b.Table && a.Type == b.Type && a.LinkIndex == b.LinkIndex
}

// missing are the elements of wanted that are not in present.
func missing[T any](wanted, present []T, same func(a, b T) bool) []T {
	var out []T
	for _, w := range wanted {
		if !slices.ContainsFunc(present, func(p T) bool { return same(p, w) }) {
			out = append(out, w)
		}
	}
	return out
}

// routingChange is the difference between what is and what is wanted.
type routingChange struct {
	addRules, removeRules   []netlink.Rule
	addRoutes, removeRoutes []netlink.Route
}

func change(present, wanted routing) routingChange {
	return routingChange{
		addRules:     missing(wanted.rules, present.rules, sameRule),
		removeRules:  missing(present.rules, wanted.rules, sameRule),
		addRoutes:    missing(wanted.routes, present.routes, sameRoute),
		removeRoutes: missing(present.routes, wanted.routes, sameRoute),
	}
}

// add makes what is missing, routes before the rules that lead to them, and
// returns how to take it back.
func (c routingChange) add() (undo func(), err error) {
	var done []func()
	undo = func() {
		for _, step := range slices.Backward(done) {
			step()
		}
	}
	for _, route := range c.addRoutes {
		err := netlink.RouteAdd(&route)
		if withoutFamily(err) && route.Family == netlink.FAMILY_V6 {
			continue
		}
		if errors.Is(err, unix.EPERM) {
			return undo, lacksNetAdmin(err)
		}
		if err != nil {
			return undo, fmt.Errorf("intercept: local route for intercepted packets (CONFIG_IP_MULTIPLE_TABLES): %w", err)
		}
		done = append(done, func() { _ = netlink.RouteDel(&route) })
	}
	for _, rule := range c.addRules {
		err := netlink.RuleAdd(&rule)
		if withoutFamily(err) && rule.Family == netlink.FAMILY_V6 {
			continue
		}
		if err != nil {
			return undo, fmt.Errorf("intercept: routing rule (CONFIG_IP_MULTIPLE_TABLES): %w", err)
		}
		done = append(done, func() { _ = netlink.RuleDel(&rule) })
	}
	return undo, nil
}

// remove takes out what is no longer wanted, rules before the routes, and first
// of the rules those that deliver.
func (c routingChange) remove() error {
	slices.SortStableFunc(c.removeRules, func(a, b netlink.Rule) int {
		return cmp.Compare(b.Mark, a.Mark)
	})
	for _, rule := range c.removeRules {
		if err := netlink.RuleDel(&rule); err != nil {
			return fmt.Errorf("intercept: removing a routing rule: %w", err)
		}
	}
	for _, route := range c.removeRoutes {
		if err := netlink.RouteDel(&route); err != nil {
			return fmt.Errorf("intercept: removing the local route: %w", err)
		}
	}
	return nil
}
