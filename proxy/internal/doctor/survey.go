package doctor

import (
	"context"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// Interface is one that IP packets come in on.
type Interface struct {
	Name   string
	Bridge bool
	// Outside is true where a default route leads.
	Outside bool
	// Networks are those that it is connected to, without link-local ones.
	Networks []netip.Prefix
}

// Machine is what can be asked of one that has no configuration yet.
type Machine struct {
	// Interfaces are those that are up, without loopback, ports of bridges and
	// what containers and virtual machines are connected to.
	Interfaces []Interface
	// IPv6 is false where the kernel has none.
	IPv6 bool
	// Forwards4 and Forwards6 say whether this is a router.
	Forwards4, Forwards6 bool
	// MailServer listens on port 25 here; "" where nothing does, "a program"
	// where it cannot be seen which.
	MailServer string
	// Taken are the ports that something listens on, but Postern.
	Taken     []uint16
	Resolvers []Resolver
	// Packaged is true where systemd has the units of the package.
	Packaged bool
}

// Resolver is one that programs on the machine ask.
type Resolver struct {
	Address   netip.Addr
	Validates bool
	Err       error
}

// virtual are names of what containers and virtual machines are connected to:
// Docker, libvirt, Kubernetes, LXC.
func virtual() *regexp.Regexp {
	return regexp.MustCompile(`^(docker\d+|br-[0-9a-f]{12}|virbr\d+|cni\d+|flannel.*|cali.*|cilium.*|lxcbr\d+|lxdbr\d+|podman\d+|veth.*|vnet\d+|tap.*|kube-.*|nodelocaldns)$`)
}

// Survey asks the machine, in the network namespace of the calling thread. It
// changes nothing and waits two seconds for each resolver at most.
func Survey(ctx context.Context) (Machine, error) {
	var m Machine
	links, err := netlink.LinkList()
	if err != nil {
		return m, err
	}
	names, outside := virtual(), map[int]bool{}
	for _, f := range []family{{v4: true, number: netlink.FAMILY_V4}, {number: netlink.FAMILY_V6}} {
		for _, r := range defaultRoutes(f) {
			outside[r.LinkIndex] = true
			for _, hop := range r.MultiPath {
				outside[hop.LinkIndex] = true
			}
		}
	}
	for _, link := range links {
		a := link.Attrs()
		if isLoopback(link) || a.MasterIndex != 0 || a.Flags&net.FlagUp == 0 || names.MatchString(a.Name) {
			continue
		}
		i := Interface{Name: a.Name, Bridge: isBridge(link), Outside: outside[a.Index], Networks: networksOf(link)}
		if i.Outside || i.Bridge || len(i.Networks) > 0 {
			m.Interfaces = append(m.Interfaces, i)
		}
	}
	slices.SortFunc(m.Interfaces, func(a, b Interface) int { return strings.Compare(a.Name, b.Name) })
	_, err = os.Stat("/proc/thread-self/net/if_inet6")
	m.IPv6 = err == nil
	m.Forwards4, m.Forwards6 = forwards("net/ipv4/ip_forward"), forwards("net/ipv6/conf/all/forwarding")
	if err := m.listeners(); err != nil {
		return m, err
	}
	e := &examination{systemctl: systemctl}
	if all, err := e.askUnits(ctx); err == nil {
		_, m.Packaged = all["postern.target"]
	}
	servers, err := Resolvers()
	for _, server := range servers {
		r := Resolver{Address: server}
		r.Validates, r.Err = Validates(ctx, netip.AddrPortFrom(server, 53))
		m.Resolvers = append(m.Resolvers, r)
	}
	return m, err
}

func forwards(path string) bool {
	value, err := sysctl(path)
	return err == nil && value != "" && value != "0"
}

func networksOf(link netlink.Link) []netip.Prefix {
	addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil
	}
	var out []netip.Prefix
	for _, a := range addresses {
		ip, ok := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		if ip = ip.Unmap(); !ok || ip.IsLinkLocalUnicast() {
			continue
		}
		if p, err := ip.Prefix(ones); err == nil && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// listeners finds the ports that are taken, and who serves mail here.
func (m *Machine) listeners() error {
	sockets, err := listeningSockets()
	if err != nil {
		return err
	}
	for _, l := range sockets {
		who := owners(l.inode)
		if slices.ContainsFunc(who, process.isPostern) {
			continue
		}
		m.Taken = append(m.Taken, l.address.Port())
		if l.address.Port() != 25 {
			continue
		}
		m.MailServer = "a program"
		if len(who) > 0 {
			m.MailServer = who[0].name
		}
	}
	return nil
}
