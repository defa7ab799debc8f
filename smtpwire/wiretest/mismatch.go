package wiretest

import (
	"fmt"
	"strings"
)

const (
	around  = 3   // lines of the script shown before and behind
	maxShow = 300 // bytes shown of what was received
)

// Mismatch tells where the other end did not keep to the script.
type Mismatch struct {
	Line int    // of the script, from 1
	Side Side   // who was played
	Want string // what was expected, quoted or in words
	Got  []byte // what came; empty if nothing did
	At   int    // the first byte of Got that differs; -1 if that says nothing
	Err  error  // of the connection, if that was it

	script *Script
}

// Unwrap returns the error of the connection.
func (m *Mismatch) Unwrap() error { return m.Err }

// Error returns several lines: what was expected and what came, one below the
// other, and the script around.
func (m *Mismatch) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "wiretest: script line %d, as the %s\n", m.Line, m.Side)
	fmt.Fprintf(&b, "    expected %s\n", m.Want)
	switch {
	case len(m.Got) > 0:
		fmt.Fprintf(&b, "    received %s\n", quote(m.Got))
		if m.At >= 0 && m.At < maxShow {
			// Quoted, because that is what stands above.
			fmt.Fprintf(&b, "             %s^ byte %d\n", strings.Repeat(" ", len(quote(m.Got[:m.At]))-1), m.At)
		}
	default:
		b.WriteString("    received nothing\n")
	}
	if m.Err != nil {
		fmt.Fprintf(&b, "    because  %v\n", m.Err)
	}
	for n := max(1, m.Line-around); n <= min(len(m.script.lines), m.Line+around); n++ {
		mark := "  "
		if n == m.Line {
			mark = "=>"
		}
		fmt.Fprintf(&b, "  %s %3d  %s\n", mark, n, m.script.lines[n-1])
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func quote(p []byte) string {
	if len(p) > maxShow {
		return fmt.Sprintf("%q… (%d bytes)", p[:maxShow], len(p))
	}
	return fmt.Sprintf("%q", p)
}

func (p *player) mismatch(line int, want string, got []byte, err error) error {
	return &Mismatch{Line: line, Side: p.side, Want: want, Got: append([]byte(nil), got...), At: -1, Err: err, script: p.script}
}

// differs is the mismatch of bytes that were given exactly.
func (p *player) differs(st step, got []byte, err error) error {
	at := 0
	for at < len(got) && at < len(st.bytes) && got[at] == st.bytes[at] {
		at++
	}
	return &Mismatch{Line: st.line, Side: p.side, Want: quote(st.bytes), Got: got, At: at, Err: err, script: p.script}
}
