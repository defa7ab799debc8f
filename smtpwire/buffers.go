package smtpwire

import "sync"

// The sizes, in octets, that a Reader's buffer comes in. Whoever sends little
// costs little: the largest is only for content that flows.
const (
	lineBuffer    = 2 << 10  // what a dialogue needs
	ContentBuffer = 16 << 10 // what one TLS record can hold (RFC 8446 §5.1)
	FlowBuffer    = 64 << 10
)

// Pools of the two sizes that are needed for a short while, again and again. What
// lies in them is never read before it was written.
var (
	contentBuffers = sync.Pool{New: func() any { return new([ContentBuffer]byte) }}
	flowBuffers    = sync.Pool{New: func() any { return new([FlowBuffer]byte) }}
)

func borrow(size int) []byte {
	switch size {
	case ContentBuffer:
		return contentBuffers.Get().(*[ContentBuffer]byte)[:]
	case FlowBuffer:
		return flowBuffers.Get().(*[FlowBuffer]byte)[:]
	}
	return make([]byte, size)
}

// giveBack takes a buffer that nobody holds a part of any more.
func giveBack(buf []byte) {
	switch len(buf) {
	case ContentBuffer:
		contentBuffers.Put((*[ContentBuffer]byte)(buf))
	case FlowBuffer:
		flowBuffers.Put((*[FlowBuffer]byte)(buf))
	}
}
