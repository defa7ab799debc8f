package smtpwire

import "bytes"

// BareNewline says what Content does with a CR or LF that stands alone. Servers
// disagree on whether such a thing ends a line, and so on where a message ends:
// that is how messages are smuggled past a relay.
type BareNewline uint8

// The ways to deal with it.
const (
	Normalize  BareNewline = iota // it becomes CRLF
	RejectBare                    // it is ErrBareNewline
	PassBare                      // it passes, unless a dot stands alone between such
)

// contentState is where Content stands in a line, and what it holds back: octets
// that were consumed and whose meaning depends on what follows.
type contentState uint8

const (
	lineStart contentState = iota // behind CRLF, or at the beginning
	inLine                        //
	heldCR                        // "\r"
	heldCRs                       // "\r\r…", to become one CRLF
	heldDot                       // "." behind CRLF
	heldDotCR                     // ".\r" behind CRLF
	madeStart                     // behind a CRLF that Normalize made, or a newline that PassBare passed
	madeDot                       // "." there
	madeDotCR                     // ".\r…" there
)

// Content finds the end of the message content that follows a 354 to DATA, and
// deals with bare newlines on the way. The zero Content stands at the beginning
// and normalizes.
//
// The end is CRLF "." CRLF and nothing else (RFC 5321 §4.1.1.4). Content passes
// octet for octet otherwise: dots stay stuffed, and where Normalize makes a line
// that is a lone dot, that dot is stuffed, since it was no end of data. A run of
// CRs before LF becomes one CRLF: an empty line would end the header section.
//
// A dot at the beginning of a line with NUL behind it counts as a lone dot too: a
// server that keeps lines as strings of C sees nothing behind the dot. OpenSMTPD
// 6.8 and 7.4 end the message there.
//
// PassBare passes bare newlines as they are, but for the one thing that may not
// be left to the server's reading: a line that is a lone dot to a server that
// takes any CR or LF for the end of a line would end the message there, and what
// follows would be an envelope that nobody judged. That is refused.
type Content struct {
	Bare  BareNewline
	state contentState
	dirty int // octets in which there is something to look at
}

var (
	crlf    = []byte("\r\n")
	dotCRLF = []byte(".\r\n")
	stuffed = []byte("..\r\n")
	justCR  = []byte("\r")
	justLF  = []byte("\n")
	justDot = []byte(".")
	twoDots = []byte("..")
)

// Next looks at p, which continues the content. It consumed n octets of it, for
// which out is to be sent on; out is part of p or a constant. Call it until p is
// consumed or done, which says that out ends with the end of data.
//
// The only error is ErrBareNewline, under RejectBare and for a lone dot under
// PassBare; then nothing more may be sent, the end least of all.
func (c *Content) Next(p []byte) (out []byte, n int, done bool, err error) {
	if len(p) == 0 {
		return nil, 0, false, nil
	}
	switch c.state {
	case lineStart, inLine:
		return c.scan(p)
	case madeStart:
		c.state = inLine
		if p[0] == '.' {
			c.state = madeDot
			return nil, 1, false, nil
		}
		return c.scan(p)
	case heldCR:
		return c.afterCR(p[0])
	case heldCRs:
		return c.afterCRs(p[0], crlf)
	case heldDot:
		return c.afterDot(p[0])
	case heldDotCR:
		return c.afterDotCR(p[0])
	case madeDot:
		return c.afterMadeDot(p[0])
	}
	return c.afterCRs(p[0], stuffed) // madeDotCR
}

// scan passes over whole lines without copying, up to the first octet that has
// to be held back or replaced.
func (c *Content) scan(p []byte) (out []byte, n int, done bool, err error) {
	i := 0
	if c.dirty == 0 {
		i = c.clean(p)
	}
	defer func() { c.dirty = max(0, c.dirty-n) }()
	for i < len(p) {
		if c.state == lineStart && p[i] == '.' {
			if len(p)-i >= 3 && p[i+1] == '\r' && p[i+2] == '\n' {
				return p[:i+3], i + 3, true, nil
			}
			if len(p)-i < 2 || p[i+1] == '\r' || p[i+1] == '\n' || p[i+1] == 0 {
				c.state = heldDot
				return p[:i], i + 1, false, nil
			}
		}
		c.state = inLine
		line := p[i:min(len(p), i+lineWindow)]
		lf := bytes.IndexByte(line, '\n')
		if lf >= 0 {
			line = p[i : i+lf]
		}
		cr := bytes.IndexByte(line, '\r')
		switch {
		case cr >= 0 && cr == lf-1:
			i += lf + 1
			c.state = lineStart
		case cr >= 0:
			c.state = heldCR
			return p[:i+cr], i + cr + 1, false, nil
		case lf >= 0 && c.Bare == RejectBare:
			return nil, 0, false, ErrBareNewline
		case lf >= 0 && c.Bare == PassBare:
			c.state = madeStart
			return p[:i+lf+1], i + lf + 1, false, nil
		case lf >= 0 && i+lf > 0:
			return p[:i+lf], i + lf, false, nil // the line; its LF is the next p[0]
		case lf == 0:
			c.state = madeStart
			return crlf, 1, false, nil
		default:
			i += len(line)
		}
	}
	return p, len(p), false, nil
}

const (
	// lineWindow is how far ahead the end of a line is looked for, in octets, and
	// cleanWindow how many are found clean or not at once. Without the limits a
	// sender of bare newlines would have everything behind each of them looked
	// through again.
	lineWindow  = 1 << 10
	cleanWindow = 4 << 10
)

// clean passes over the whole lines that p begins with and in which there is
// nothing to look at, and returns how many octets they are. It is what nearly all
// content is, and so has to be quick. Most lines of a long message are as long as
// the one before: where one has its CRLF there, that is believed, until it is seen
// over many lines at once whether there are more CRs or LFs than lines.
func (c *Content) clean(p []byte) int {
	i, sure, lines, length := 0, 0, 0, 0
	atStart := c.state == lineStart
	for i < len(p) {
		if atStart && p[i] == '.' && (len(p)-i < 2 || p[i+1] == '\r' || p[i+1] == '\n' || p[i+1] == 0) {
			break
		}
		end := i + length
		if length < 2 || end > len(p) || p[end-1] != '\n' || p[end-2] != '\r' {
			length = bytes.IndexByte(p[i:min(len(p), i+lineWindow)], '\n') + 1
			end = i + length
			if length < 2 || p[end-2] != '\r' {
				break
			}
		}
		i = end
		lines++
		atStart = true
		if i-sure >= cleanWindow {
			if !c.hasLines(p[sure:i], lines) {
				return c.passed(sure)
			}
			sure, lines = i, 0
		}
	}
	if !c.hasLines(p[sure:i], lines) {
		return c.passed(sure)
	}
	return c.passed(i)
}

// hasLines reports whether p is so many lines and no CR or LF besides; if not it is
// to be looked at octet by octet.
func (c *Content) hasLines(p []byte, lines int) bool {
	if bytes.Count(p, justCR) == lines && bytes.Count(p, justLF) == lines {
		return true
	}
	c.dirty = len(p)
	return false
}

// passed notes that so many octets of whole lines were.
func (c *Content) passed(n int) int {
	if n > 0 {
		c.state = lineStart
	}
	return n
}

func (c *Content) afterCR(next byte) (out []byte, n int, done bool, err error) {
	switch {
	case next == '\n':
		c.state = lineStart
		return crlf, 1, false, nil
	case c.Bare == RejectBare:
		return nil, 0, false, ErrBareNewline
	case c.Bare == PassBare:
		c.state = madeStart
		return justCR, 0, false, nil
	}
	return c.afterCRs(next, crlf)
}

// afterCRs ends a line that ended with one or more CRs; end is what stands for
// it. A CR more changes nothing, and a LF belongs to them.
func (c *Content) afterCRs(next byte, end []byte) (out []byte, n int, done bool, err error) {
	if next == '\r' {
		c.state = heldCRs
		if len(end) == len(stuffed) {
			c.state = madeDotCR
		}
		return nil, 1, false, nil
	}
	if next == '\n' {
		c.state = lineStart // the last CR and this LF are a CRLF
		return end, 1, false, nil
	}
	c.state = madeStart
	return end, 0, false, nil
}

func (c *Content) afterDot(next byte) (out []byte, n int, done bool, err error) {
	switch {
	case next == '\r':
		c.state = heldDotCR
		return nil, 1, false, nil
	case next != '\n' && next != 0:
		c.state = inLine
		return justDot, 0, false, nil
	case c.Bare != Normalize:
		return nil, 0, false, ErrBareNewline
	case next == 0:
		c.state = inLine
		return twoDots, 0, false, nil
	}
	c.state = madeStart
	return stuffed, 1, false, nil
}

// afterMadeDot ends a dot behind what only some servers take for a newline.
func (c *Content) afterMadeDot(next byte) (out []byte, n int, done bool, err error) {
	switch {
	case next != '\r' && next != '\n' && next != 0:
		c.state = inLine
		return justDot, 0, false, nil
	case c.Bare == PassBare:
		return nil, 0, false, ErrBareNewline
	case next == 0:
		c.state = inLine
		return twoDots, 0, false, nil
	case next == '\r':
		c.state = madeDotCR
		return nil, 1, false, nil
	}
	c.state = madeStart
	return stuffed, 1, false, nil
}

func (c *Content) afterDotCR(next byte) (out []byte, n int, done bool, err error) {
	switch {
	case next == '\n':
		return dotCRLF, 1, true, nil
	case c.Bare != Normalize:
		return nil, 0, false, ErrBareNewline
	}
	return c.afterCRs(next, stuffed)
}
