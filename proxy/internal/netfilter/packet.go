package netfilter

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// State is what conntrack says of a packet.
type State uint32

// The states, by the bits of nftables and of iptables alike; 0 is not known.
const (
	Established State = 1 << 1
	New         State = 1 << 3
)

// Packet is a TCP packet on its way into the machine, as far as it is known.
type Packet struct {
	// What it is, in words for a person: "new connections from lan0 (IPv4)".
	What string
	V4   bool
	// Interface and Index are where it comes in; "" and 0 are not known.
	Interface string
	Index     int
	// Source and Destination are the networks of its two ends; the zero value is
	// not known.
	Source, Destination netip.Prefix
	// The ports; 0 is not known.
	SourcePort, DestinationPort uint16
	// Asked is the port that the client asked for, where that is another one.
	Asked uint16
	// Flags are those of TCP (RFC 9293 §3.1).
	Flags byte
	State State
	// Mark are the bits of the packet mark that are set for certain.
	Mark uint32
	// Redirected is a packet whose destination was changed to this machine's own.
	Redirected bool
	// Transparent is one that comes to a socket with IP_TRANSPARENT, under an
	// address that is not this machine's own.
	Transparent bool
}

// Flags of TCP.
const (
	SYN byte = 1 << 1
	ACK byte = 1 << 4
)

// headers of a packet, bit by bit: what nft's payload expression reads.
type headers struct{ network, transport bits }

// lay writes the headers. Lengths, checksums, sequence numbers and options stay
// unknown, and so do the two bits by which ECN is asked for (RFC 3168 §6.1.1).
func (p Packet) lay() headers {
	h := headers{network: unknown(40), transport: unknown(20)}
	version, protocol, addresses, size := byte(6), 6, 8, 16 // RFC 8200 §3
	if p.V4 {
		h.network = unknown(20)
		version, protocol, addresses, size = 4, 9, 12, 4 // RFC 791 §3.1
	}
	h.network.write(0, bits{value: []byte{version << 4}, known: []byte{0xf0}})
	h.network.write(protocol, exactly(unix.IPPROTO_TCP))
	h.network.write(addresses, prefixBits(p.Source, size))
	h.network.write(addresses+size, prefixBits(p.Destination, size))
	for offset, port := range map[int]uint16{0: p.SourcePort, 2: p.DestinationPort} {
		if port != 0 {
			h.transport.write(offset, exactly(binary.BigEndian.AppendUint16(nil, port)...))
		}
	}
	h.transport.write(13, bits{value: []byte{p.Flags}, known: []byte{0x3f}})
	return h
}

func prefixBits(p netip.Prefix, size int) bits {
	b := unknown(size)
	if !p.IsValid() || p.Addr().BitLen() != 8*size {
		return b
	}
	copy(b.value, p.Masked().Addr().AsSlice())
	for i := range p.Bits() {
		b.known[i/8] |= 0x80 >> (i % 8)
	}
	return b
}

// strangers are addresses that no packet has that came over a wire: those of
// loopback, of no host, and of groups, from and to which there is no TCP. The
// kernel drops them before input (RFC 1122 §3.2.1.3, RFC 4291 §2.5.3).
func (p Packet) strangers() []span {
	switch {
	case p.Interface == "lo":
		return nil
	case p.V4:
		return []span{{[]byte{0}, []byte{0}}, {[]byte{127}, []byte{127}}, {[]byte{224}, []byte{239}}}
	}
	loopback := netip.IPv6Loopback().AsSlice()
	return []span{{loopback, loopback}, {[]byte{0xff}, []byte{0xff}}}
}

// addresses tells whether something at an offset of the network header begins
// with an address.
func (p Packet) addresses(offset int) bool {
	if p.V4 {
		return offset == 12 || offset == 16
	}
	return offset == 8 || offset == 24
}

func native32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// markBits are the known bits of the packet mark.
func (p Packet) markBits() bits { return bits{value: native32(p.Mark), known: native32(p.Mark)} }

// meta is what nft's meta expression reads, but for the mark, which rules change.
func (p Packet) meta(key uint32) bits {
	switch key {
	case unix.NFT_META_PROTOCOL:
		if p.V4 {
			return exactly(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP)...)
		}
		return exactly(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6)...)
	case unix.NFT_META_NFPROTO:
		if p.V4 {
			return exactly(unix.NFPROTO_IPV4)
		}
		return exactly(unix.NFPROTO_IPV6)
	case unix.NFT_META_L4PROTO:
		return exactly(unix.IPPROTO_TCP)
	case unix.NFT_META_PKTTYPE:
		return exactly(0) // PACKET_HOST: only such a packet is let in as TCP at all
	case unix.NFT_META_IIF:
		if p.Index != 0 {
			return exactly(native32(uint32(p.Index))...)
		}
	case unix.NFT_META_IIFNAME:
		if p.Interface != "" {
			return exactly(append([]byte(p.Interface), make([]byte, unix.IFNAMSIZ-len(p.Interface))...)...)
		}
		return unknown(unix.IFNAMSIZ)
	}
	return unknown(registersSize)
}

// Bits of ct status (linux/netfilter/nf_conntrack_common.h).
const (
	seenReply      = 1 << 1
	destinationNAT = 1 << 5
)

// conntrack is what nft's ct expression reads.
func (p Packet) conntrack(key uint32) bits {
	switch key {
	case unix.NFT_CT_STATE:
		if p.State == 0 {
			return unknown(registersSize)
		}
		return exactly(native32(uint32(p.State))...)
	case unix.NFT_CT_DIRECTION:
		if p.State == New {
			return exactly(0)
		}
	case unix.NFT_CT_STATUS:
		var value, known uint32
		if p.State == New {
			known |= seenReply
		}
		if p.Redirected {
			value, known = value|destinationNAT, known|destinationNAT
		}
		return bits{value: native32(value), known: native32(known)}
	case unix.NFT_CT_PROTOCOL:
		return exactly(unix.IPPROTO_TCP)
	case unix.NFT_CT_PROTO_DST:
		if p.Asked != 0 {
			return exactly(binary.BigEndian.AppendUint16(nil, p.Asked)...)
		}
	}
	return unknown(registersSize)
}
