// Package wiretest plays one end of an SMTP conversation from a script, so that
// a test can be read as the dialogue it is about:
//
//	S: 220 mx.test ESMTP
//	C: EHLO client.test
//	S: 250-mx.test
//	S: 250 STARTTLS
//	C: STARTTLS
//	S: 220 go ahead
//	TLS
//	C: EHLO client.test
//	S~ 250[ -].*
//	C close
//
// Run as the server, the S lines are sent and the C lines are awaited; run as
// the client, the other way round. A script is one line a step:
//
//	C: text       a line, sent with CRLF and awaited exactly so
//	C> "a\x00\n"  raw bytes, quoted as in Go, with no CRLF but what is written
//	C~ regexp     a line that matches as a whole (without its CRLF); only awaited
//	C* 9 "a\r\n"  the same raw bytes, nine times; sent, the other end may hang
//	              up within them, and nobody minds what is sent behind
//	C close       closes the connection; awaited, it has ended, cleanly or not
//	C half        closes its way of sending; awaited, nothing more comes
//	TLS           both shake hands
//	TLS fails     the handshake does not succeed; what follows is in clear
//	# text        a remark; empty lines are passed over too
//
// Lines sent one after the other go out in one write, as pipelining clients do
// it. What comes must be exactly what the script says: every byte is compared,
// bytes in front of a TLS step or behind the last step are a mismatch, and each
// read and write has a deadline.
//
// For peers that are hostile there is more. Where the two ends are not connected
// to each other but to something in between, each runs a script of its own, and
// they can wait for each other:
//
//	TLS 1.0       the handshake goes by the configuration of that name
//	TLS cut 1     and its bytes are sent one by one; "TLS 1.0 cut 5 fails"
//	C tells X     lets whoever waits for X go on; not a thing on the wire
//	C waits X     waits for that
//	C drips "ab"  sends raw bytes one at a time, each when nothing has come of the
//	              one before; the other end must hang up before the last
//	C clear "ab"  sends raw bytes in clear on a connection that is in TLS
//	C record 21 "\x02\x2a"
//	              a TLS record of a type (21 alert, 22 handshake, 23 data): in
//	              clear before the handshake, encrypted behind it, where nothing
//	              but records can be sent after it; awaited, in clear alone, and
//	              without a string whatever the record holds
//
// It knows nothing of SMTP but the look of a line: whether a script makes sense
// is for its author to know. It is not a server; see proxytest for one.
package wiretest

import (
	"fmt"
	"regexp"
	"strings"
)

// Side is an end of a conversation.
type Side byte

// The two ends.
const (
	Client Side = 'C'
	Server Side = 'S'
)

// String returns "client" or "server".
func (s Side) String() string {
	if s == Client {
		return "client"
	}
	return "server"
}

type kind uint8

const (
	exact    kind = iota // bytes, with the CRLF of a line
	matching             // a line that matches
	repeated             // bytes, many times
	closing
	halfClosing
	handshake
	handshakeFails
	telling
	waiting
	dripping
	recording // a TLS record
	bypassing // raw bytes on the socket, below TLS
)

// step is one line of a script.
type step struct {
	line    int // from 1
	kind    kind
	side    Side // 0 for both
	bytes   []byte
	isLine  bool // of exact: it came from a "C:" line
	pattern *regexp.Regexp
	count   int    // of repeated; of a handshake, the bytes a write, 0 for all
	name    string // of a configuration, or of what is told
	record  byte   // the type
	any     bool   // of a record: whatever it holds
}

// Script is a parsed script; it may be run any number of times.
type Script struct {
	lines []string // as written, for showing
	steps []step
}

// Parse reads a script. The error names the line and what is wrong with it.
func Parse(text string) (*Script, error) {
	s := &Script{lines: strings.Split(text, "\n")}
	for i, line := range s.lines {
		// Scripts are indented like the test around them.
		line = strings.TrimLeft(line, " \t")
		s.lines[i] = line
		if strings.TrimSpace(line) == "" || line[0] == '#' {
			continue
		}
		st, err := parseStep(line)
		if err != nil {
			return nil, fmt.Errorf("wiretest: line %d: %w", i+1, err)
		}
		st.line = i + 1
		s.steps = append(s.steps, st)
	}
	return s, nil
}
