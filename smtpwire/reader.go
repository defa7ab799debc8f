package smtpwire

import (
	"bytes"
	"io"
)

// swallowLimit is how far beyond its limit a line is followed to its end, octets.
const swallowLimit = 64 << 10

// A Reader reads lines, replies and content from one peer. Its buffer starts
// small and grows only as far as the limits given to its methods.
//
// An error of the underlying reader (a deadline, say) loses nothing: what was
// read before it stays buffered and the call can be repeated.
type Reader struct {
	src  io.Reader
	buf  []byte
	r, w int // buf[r:w] has been read and not yet consumed

	swallowed int // octets of an overlong line dropped so far; 0 when not swallowing

	reply      Reply // read so far; its Raw is kept for the next reply
	replyLines int
}

// NewReader returns a Reader on src.
func NewReader(src io.Reader) *Reader { return &Reader{src: src} }

// Buffered returns the number of octets that have been read from the peer and
// not yet consumed. Before TLS begins it must be 0: see RFC 3207 §4.2 and the
// injection attacks that came of carrying them over.
func (r *Reader) Buffered() int { return r.w - r.r }

// AtRest reports whether nothing has been read beyond the last line or reply that
// was returned, not even a part of the next.
func (r *Reader) AtRest() bool { return r.r == r.w && r.swallowed == 0 && r.replyLines == 0 }

// HasLine reports whether a whole line is buffered.
func (r *Reader) HasLine() bool { return bytes.IndexByte(r.buf[r.r:r.w], '\n') >= 0 }

// Peek returns the octets that are buffered, reading once if there are none.
// They stay valid until the next call and are consumed by Advance.
func (r *Reader) Peek() ([]byte, error) {
	if r.r == r.w {
		if err := r.fill(lineBuffer); err != nil {
			return nil, err
		}
	}
	return r.buf[r.r:r.w], nil
}

// PeekContent is Peek with the larger buffer that message content is worth:
// ContentBuffer or FlowBuffer.
func (r *Reader) PeekContent(size int) ([]byte, error) {
	if r.r == r.w {
		if err := r.fill(size); err != nil {
			return nil, err
		}
	}
	return r.buf[r.r:r.w], nil
}

// Gather reads once more behind what is buffered, as far as there is room, and
// reports whether anything came. It is for a source that just now does not wait; an
// error of it comes again when it may.
func (r *Reader) Gather() bool {
	if r.r == r.w {
		r.r, r.w = 0, 0
	}
	if r.w == len(r.buf) {
		return false
	}
	n, _ := r.src.Read(r.buf[r.w:])
	r.w += n
	return n > 0
}

// Advance consumes n octets of what Peek returned. It panics when there are
// fewer: that is a mistake of the caller, never of the peer.
func (r *Reader) Advance(n int) {
	if n < 0 || n > r.w-r.r {
		panic("smtpwire: Advance past what was peeked")
	}
	r.r += n
}

// Shrink gives back a larger buffer once message content has passed and no more
// is buffered.
func (r *Reader) Shrink() {
	if r.r == r.w && len(r.buf) > lineBuffer {
		giveBack(r.buf)
		r.buf, r.r, r.w = nil, 0, 0
	}
}

// Release gives back every buffer of a Reader that is at rest.
func (r *Reader) Release() {
	if r.AtRest() {
		giveBack(r.buf)
		r.buf, r.r, r.w, r.reply.Raw = nil, 0, 0, nil
	}
}

// fill reads once from the source, with room for at least size octets in all.
func (r *Reader) fill(size int) error {
	if r.r == r.w {
		r.r, r.w = 0, 0
	}
	if size < lineBuffer {
		size = lineBuffer
	}
	if len(r.buf) < size {
		grown := borrow(size)
		r.w = copy(grown, r.buf[r.r:r.w])
		giveBack(r.buf)
		r.r, r.buf = 0, grown
	} else if r.r > 0 && r.w == len(r.buf) {
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	n, err := r.src.Read(r.buf[r.w:])
	r.w += n
	if n > 0 {
		return nil // an error that came with it comes again
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// ReadLine returns the next line without its CRLF. limit is in octets and
// counts the CRLF. The line stays valid until the next call.
//
// The errors are ErrLineTooLong (the line is gone, the next can be read),
// ErrLineEndless, ErrBareNewline, and those of the source; io.ErrUnexpectedEOF
// is a connection that ended within a line.
func (r *Reader) ReadLine(limit int) ([]byte, error) {
	scanned := 0
	for {
		window := r.buf[r.r:r.w]
		if r.swallowed == 0 {
			if i := bytes.IndexByte(window[scanned:], '\n'); i >= 0 {
				return r.take(scanned+i, limit)
			}
			scanned = len(window)
			if scanned >= limit {
				r.swallow(window)
				scanned = 0
			}
		} else if done, err := r.swallowOn(window); done || err != nil {
			return nil, err
		}
		if err := r.fill(min(limit, len(window)*2)); err != nil {
			if err == io.EOF && (r.r != r.w || r.swallowed > 0) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// take consumes the line whose LF is at offset lf of the buffered octets.
func (r *Reader) take(lf, limit int) ([]byte, error) {
	line := r.buf[r.r : r.r+lf+1]
	r.r += lf + 1
	if len(line) > limit {
		return nil, ErrLineTooLong
	}
	if cr := bytes.IndexByte(line, '\r'); cr != lf-1 || lf == 0 {
		return nil, ErrBareNewline
	}
	return line[:lf-1], nil
}

// swallow drops the beginning of an overlong line. Where it ends is all that is
// still asked of it, so a LF is enough to find it.
func (r *Reader) swallow(window []byte) {
	r.swallowed = len(window)
	r.r = r.w
}

// swallowOn drops more of an overlong line, and says when its end was found.
func (r *Reader) swallowOn(window []byte) (done bool, err error) {
	if i := bytes.IndexByte(window, '\n'); i >= 0 {
		r.r += i + 1
		r.swallowed = 0
		return true, ErrLineTooLong
	}
	r.swallowed += len(window)
	r.r = r.w
	if r.swallowed > swallowLimit {
		return true, ErrLineEndless
	}
	return false, nil
}
