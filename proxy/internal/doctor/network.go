package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"postern/proxy/internal/intercept"
)

// sysctl reads a value below /proc/sys; one that this kernel does not have is "".
func sysctl(path string) (string, error) { return sysctlBelow("/proc/sys", path) }

// sysctlBelow tells a value that is not there from all of them being hidden, as they
// are in some containers and units (ProcSubset=pid): then nothing was seen.
func sysctlBelow(root, path string) (string, error) {
	value, err := os.ReadFile(root + "/" + path)
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(root + "/net"); err != nil {
			return "", fmt.Errorf("values of the kernel cannot be read here: %w", err)
		}
		return "", nil
	}
	return strings.TrimSpace(string(value)), err
}

// setSysctl is the command that sets one. An interface may have dots in its name,
// which sysctl takes with slashes.
func setSysctl(path, value string) string {
	name := strings.ReplaceAll(path, "/", ".")
	if strings.Contains(path, ".") {
		name = path
	}
	return fmt.Sprintf("sysctl -w %s=%s", ShellWord(name), value)
}

func linkNamed(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, nil
	}
	return link, err
}

// links are the interfaces of the plan that exist.
func (e *examination) links() ([]netlink.Link, error) {
	var out []netlink.Link
	for _, name := range e.Plan.Interfaces {
		link, err := linkNamed(name)
		if err != nil {
			return nil, err
		}
		if link != nil {
			out = append(out, link)
		}
	}
	return out, nil
}

func isBridge(l netlink.Link) bool   { return l.Type() == "bridge" }
func isLoopback(l netlink.Link) bool { return l.Attrs().Flags&net.FlagLoopback != 0 }

// routed are the interfaces of the plan whose packets are routed.
func (e *examination) routed() ([]netlink.Link, error) {
	all, err := e.links()
	return slices.DeleteFunc(all, func(l netlink.Link) bool { return isBridge(l) || isLoopback(l) }), err
}

func interfaces(_ context.Context, e *examination) ([]Finding, error) {
	if !e.intercepts() {
		return nil, nil
	}
	var found []Finding
	for _, name := range e.Plan.Interfaces {
		link, err := linkNamed(name)
		switch {
		case err != nil:
			return found, err
		case link == nil:
			found = append(found, Finding{Severity: Problem, What: fmt.Sprintf("there is no interface %s", name),
				Why:  "nothing that comes in elsewhere is intercepted",
				Mend: []string{"ip -br link # which there are: name one in intercept.interfaces, then: " + e.postern("intercept up")}})
		case link.Attrs().Flags&net.FlagUp == 0:
			found = append(found, Finding{Severity: Problem, What: fmt.Sprintf("the interface %s is down", name),
				Why: "no connection comes in on it", Mend: []string{"ip link set " + ShellWord(name) + " up"}})
		case link.Attrs().OperState == netlink.OperDown || link.Attrs().OperState == netlink.OperLowerLayerDown:
			found = append(found, Finding{Severity: Note, What: fmt.Sprintf("the interface %s has no carrier", name),
				Why: "no connection comes in on it while its cable or switch port is dead"})
		}
	}
	return found, nil
}

func forwarding(_ context.Context, e *examination) ([]Finding, error) {
	links, err := e.links()
	if err != nil || !e.intercepts() {
		return nil, err
	}
	routed, err := e.routed()
	if err != nil || len(links) == 0 || slices.ContainsFunc(links, isLoopback) && len(routed) == 0 {
		return nil, err
	}
	severity, why := Problem, "what Postern leaves alone (bypass, other ports, connections that run already) goes nowhere"
	switch {
	case e.Plan.WhenDown == intercept.Pass:
		why = `when_down = "pass" would be a black hole`
	case len(routed) == 0:
		severity, why = Note, "connections that ran across the bridge before interception began will stall"
	case e.Plan.Method == intercept.Redirect:
		severity = Note
	}
	var found []Finding
	for _, f := range e.families() {
		path := map[bool]string{true: "net/ipv4/ip_forward", false: "net/ipv6/conf/all/forwarding"}[f.v4]
		value, err := sysctl(path)
		if err != nil {
			return found, err
		}
		if value == "0" {
			found = append(found, Finding{Severity: severity, What: fmt.Sprintf("this machine does not forward %s (%s = 0)", f.name, strings.ReplaceAll(path, "/", ".")),
				Why: why, Mend: append(e.keepAdvertisements(f), setSysctl(path, "1")+" # and in /etc/sysctl.d, for the next start")})
			continue
		}
		more, err := e.forwardingOf(f, routed)
		if found = append(found, more...); err != nil {
			return found, err
		}
		if e.Plan.WhenDown == intercept.Pass && len(routed) < len(links) && len(defaultRoutes(f)) == 0 {
			found = append(found, Finding{Severity: Problem, What: fmt.Sprintf("there is no %s default route, and a bridge in intercept.interfaces", f.name),
				Why: `what passes under when_down = "pass" is routed, and would be a black hole`, Mend: []string{"ip route add default via ROUTER # the one of this network"}})
		}
	}
	return found, nil
}

// forwardingOf looks at single interfaces, which in IPv4 may be told otherwise,
// and at routes that a router that forwards IPv6 would lose.
func (e *examination) forwardingOf(f family, routed []netlink.Link) ([]Finding, error) {
	var found []Finding
	for _, link := range routed {
		if !f.v4 {
			break // net.ipv6.conf.*.forwarding says how an interface is configured, not whether it forwards
		}
		path := "net/ipv4/conf/" + link.Attrs().Name + "/forwarding"
		value, err := sysctl(path)
		if err != nil {
			return found, err
		}
		if value == "0" {
			found = append(found, Finding{Severity: Problem, What: fmt.Sprintf("%s is not forwarded from %s", f.name, link.Attrs().Name),
				Why: "what Postern leaves alone goes nowhere", Mend: []string{setSysctl(path, "1")}})
		}
	}
	if mend := e.keepAdvertisements(f); len(mend) > 0 {
		found = append(found, Finding{Severity: Problem, What: "the IPv6 default route comes by router advertisement, which a machine that forwards does not take (accept_ra = 1)",
			Why: "it is lost when it expires", Mend: mend})
	}
	return found, nil
}

// keepAdvertisements are the commands without which a machine that begins to
// forward loses the default route that a router advertised to it.
func (e *examination) keepAdvertisements(f family) []string {
	if f.v4 {
		return nil
	}
	var commands []string
	for _, route := range defaultRoutes(f) {
		link, err := netlink.LinkByIndex(route.LinkIndex)
		if err != nil || route.Protocol != unix.RTPROT_RA {
			continue
		}
		path := "net/ipv6/conf/" + link.Attrs().Name + "/accept_ra"
		if value, err := sysctl(path); err == nil && value == "1" {
			commands = append(commands, setSysctl(path, "2"))
		}
	}
	return commands
}

// defaultRoutes are those of the main table, none where they cannot be read.
func defaultRoutes(f family) []netlink.Route {
	routes, err := netlink.RouteListFiltered(f.number, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(routes, func(r netlink.Route) bool {
		if r.Dst == nil {
			return false
		}
		ones, _ := r.Dst.Mask.Size()
		return ones != 0
	})
}

func bridgeNetfilter(_ context.Context, e *examination) ([]Finding, error) {
	all, err := netlink.LinkList()
	if err != nil || !e.intercepts() {
		return nil, err
	}
	bridges := slices.DeleteFunc(all, func(l netlink.Link) bool { return !isBridge(l) })
	if len(bridges) == 0 {
		return nil, nil
	}
	ours := slices.IndexFunc(bridges, func(l netlink.Link) bool { return slices.Contains(e.Plan.Interfaces, l.Attrs().Name) })
	var found []Finding
	for _, path := range []string{"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"} {
		value, err := sysctl(path)
		if err != nil {
			return found, err
		}
		if value != "1" {
			continue
		}
		f := Finding{Severity: Note, What: strings.ReplaceAll(path, "/", ".") + " = 1 (br_netfilter, as Docker sets it)",
			Why: fmt.Sprintf("it does no harm now, but %s could not be put into intercept.interfaces", bridges[0].Attrs().Name)}
		if ours >= 0 {
			f.Severity, f.Why = Problem, fmt.Sprintf("it silently disables interception on the bridge %s", bridges[ours].Attrs().Name)
			f.Mend = []string{setSysctl(path, "0") + " # and unload br_netfilter if nothing needs it"}
		}
		found = append(found, f)
	}
	return found, nil
}

// full is how much of the connection table may be in use before it is said.
const full = 0.9

func conntrack(_ context.Context, e *examination) ([]Finding, error) {
	count, err := sysctl("net/netfilter/nf_conntrack_count")
	if err != nil {
		return nil, err
	}
	limit, err := sysctl("net/netfilter/nf_conntrack_max")
	if err != nil || count == "" || limit == "" {
		return nil, err
	}
	used, usedErr := strconv.Atoi(count)
	most, mostErr := strconv.Atoi(limit)
	if err := errors.Join(usedErr, mostErr); err != nil || most == 0 || float64(used) < full*float64(most) {
		return nil, err
	}
	return []Finding{{Severity: Problem, What: fmt.Sprintf("the table of connections is nearly full: %d of %d", used, most),
		Why: "when it is, new connections are dropped in silence, whatever rules say", Mend: []string{setSysctl("net/netfilter/nf_conntrack_max", strconv.Itoa(2*most))}}}, nil
}
