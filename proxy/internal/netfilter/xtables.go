package netfilter

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// match follows an extension of iptables that iptables-nft could not write as
// expressions. Their data is that of linux/netfilter/xt_*.h, in the machine's own
// order of octets.
func (w *walk) match(a attributes) truth {
	read, ok := matches[a.text(unix.NFTA_MATCH_NAME)]
	info := a[unix.NFTA_MATCH_INFO]
	if !ok || len(info) < read.size || a.number(unix.NFTA_MATCH_REV) < read.revision {
		return maybe
	}
	return read.holds(w, info)
}

// matches are those that are understood, from which revision on, and how many
// octets of their data are read.
var matches = map[string]struct {
	revision uint32
	size     int
	holds    func(*walk, []byte) truth
}{
	"comment":   {0, 0, func(*walk, []byte) truth { return yes }},
	"mark":      {1, 9, (*walk).xtMark},
	"state":     {0, 4, func(w *walk, info []byte) truth { return w.stateIn(uint16(u32(info))) }},
	"conntrack": {2, 154, (*walk).xtConntrack},
	"tcp":       {0, 12, (*walk).xtTCP},
	"multiport": {1, 48, (*walk).xtMultiport},
	"addrtype":  {1, 8, (*walk).xtAddrtype},
}

func u16(b []byte) uint16 { return binary.NativeEndian.Uint16(b) }
func u32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }

func invertedIf(b bool, t truth) truth {
	if b {
		return t.not()
	}
	return t
}

func (w *walk) xtMark(info []byte) truth {
	found := w.mark.masked(info[4:8], make([]byte, 4)).equals(info[:4])
	return invertedIf(info[8] != 0, found)
}

// Bits of a state beyond those that nftables has, too (xt_conntrack.h).
const stateDNAT = 1 << 7

func (w *walk) stateIn(mask uint16) truth {
	if w.packet.State == 0 {
		return maybe
	}
	if uint16(w.packet.State)&mask != 0 || mask&stateDNAT != 0 && w.packet.Redirected {
		return yes
	}
	if mask&stateDNAT != 0 {
		return maybe // somebody's port forwarding
	}
	return no
}

func (w *walk) xtConntrack(info []byte) truth {
	const (
		flagState = 1 << 0
		flagAlias = 1 << 13
	)
	flags, inverted, mask := u16(info[146:]), u16(info[148:]), u16(info[150:])
	result := yes
	if flags&flagState != 0 {
		result = invertedIf(inverted&flagState != 0, w.stateIn(mask))
	}
	if flags&^(flagState|flagAlias) != 0 {
		result = result.and(maybe)
	}
	return result
}

// port holds a port, 0 being one that is not known, against a range.
func portWithin(port, first, last uint16) truth {
	switch {
	case first == 0 && last == 0xffff:
		return yes
	case port == 0:
		return maybe
	}
	return truthOf(port >= first && port <= last)
}

func (w *walk) xtTCP(info []byte) truth {
	const notSource, notDestination, notFlags = 1, 2, 4
	inverted := info[11]
	result := invertedIf(inverted&notSource != 0, portWithin(w.packet.SourcePort, u16(info), u16(info[2:]))).
		and(invertedIf(inverted&notDestination != 0, portWithin(w.packet.DestinationPort, u16(info[4:]), u16(info[6:]))))
	flags := w.headers.transport.slice(13, 14).masked(info[9:10], []byte{0}).equals(info[10:11])
	result = result.and(invertedIf(inverted&notFlags != 0, flags))
	if info[8] != 0 {
		result = result.and(maybe) // a TCP option
	}
	return result
}

func (w *walk) xtMultiport(info []byte) truth {
	const source, destination = 0, 1
	ends := []uint16{w.packet.SourcePort, w.packet.DestinationPort}
	switch info[0] {
	case source:
		ends = ends[:1]
	case destination:
		ends = ends[1:]
	}
	result := no
	count := min(int(info[1]), 15)
	for i := 0; i < count; i++ {
		first := u16(info[2+2*i:])
		last := first
		if isRange := info[32+i] != 0; isRange && i+1 < count {
			i++
			last = u16(info[2+2*i:])
		}
		for _, port := range ends {
			result = max(result, portWithin(port, first, last))
		}
	}
	return invertedIf(info[47] != 0, result)
}

func (w *walk) xtAddrtype(info []byte) truth {
	const notDestination = 2
	source, destination, flags := u16(info), u16(info[2:]), u32(info[4:])
	result := yes
	if destination != 0 {
		result = maybe
		if w.packet.Transparent {
			result = invertedIf(flags&notDestination != 0, truthOf(destination&(1<<unix.RTN_UNICAST) != 0))
		}
	}
	if source != 0 {
		result = result.and(maybe)
	}
	return result
}

// targets of iptables after which a packet goes on.
var goingOn = []string{"LOG", "NFLOG", "TRACE", "CT", "AUDIT", "TOS", "DSCP", "CLASSIFY", "SECMARK", "CONNSECMARK",
	"TCPMSS", "SET", "CHECKSUM", "IDLETIMER", "LED", "RATEEST", "TEE", "ULOG"}

// ctNoTracking is the flag of the CT target that means notrack (linux/netfilter/xt_CT.h).
const ctNoTracking = 1 << 0

func (w *walk) target(a attributes) step {
	name, info := a.text(unix.NFTA_TARGET_NAME), a[unix.NFTA_TARGET_INFO]
	switch {
	case name == "REJECT" || name == "DROP":
		return ends(codeDrop)
	case name == "MARK" && a.number(unix.NFTA_TARGET_REV) >= 2 && len(info) >= 8:
		mask := make([]byte, 4)
		for i := range mask {
			mask[i] = ^info[4+i]
		}
		w.setMark(w.mark.masked(mask, info[:4]))
	case name == "MARK" || name == "CONNMARK":
		w.setMark(unknown(4))
	case name == "NOTRACK" || name == "CT" && (len(info) < 2 || u16(info)&ctNoTracking != 0):
		w.untracks = true
	case slices.Contains(goingOn, name):
	default: // NFQUEUE among them
		return step{yes, []verdict{{code: codeQueue}, {code: codeContinue}}, true}
	}
	return goesOn(yes)
}
