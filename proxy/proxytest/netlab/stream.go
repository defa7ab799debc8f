package netlab

import (
	"net/netip"
	"sort"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// Flow names one direction of a TCP connection.
type Flow struct {
	From, To netip.AddrPort
}

// Stream is what one direction of a TCP connection carried.
type Stream struct {
	Flow Flow
	// Data is the bytes in order of their sequence numbers, each once.
	Data []byte
	// Complete is false when bytes are missing in between: Data ends there.
	Complete bool
}

// Streams puts TCP payload back together, so that a test can look for bytes
// that lie across segments. Where several connections used the same addresses
// and ports, each SYN begins a stream of its own. Streams come in the order of
// their first packet.
func Streams(packets []Packet) []Stream {
	var order []*assembly
	current := map[Flow]*assembly{}
	for _, packet := range packets {
		flow, segment, ok := TCPSegment(packet.Data)
		if !ok {
			continue
		}
		a := current[flow]
		if a == nil || segment.SYN && segment.Seq+1 != a.first {
			a = &assembly{flow: flow, first: segment.Seq}
			if segment.SYN {
				a.first++
			}
			current[flow] = a
			order = append(order, a)
		}
		if len(segment.Payload) > 0 {
			offset := int32(segment.Seq - a.first)
			a.pieces = append(a.pieces, piece{int64(offset), segment.Payload})
		}
	}
	streams := make([]Stream, 0, len(order))
	for _, a := range order {
		streams = append(streams, a.join())
	}
	return streams
}

type piece struct {
	offset int64
	data   []byte
}

type assembly struct {
	flow   Flow
	first  uint32 // sequence number of the first byte of data
	pieces []piece
}

// join lays the pieces end to end, leaving out what was sent again.
func (a *assembly) join() Stream {
	sort.SliceStable(a.pieces, func(i, j int) bool { return a.pieces[i].offset < a.pieces[j].offset })
	stream := Stream{Flow: a.flow, Complete: true}
	if len(a.pieces) == 0 {
		return stream
	}
	// A capture that began in the middle of a connection may see an older
	// segment later, hence an offset below zero.
	next := min(0, a.pieces[0].offset)
	for _, p := range a.pieces {
		if p.offset > next {
			stream.Complete = false
			break
		}
		if end := p.offset + int64(len(p.data)); end > next {
			stream.Data = append(stream.Data, p.data[next-p.offset:]...)
			next = end
		}
	}
	return stream
}

// TCPSegment takes an Ethernet frame apart; false for what is not TCP over IP.
func TCPSegment(frame []byte) (Flow, *layers.TCP, bool) {
	packet := gopacket.NewPacket(frame, layers.LayerTypeEthernet,
		gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	segment, ok := packet.Layer(layers.LayerTypeTCP).(*layers.TCP)
	if !ok || packet.NetworkLayer() == nil {
		return Flow{}, nil, false
	}
	endpoints := packet.NetworkLayer().NetworkFlow()
	from, okFrom := netip.AddrFromSlice(endpoints.Src().Raw())
	to, okTo := netip.AddrFromSlice(endpoints.Dst().Raw())
	if !okFrom || !okTo {
		return Flow{}, nil, false
	}
	return Flow{
		From: netip.AddrPortFrom(from, uint16(segment.SrcPort)),
		To:   netip.AddrPortFrom(to, uint16(segment.DstPort)),
	}, segment, true
}
