package netfilter

import "golang.org/x/sys/unix"

// Of the socket expression (linux/netfilter/nf_tables.h).
const (
	socketKey         = 1 // NFTA_SOCKET_KEY
	socketDestination = 2 // NFTA_SOCKET_DREG
	keyTransparent    = 0 // NFT_SOCKET_TRANSPARENT
)

func (w *walk) meta(a attributes) bits {
	if key := a.number(unix.NFTA_META_KEY); key != unix.NFT_META_MARK {
		return w.packet.meta(key)
	}
	return w.mark.clone()
}

// setMeta follows the one thing a rule may set that others ask for.
func (w *walk) setMeta(a attributes, r registers) {
	if a.number(unix.NFTA_META_KEY) == unix.NFT_META_MARK {
		w.setMark(r.from(a.number(unix.NFTA_META_SREG), 4).clone())
	}
}

// setMark changes the mark for what comes later. Where it is not certain that the
// packet came to here, the mark is the old one or the new one.
func (w *walk) setMark(value bits) {
	if !w.certain {
		value = w.mark.or(value)
	}
	w.mark = value
}

func (w *walk) conntrack(a attributes) bits { return w.packet.conntrack(a.number(unix.NFTA_CT_KEY)) }

// payload reads the headers; what lies behind them, or before, is not known.
func (w *walk) payload(a attributes) bits {
	from, n := int(a.number(unix.NFTA_PAYLOAD_OFFSET)), int(a.number(unix.NFTA_PAYLOAD_LEN))
	header := unknown(0)
	switch a.number(unix.NFTA_PAYLOAD_BASE) {
	case unix.NFT_PAYLOAD_NETWORK_HEADER:
		header = w.headers.network
	case unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		header = w.headers.transport
	}
	if n < 0 || from < 0 || from+n > len(header.value) {
		return unknown(min(max(n, 0), registersSize))
	}
	out := header.slice(from, from+n).clone()
	if a.number(unix.NFTA_PAYLOAD_BASE) == unix.NFT_PAYLOAD_NETWORK_HEADER && w.packet.addresses(from) {
		out.never = w.packet.strangers()
	}
	return out
}

// fib knows of the routing one thing: what comes to a transparent socket has an
// address that is not this machine's, and so the address of somebody else.
func (w *walk) fib(a attributes) bits {
	if a.number(unix.NFTA_FIB_RESULT) == unix.NFT_FIB_RESULT_ADDRTYPE &&
		a.number(unix.NFTA_FIB_FLAGS) == unix.NFTA_FIB_F_DADDR && w.packet.Transparent {
		return exactly(native32(unix.RTN_UNICAST)...)
	}
	return unknown(unix.IFNAMSIZ)
}

func (w *walk) socket(a attributes) bits {
	if a.number(socketKey) == keyTransparent && w.packet.Transparent {
		return exactly(1)
	}
	return unknown(registersSize)
}
