package intercept

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ObstacleError is something about this machine that stands in the way of a
// plan that is right in itself.
type ObstacleError struct {
	// Key is the configuration key that asks for it, "" where none does.
	Key string
	// What is in the way.
	What string
	// Remedy is what an administrator can do about it.
	Remedy string
}

func (e *ObstacleError) Error() string { return "intercept: " + e.Problem() }

// ConfigKey is the key, and Problem the message without it.
func (e *ObstacleError) ConfigKey() string { return e.Key }
func (e *ObstacleError) Problem() string   { return e.What + ": " + e.Remedy }

// machine is what Up, Down and Show learn about the network namespace of the
// calling thread. It only reads.
type machine struct {
	links map[int]netlink.Link
}

func inspect() (machine, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return machine{}, fmt.Errorf("intercept: listing interfaces: %w", err)
	}
	m := machine{links: map[int]netlink.Link{}}
	for _, link := range links {
		m.links[link.Attrs().Index] = link
	}
	return m, nil
}

func (m machine) byName(name string) netlink.Link {
	for _, link := range m.links {
		if link.Attrs().Name == name {
			return link
		}
	}
	return nil
}

// lacks tells whether one of the interfaces does not exist.
func (m machine) lacks(interfaces []string) bool {
	return slices.ContainsFunc(interfaces, func(name string) bool { return m.byName(name) == nil })
}

// bridges are the interfaces of the plan that are Ethernet bridges.
func (m machine) bridges(p Plan) ([]bridge, error) {
	var found []bridge
	for _, name := range p.Interfaces {
		link := m.byName(name)
		if link == nil {
			continue
		}
		if master := m.links[link.Attrs().MasterIndex]; master != nil {
			return nil, &ObstacleError{
				Key:    "intercept.interfaces",
				What:   fmt.Sprintf("%s belongs to %s, where its packets come in", name, master.Attrs().Name),
				Remedy: fmt.Sprintf("put %s in its place in intercept.interfaces", master.Attrs().Name),
			}
		}
		if link.Type() != "bridge" {
			continue
		}
		b := bridge{name: name, address: link.Attrs().HardwareAddr}
		for _, port := range m.links {
			if port.Attrs().MasterIndex == link.Attrs().Index {
				b.ports = append(b.ports, port.Attrs().Name)
			}
		}
		slices.Sort(b.ports)
		found = append(found, b)
	}
	return found, nil
}

func (m machine) sysctl(path string) (string, error) {
	value, err := os.ReadFile("/proc/sys/" + path)
	return strings.TrimSpace(string(value)), err
}

func sysctlName(path string) string { return strings.ReplaceAll(path, "/", ".") }

// CheckMachine holds the plan against the machine and the network namespace of
// the calling thread, as far as anybody may look: what Up would refuse besides is
// what only CAP_NET_ADMIN shows. What cannot be read is held against nobody, for
// a check may run where /proc/sys and netlink are hidden. It returns all that is
// in the way, joined, each an *ObstacleError with its Key.
func (p Plan) CheckMachine() error {
	if p.Method == None {
		return nil
	}
	m, err := inspect()
	if err != nil {
		m = machine{}
	}
	bridges, err := m.bridges(p)
	_, unknown := p.findUser()
	return errors.Join(err, unknown, p.checkBridges(m, bridges), p.checkForwarding(m, bridges))
}

// forwardingSysctl switches a family's forwarding.
func forwardingSysctl(v4 bool) string {
	if v4 {
		return "net/ipv4/ip_forward"
	}
	return "net/ipv6/conf/all/forwarding"
}

// forwards is true unless the kernel says that it does not. One without IPv6 has
// nothing to say, and no connections to lose.
func (m machine) forwards(v4 bool) bool {
	value, err := m.sysctl(forwardingSysctl(v4))
	return err != nil || value != "0"
}

// checkForwarding refuses pass on a machine that forwards nothing, where it
// would be a black hole, in each family that Postern listens in.
func (p Plan) checkForwarding(m machine, bridges []bridge) error {
	if p.Method != TProxy || p.WhenDown != Pass {
		return nil
	}
	const key = "intercept.when_down"
	var errs []error
	for i, v4 := range []bool{true, false} {
		number := familyNumber(v4)
		if _, ok := p.listener(v4); !ok {
			continue
		}
		instead := fmt.Sprintf("when_down = \"block\", or no IPv%d address in listen.addresses", number)
		if sysctl := sysctlName(forwardingSysctl(v4)); !m.forwards(v4) {
			errs = append(errs, &ObstacleError{
				Key:    key,
				What:   fmt.Sprintf("pass needs a machine that forwards IPv%d, and %s is 0", number, sysctl),
				Remedy: fmt.Sprintf("sysctl -w %s=1, or %s", sysctl, instead),
			})
		}
		if len(bridges) > 0 && !hasDefaultRoute(routingFamilies[i].number) {
			errs = append(errs, &ObstacleError{
				Key:    key,
				What:   fmt.Sprintf("pass on a bridge routes what was bridged, and there is no IPv%d default route", number),
				Remedy: "add one, or " + instead,
			})
		}
	}
	return errors.Join(errs...)
}

func hasDefaultRoute(family int) bool {
	routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	return err == nil && slices.ContainsFunc(routes, func(r netlink.Route) bool {
		if r.Dst == nil {
			return true
		}
		ones, _ := r.Dst.Mask.Size()
		return ones == 0
	})
}

// warnings are what does not stop the plan but will surprise somebody.
func (p Plan) warnings(m machine, bridges []bridge) []string {
	var texts []string
	warn := func(format string, values ...any) { texts = append(texts, fmt.Sprintf(format, values...)) }
	for _, name := range p.Interfaces {
		if m.byName(name) == nil {
			warn("interface %s does not exist (yet)", name)
		}
	}
	for _, v4 := range []bool{true, false} {
		if _, ok := p.listener(v4); !ok && p.WhenDown == Pass {
			warn("no IPv%d address in listen.addresses: IPv%d connections always pass, without Postern",
				familyNumber(v4), familyNumber(v4))
		} else if !ok && p.Method == TProxy {
			warn("no IPv%d address in listen.addresses: IPv%d connections are always blocked",
				familyNumber(v4), familyNumber(v4))
		} else if !ok {
			warn("no IPv%d address in listen.addresses: IPv%d connections are not intercepted",
				familyNumber(v4), familyNumber(v4))
		}
	}
	for _, v4 := range []bool{true, false} {
		if len(bridges) > 0 && p.reaches(v4) && !m.forwards(v4) {
			warn("%s is 0: IPv%d connections that run across %s now will stall",
				sysctlName(forwardingSysctl(v4)), familyNumber(v4), bridges[0].name)
		}
	}
	texts = slices.Concat(texts, p.layerWarnings(m, bridges), p.trackingWarnings())
	return append(texts, p.inputWarnings()...)
}

func familyNumber(v4 bool) int {
	if v4 {
		return 4
	}
	return 6
}

var errUnsupportedFamily = []error{unix.EAFNOSUPPORT, unix.EOPNOTSUPP, unix.EPFNOSUPPORT}

// withoutFamily tells whether the kernel has no IPv6 at all, which then needs no
// rules either.
func withoutFamily(err error) bool {
	return slices.ContainsFunc(errUnsupportedFamily, func(e error) bool { return errors.Is(err, e) })
}
