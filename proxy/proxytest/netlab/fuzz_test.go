package netlab

import "testing"

func FuzzStreamsNeverHoldMoreThanWasCaptured(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x08\x00\x45\x00\x00\x2a\x00\x00\x00\x00\x40\x06\x00\x00"+
		"\x0a\x01\x00\x02\xcb\x00\x71\x02\x9c\x40\x00\x19\x00\x00\x00\x01\x00\x00\x00\x00\x50\x18\x00\x00\x00\x00\x00\x00hi"), 2)
	f.Fuzz(func(t *testing.T, frame []byte, times int) {
		var packets []Packet
		size := 0
		for range min(max(times, 0), 8) {
			packets = append(packets, Packet{Data: frame})
			size += len(frame)
		}
		total := 0
		for _, stream := range Streams(packets) {
			total += len(stream.Data)
		}
		if total > size {
			t.Fatalf("%d bytes of streams from %d bytes of packets", total, size)
		}
	})
}
