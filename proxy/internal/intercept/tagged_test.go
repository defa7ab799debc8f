package intercept

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"postern/proxy/proxytest/netlab"
)

// syn begins a connection from port 40000 to port 25 (RFC 9293 §3.1). Checksums
// are left out: nobody is to answer.
var syn = []byte{40000 >> 8, 40000 & 0xff, 0, 25, 0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 0x02, 0xff, 0xff, 0, 0, 0, 0}

// tagged is that in a frame of a VLAN (IEEE 802.1Q).
func tagged(from, to net.HardwareAddr, client, server netip.Addr, vlan uint16) []byte {
	frame := append(append([]byte{}, to...), from...)
	frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_8021Q)
	frame = binary.BigEndian.AppendUint16(frame, vlan)
	var header []byte
	if client.Is4() { // RFC 791 §3.1
		frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_IP)
		header = []byte{0x45, 0, 0, 40, 0, 0, 0, 0, 64, unix.IPPROTO_TCP, 0, 0}
	} else { // RFC 8200 §3
		frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_IPV6)
		header = []byte{0x60, 0, 0, 0, 0, 20, unix.IPPROTO_TCP, 64}
	}
	header = append(append(header, client.AsSlice()...), server.AsSlice()...)
	if client.Is4() { // without this sum the bridge itself would drop it
		sum := uint32(0)
		for i := 0; i < len(header); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(header[i:]))
		}
		binary.BigEndian.PutUint16(header[10:], ^uint16(sum+sum>>16))
	}
	return append(append(frame, header...), syn...)
}

// inject puts a frame on a host's cable.
func inject(host *netlab.Host, name string, frame []byte) error {
	return host.Do(func() error {
		device, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: device.Index})
	})
}

// lookout is written what is captured, and closes seen at the first syn.
type lookout struct {
	seen chan struct{}
	once sync.Once
}

func (l *lookout) Write(p []byte) (int, error) {
	if bytes.Contains(p, syn) {
		l.once.Do(func() { close(l.seen) })
	}
	return len(p), nil
}

// The bridge would drop them, for it has no such VLAN.
func TestFramesWithAVLANTagAreNotLiftedOffTheBridge(t *testing.T) {
	n := bridged(t)
	plan := bridgePlan()
	up(t, n.Gateway, plan)
	startRelay(t, n.Gateway, plan)
	from, err := n.Client.HardwareAddress("eth0")
	if err != nil {
		t.Fatal(err)
	}
	to, err := n.Server.HardwareAddress("eth0")
	if err != nil {
		t.Fatal(err)
	}
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		l := &lookout{seen: make(chan struct{})}
		capture, err := n.Server.Capture("eth0", l)
		if err != nil {
			t.Fatal(err)
		}
		if err := inject(n.Client, "eth0", tagged(from, to, client, server, 20)); err != nil {
			t.Fatal(err)
		}
		select {
		case <-l.seen:
		case <-within(t, patience).Done():
			t.Error("it never got across")
		}
		if _, err := capture.Stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestInterfacesThatLieOnOthersAreWarnedOf(t *testing.T) {
	yes := true
	link := func(index, parent int, name string) netlink.LinkAttrs {
		return netlink.LinkAttrs{Index: index, ParentIndex: parent, Name: name}
	}
	m := machine{links: map[int]netlink.Link{
		1: &netlink.Bridge{LinkAttrs: link(1, 0, "br0")},
		2: &netlink.Bridge{LinkAttrs: link(2, 0, "br1"), VlanFiltering: &yes},
		3: &netlink.Vlan{LinkAttrs: link(3, 1, "br0.20"), VlanId: 20},
		4: &netlink.Device{LinkAttrs: link(4, 0, "eth0")},
		5: &netlink.Vlan{LinkAttrs: link(5, 4, "eth0.20"), VlanId: 20},
		6: &netlink.Device{LinkAttrs: link(6, 0, "eth1")},
		7: &netlink.Macvlan{LinkAttrs: link(7, 6, "vrrp.51")},
	}}
	for _, row := range []struct {
		interfaces []string
		want       []string
	}{
		{[]string{"eth0", "eth0.20"}, nil},
		{[]string{"br0"}, []string{"br0.20 is a VLAN on the bridge br0: frames with its tag pass by"}},
		{[]string{"br0.20"}, []string{"br0.20 is a VLAN on the bridge br0: what this machine routes is taken"}},
		{[]string{"br1"}, []string{"br1 filters VLANs"}},
		{[]string{"eth1"}, []string{"packets to the MAC address of vrrp.51 come in there and not on eth1"}},
		{[]string{"eth1", "vrrp.51"}, nil},
		{[]string{"vrrp.51"}, nil},
	} {
		plan := tproxyPlan()
		plan.Interfaces = row.interfaces
		bridges, err := m.bridges(plan)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for i, text := range plan.layerWarnings(m, bridges) {
			if i < len(row.want) && strings.HasPrefix(text, row.want[i]) {
				text = row.want[i]
			}
			got = append(got, text)
		}
		if !reflect.DeepEqual(got, row.want) {
			t.Errorf("%s: %q, want %q", row.interfaces, got, row.want)
		}
	}
}
