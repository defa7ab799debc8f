package proxytest

import (
	"crypto/sha256"
	"hash"
)

// content takes in the bytes of one message.
type content struct {
	keep   bool
	bytes  []byte
	wire   []byte
	size   int64
	digest hash.Hash
	chunks []int64
}

func newContent(keep bool) *content { return &content{keep: keep, digest: sha256.New()} }

func (c *content) add(p []byte) {
	c.size += int64(len(p))
	c.digest.Write(p)
	if c.keep {
		c.bytes = append(c.bytes, p...)
	}
}

func (c *content) addWire(p []byte) {
	if c.keep {
		c.wire = append(c.wire, p...)
	}
}

// A taker is given the content of a message, and beside it the bytes as they came.
type taker interface {
	add(p []byte)
	addWire(p []byte)
}

// place is where in a line a dotReader stands.
type place uint8

const (
	atStart  place = iota // of a line
	inLine                // anywhere else
	afterCR               // behind a CR
	afterDot              // behind a dot that began a line
	afterDCR              // behind that and a CR
)

// dotReader takes the content of a DATA command apart (RFC 5321 §4.5.2): the
// dot that begins a line is taken off, the line that is nothing but a dot ends
// it. Only CRLF ends a line; a lone CR or LF is content. If lax, an LF ends a
// line too, as it does for some servers, to their sorrow.
type dotReader struct {
	lax  bool
	at   place
	into taker
}

// take reads from p and returns how many bytes of it belong to the content and
// whether it ended with them.
func (d *dotReader) take(p []byte) (n int, done bool) {
	from := 0 // of the bytes not yet added
	flush := func(to int) {
		if to > from {
			d.into.add(p[from:to])
		}
	}
	defer func() { d.into.addWire(p[:n]) }()
	for i, b := range p {
		switch {
		case d.at == atStart && b == '.':
			flush(i)
			from = i + 1
			d.at = afterDot
		case d.at == afterDot && b == '\r':
			// Held back: it is either part of the end or content.
			from = i + 1
			d.at = afterDCR
		case (d.at == afterDCR || d.at == afterDot && d.lax) && b == '\n':
			return i + 1, true
		default:
			if d.at == afterDCR {
				d.into.add([]byte("\r"))
				d.at = afterCR
			}
			d.at = d.next(b)
		}
	}
	flush(len(p))
	return len(p), false
}

func (d *dotReader) next(b byte) place {
	switch {
	case b == '\r':
		return afterCR
	case b == '\n' && (d.at == afterCR || d.lax):
		return atStart
	}
	return inLine
}
