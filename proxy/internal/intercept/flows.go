package intercept

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Flows is how many connections run to the intercepted ports already. They go
// on undisturbed, without Postern. Where rules of Postern stand already its own
// connections are among them.
type Flows struct {
	// Known is false where conntrack does not track: nobody can tell then.
	Known bool
	// Count is of established TCP connections.
	Count int
}

func (f Flows) String() string {
	if !f.Known {
		return "unknown (conntrack is not tracking)"
	}
	return strconv.Itoa(f.Count)
}

// established is TCP_CONNTRACK_ESTABLISHED, linux/netfilter/nf_conntrack_tcp.h.
const established = 3

// countFlows asks conntrack over netlink, else /proc. An empty table is taken
// for one that nothing feeds: conntrack only tracks while some rule needs it.
func countFlows(ports []uint16) Flows {
	flows, tracked, err := flowsFromNetlink(ports)
	if err == nil && tracked {
		return Flows{Known: true, Count: flows}
	}
	file, err := os.Open("/proc/thread-self/net/nf_conntrack")
	if err != nil {
		return Flows{}
	}
	defer file.Close()
	flows, tracked, err = flowsFromText(file, ports)
	if err != nil || !tracked {
		return Flows{}
	}
	return Flows{Known: true, Count: flows}
}

func flowsFromNetlink(ports []uint16) (count int, tracked bool, err error) {
	for _, family := range routingFamilies {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, netlink.InetFamily(family.number))
		if err != nil {
			return 0, false, err
		}
		tracked = tracked || len(flows) > 0
		for _, flow := range flows {
			tcp, ok := flow.ProtoInfo.(*netlink.ProtoInfoTCP)
			if ok && flow.Forward.Protocol == unix.IPPROTO_TCP && tcp.State == established &&
				slices.Contains(ports, flow.Forward.DstPort) {
				count++
			}
		}
	}
	return count, tracked, nil
}

// flowsFromText reads lines such as
//
//	ipv4 2 tcp 6 431999 ESTABLISHED src=10.1.0.2 dst=203.0.113.2 sport=40000 dport=25 src=… [ASSURED] …
//
// of which the first dport is that of the connection's direction.
func flowsFromText(r io.Reader, ports []uint16) (count int, tracked bool, err error) {
	scanner := bufio.NewScanner(r)
	for scanner.Scan() {
		tracked = true
		fields := strings.Fields(scanner.Text())
		if len(fields) < 6 || fields[2] != "tcp" || fields[5] != "ESTABLISHED" {
			continue
		}
		i := slices.IndexFunc(fields, func(f string) bool { return strings.HasPrefix(f, "dport=") })
		if i < 0 {
			continue
		}
		port, err := strconv.ParseUint(strings.TrimPrefix(fields[i], "dport="), 10, 16)
		if err == nil && slices.Contains(ports, uint16(port)) {
			count++
		}
	}
	if err := scanner.Err(); err != nil {
		return 0, false, fmt.Errorf("intercept: reading conntrack: %w", err)
	}
	return count, tracked, nil
}
