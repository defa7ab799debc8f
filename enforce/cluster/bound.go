package cluster

import (
	"bytes"
	"errors"
	"net"
	"strconv"
	"sync/atomic"
)

// What a server may say. A client library makes room for what is announced before
// it is there, so these are held where the octets come in.
const (
	mostBulk     = 256 << 10 // octets of one string; a record has some hundred, a policy may have thousands
	mostElements = 1 << 16   // of one array
	mostDepth    = 8         // of arrays in arrays
	mostLine     = 64 << 10  // octets of an error or a status
	mostReplies  = 64 << 20  // octets of all replies of a round trip
)

// errBound is what a connection comes to on which more was said, or something else
// than RESP 2.
var errBound = errors.New("the server said more than it may, or no Redis protocol")

// A bounded connection reads along and breaks off before more is believed.
type bounded struct {
	net.Conn
	budget *atomic.Int64 // octets that may still come; replenished by whoever asks
	at     position
	broken bool
}

// A position is where in a reply one is.
type position struct {
	line []byte // the line as far as it came; at most head of it
	long int    // its octets
	skip int64  // octets of a string that are still to come
	open []int  // elements still to come, of each array that one is in
}

const head = 24 // octets of a line that matter: a type and a length

func (c *bounded) Read(p []byte) (int, error) {
	if c.broken {
		return 0, errBound
	}
	n, err := c.Conn.Read(p)
	if c.budget.Add(int64(-n)) < 0 || !c.at.pass(p[:n]) {
		c.broken = true
		return 0, errBound
	}
	return n, err
}

// pass reports whether what came may be passed on.
func (a *position) pass(b []byte) bool {
	for len(b) > 0 {
		if a.skip > 0 {
			n := min(a.skip, int64(len(b)))
			a.skip -= n
			b = b[n:]
			continue
		}
		i := bytes.IndexByte(b, '\n')
		part := b
		if i >= 0 {
			part = b[:i+1]
		}
		a.line = append(a.line, part[:min(len(part), head-len(a.line))]...)
		if a.long += len(part); a.long > mostLine {
			return false
		}
		b = b[len(part):]
		if i < 0 {
			return true
		}
		if !a.announced() {
			return false
		}
		a.line, a.long = a.line[:0], 0
	}
	return true
}

// announced takes in a line that is there to its end.
func (a *position) announced() bool {
	kind := a.line[0]
	switch kind {
	case '+', '-', ':':
		a.element()
		return true
	case '$', '*':
	default:
		return false
	}
	n, err := strconv.ParseInt(string(bytes.TrimRight(a.line[1:], "\r\n")), 10, 64)
	switch {
	case err != nil || n < -1 || a.long >= head: // a number of which not all is here
		return false
	case n == -1: // null
		a.element()
	case kind == '$':
		if n > mostBulk {
			return false
		}
		a.skip = n + 2
		a.element()
	case n == 0:
		a.element()
	default:
		if n > mostElements || len(a.open) == mostDepth {
			return false
		}
		a.open = append(a.open, int(n))
	}
	return true
}

// element counts one that is complete, or is when what is skipped came, and with it
// the arrays whose last it was.
func (a *position) element() {
	for i := len(a.open) - 1; i >= 0; i-- {
		if a.open[i]--; a.open[i] > 0 {
			return
		}
		a.open = a.open[:i]
	}
}
