package intercept

import (
	"slices"

	"golang.org/x/sys/unix"
)

// The kernel's usual net.ipv4.ip_local_port_range. The daemon does not read the
// real one; it only decides which of several stretches of ports is the longest.
const usualFirst, usualLast = 32768, 60999

// avoid keeps connect from choosing any of the ports, those of client legs
// between the same addresses. It must happen before the SYN: one that leaves with
// such a port makes conntrack take the client's connection for the new one, and
// where invalid packets are dropped that connection stands still until conntrack
// has forgotten (13 seconds were measured). Closing and dialling again comes too
// late for that. It tells whether the kernel was confined; before Linux 6.3 it
// cannot be.
func avoid(fd int, ports []uint16) bool {
	if len(ports) == 0 {
		return false
	}
	first, last := longestStretch(ports)
	return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_LOCAL_PORT_RANGE, int(last)<<16|int(first)) == nil
}

// longestStretch is the stretch of ports between the given ones that has most of
// the usual range, both ends in it; an end of 0 means that there is no limit.
func longestStretch(ports []uint16) (first, last uint16) {
	sorted := slices.Clone(ports)
	slices.Sort(sorted)
	longest := -1
	low := 0 // the port before the stretch
	for _, port := range append(sorted, 0) {
		high := int(port) // the port behind it
		if port == 0 {
			high = 1 << 16
		}
		size := min(high-1, usualLast) - max(low+1, usualFirst) + 1
		if size > longest && low+1 < high {
			longest = size
			first, last = 0, 0
			if low > 0 {
				first = uint16(low + 1)
			}
			if high < 1<<16 {
				last = uint16(high - 1)
			}
		}
		low = high
	}
	return first, last
}
