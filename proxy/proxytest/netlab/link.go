package netlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// End is one end of a cable: an interface of a host, with its addresses.
type End struct {
	Host      *Host
	Interface string
	Addresses []netip.Prefix
}

// Connect lays a cable (a veth pair) between two hosts, gives both ends their
// addresses and brings them up.
func Connect(a, b End) error {
	err := a.Host.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: a.Interface},
			PeerName:      b.Interface,
			PeerNamespace: netlink.NsFd(b.Host.ns.Fd()),
		})
	})
	if err != nil {
		return fmt.Errorf("netlab: cable %s:%s–%s:%s: %w",
			a.Host.name, a.Interface, b.Host.name, b.Interface, err)
	}
	for _, end := range []End{a, b} {
		if err := end.Host.Do(func() error { return setUp(end.Interface) }); err != nil {
			return err
		}
		if err := end.Host.AddAddress(end.Interface, end.Addresses...); err != nil {
			return err
		}
	}
	return nil
}

func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("netlab: %s: %w", name, err)
	}
	return netlink.LinkSetUp(link)
}

// AddAddress gives an interface further addresses, usable at once.
func (h *Host) AddAddress(name string, addresses ...netip.Prefix) error {
	return h.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("netlab: host %s: %s: %w", h.name, name, err)
		}
		for _, prefix := range addresses {
			address := &netlink.Addr{IPNet: ipNet(prefix)}
			if prefix.Addr().Is6() {
				address.Flags = unix.IFA_F_NODAD
			}
			if err := netlink.AddrAdd(link, address); err != nil {
				return fmt.Errorf("netlab: host %s: %s: %s: %w", h.name, name, prefix, err)
			}
		}
		return nil
	})
}

// AddRoute sends what goes to the prefix by way of the given neighbour.
func (h *Host) AddRoute(to netip.Prefix, via netip.Addr) error {
	err := h.Do(func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: ipNet(to), Gw: via.AsSlice()})
	})
	if err != nil {
		return fmt.Errorf("netlab: host %s: route %s via %s: %w", h.name, to, via, err)
	}
	return nil
}

// AddBridge makes an Ethernet bridge of interfaces that the host already has.
func (h *Host) AddBridge(name string, ports []string, addresses ...netip.Prefix) error {
	err := h.Do(func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
		if err := netlink.LinkAdd(bridge); err != nil {
			return err
		}
		return setUp(name)
	})
	if err != nil {
		return fmt.Errorf("netlab: host %s: bridge %s: %w", h.name, name, err)
	}
	for _, port := range ports {
		if err := h.JoinBridge(name, port); err != nil {
			return err
		}
	}
	return h.AddAddress(name, addresses...)
}

// JoinBridge makes an interface a port of a bridge.
func (h *Host) JoinBridge(bridge, port string) error {
	err := h.Do(func() error {
		master, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		link, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(link, master)
	})
	if err != nil {
		return fmt.Errorf("netlab: host %s: %s joining bridge %s: %w", h.name, port, bridge, err)
	}
	return nil
}

// HardwareAddress is the MAC address of an interface.
func (h *Host) HardwareAddress(name string) (net.HardwareAddr, error) {
	var address net.HardwareAddr
	err := h.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("netlab: host %s: %s: %w", h.name, name, err)
		}
		address = link.Attrs().HardwareAddr
		return nil
	})
	return address, err
}

// forward lets the host pass packets on, IPv4 and IPv6.
func (h *Host) forward() error {
	return errors.Join(
		h.Sysctl("net.ipv4.ip_forward", "1"),
		h.Sysctl("net.ipv6.conf.all.forwarding", "1"),
	)
}

func ipNet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{
		IP:   prefix.Addr().AsSlice(),
		Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen()),
	}
}
