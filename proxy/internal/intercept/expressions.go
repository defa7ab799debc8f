package intercept

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Expressions are written as nft writes them, so that `nft list ruleset` shows
// them in words. Register 1 carries what is compared.
const (
	register       = 1
	secondRegister = 2
)

func join(parts ...[]expr.Any) []expr.Any { return slices.Concat(parts...) }

func bigEndian16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

func verdict(kind expr.VerdictKind) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind}}
}

func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

func equals(value ...byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: value}
}

// isTCP: meta l4proto tcp
func isTCP() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, equals(unix.IPPROTO_TCP)}
}

// isICMP: meta l4proto icmp
func isICMP(v4 bool) []expr.Any {
	protocol := byte(unix.IPPROTO_ICMPV6)
	if v4 {
		protocol = unix.IPPROTO_ICMP
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, equals(protocol)}
}

// What stands in an ICMP message "packet too big" is the header of that packet,
// behind 8 octets, and what followed it (RFC 792, RFC 4443 §3.2).
const quotation = 8

// isTooBig: icmp type destination-unreachable icmp code frag-needed, or icmpv6 type
// packet-too-big, about TCP to the port, and with an IPv4 header that has no
// options, for behind these nobody could find the port.
func isTooBig(v4 bool, port uint16) []expr.Any {
	octets := func(offset uint32, value ...byte) []expr.Any {
		return []expr.Any{
			&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: uint32(len(value))},
			equals(value...),
		}
	}
	to := bigEndian16(port)
	if v4 {
		return join(octets(0, 3, 4), octets(quotation, 0x45), octets(quotation+9, unix.IPPROTO_TCP), octets(quotation+20+destinationPort, to...))
	}
	return join(octets(0, 2, 0), octets(quotation+6, unix.IPPROTO_TCP), octets(quotation+40+destinationPort, to...))
}

// serverInside: the destination of the packet that was too big is in the network.
func serverInside(network netip.Prefix) []expr.Any {
	offset := uint32(quotation + 24)
	if network.Addr().Is4() {
		offset = quotation + 16
	}
	address := network.Addr().AsSlice()
	size := uint32(len(address))
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: size},
		&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: size,
			Mask: net.CIDRMask(network.Bits(), network.Addr().BitLen()), Xor: make([]byte, size),
		},
		equals(address...),
	}
}

// isFamily: meta nfproto ipv4 (in the bridge family: isEtherType)
func isFamily(v4 bool) []expr.Any {
	value := byte(unix.NFPROTO_IPV6)
	if v4 {
		value = unix.NFPROTO_IPV4
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register}, equals(value)}
}

// isEtherType: ether type ip, which a frame with a VLAN tag is not, as it would be
// by meta protocol.
func isEtherType(v4 bool) []expr.Any {
	const offset = 12 // behind both MAC addresses
	value := uint16(unix.ETH_P_IPV6)
	if v4 {
		value = unix.ETH_P_IP
	}
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseLLHeader, Offset: offset, Len: 2},
		equals(bigEndian16(value)...),
	}
}

// incomingOn: iifname @set
func incomingOn(set string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register},
		&expr.Lookup{SourceRegister: register, SetName: set},
	}
}

// incomingElsewhere: iifname != @set
func incomingElsewhere(set string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register},
		&expr.Lookup{SourceRegister: register, SetName: set, Invert: true},
	}
}

// Offsets of the ports in a TCP header, RFC 9293 §3.1.
const (
	sourcePort      = 0
	destinationPort = 2
)

// portIn: tcp dport @set
func portIn(offset uint32, set string) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		&expr.Lookup{SourceRegister: register, SetName: set},
	}
}

// isSYN: tcp flags & (syn | ack) == syn
func isSYN() []expr.Any {
	const flagsOffset, syn, ack = 13, 0x02, 0x10
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: flagsOffset, Len: 1},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{syn | ack}, Xor: []byte{0}},
		equals(syn),
	}
}

// end is one of the two addresses in an IP header.
type end bool

const (
	source      end = false
	destination end = true
)

// addressIn: ip saddr @set, with the family asked for first. Offsets are those
// of RFC 791 §3.1 and RFC 8200 §3.
func addressIn(which end, v4 bool, set string, invert bool) []expr.Any {
	offset, size := uint32(8), uint32(16)
	if v4 {
		offset, size = 12, 4
	}
	if which == destination {
		offset += size
	}
	return append(isFamily(v4),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Lookup{SourceRegister: register, SetName: set, Invert: invert})
}

// socketTransparent: socket transparent 1
func socketTransparent() []expr.Any {
	return []expr.Any{&expr.Socket{Key: expr.SocketKeyTransparent, Register: register}, equals(1)}
}

// ctEstablished: ct state established
func ctEstablished() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: register},
		&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED),
			Xor:  binaryutil.NativeEndian.PutUint32(0),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: binaryutil.NativeEndian.PutUint32(0)},
	}
}

// fibIsLocal: fib daddr type local
func fibIsLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: register, ResultADDRTYPE: true, FlagDADDR: true},
		equals(binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)...),
	}
}

// setMark: meta mark set meta mark | bit. Other bits belong to others.
func setMark() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register},
		&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(^uint32(Mark)),
			Xor:  binaryutil.NativeEndian.PutUint32(Mark),
		},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: register},
	}
}

// tproxyTo: tproxy ip to 127.0.0.1:2525
func tproxyTo(address netip.AddrPort) []expr.Any {
	family := byte(unix.NFPROTO_IPV6)
	if address.Addr().Is4() {
		family = unix.NFPROTO_IPV4
	}
	return append(isTCP(),
		&expr.Immediate{Register: register, Data: address.Addr().AsSlice()},
		&expr.Immediate{Register: secondRegister, Data: bigEndian16(address.Port())},
		&expr.TProxy{
			Family: family, TableFamily: byte(nftables.TableFamilyINet),
			RegAddr: register, RegPort: secondRegister,
		})
}

// redirectTo: redirect to :2525
func redirectTo(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: register, Data: bigEndian16(port)},
		&expr.Redir{RegisterProtoMin: register},
	}
}

// rejectWithReset: reject with tcp reset
func rejectWithReset() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}
}

// toHost: meta pkttype set host ether daddr set address. The bridge then hands
// the frame to its own machine instead of passing it on.
func toHost(address []byte) []expr.Any {
	const packetHost = 0 // PACKET_HOST, linux/if_packet.h
	return []expr.Any{
		&expr.Immediate{Register: register, Data: []byte{packetHost}},
		&expr.Meta{Key: expr.MetaKeyPKTTYPE, SourceRegister: true, Register: register},
		&expr.Immediate{Register: register, Data: address},
		&expr.Payload{
			OperationType: expr.PayloadWrite, SourceRegister: register,
			Base: expr.PayloadBaseLLHeader, Offset: 0, Len: 6,
		},
	}
}
