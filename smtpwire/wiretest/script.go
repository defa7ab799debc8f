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
//	C close       closes the connection; awaited, it has ended, cleanly or not
//	C half        closes its way of sending; awaited, nothing more comes
//	TLS           both shake hands
//	TLS fails     the handshake does not succeed; nothing can follow
//	# text        a remark; empty lines are passed over too
//
// Lines sent one after the other go out in one write, as pipelining clients do
// it. What comes must be exactly what the script says: every byte is compared,
// bytes in front of a TLS step or behind the last step are a mismatch, and each
// read and write has a deadline.
//
// It knows nothing of SMTP but the look of a line: whether a script makes sense
// is for its author to know. It is not a server; see proxytest for one.
package wiretest

import (
	"fmt"
	"regexp"
	"strconv"
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
	closing
	halfClosing
	handshake
	handshakeFails
)

// step is one line of a script.
type step struct {
	line    int // from 1
	kind    kind
	side    Side // 0 for both
	bytes   []byte
	isLine  bool // of exact: it came from a "C:" line
	pattern *regexp.Regexp
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
		if len(s.steps) > 0 && s.steps[len(s.steps)-1].kind == handshakeFails {
			return nil, fmt.Errorf("wiretest: line %d: nothing follows a failed handshake", i+1)
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

func parseStep(line string) (step, error) {
	switch strings.TrimSpace(line) {
	case "TLS":
		return step{kind: handshake}, nil
	case "TLS fails":
		return step{kind: handshakeFails}, nil
	}
	if len(line) < 2 || line[0] != byte(Client) && line[0] != byte(Server) {
		return step{}, fmt.Errorf("%q begins with neither C nor S nor TLS", line)
	}
	st := step{side: Side(line[0])}
	rest := strings.TrimPrefix(line[2:], " ")
	var err error
	switch line[1] {
	case ':':
		st.bytes, st.isLine = []byte(rest+"\r\n"), true
	case '>':
		var text string
		if text, err = strconv.Unquote(strings.TrimSpace(rest)); err != nil {
			return step{}, fmt.Errorf("%s is no Go string", rest)
		}
		st.bytes = []byte(text)
	case '~':
		st.kind = matching
		if st.pattern, err = regexp.Compile("^(?:" + rest + ")$"); err != nil {
			return step{}, err
		}
	case ' ':
		switch strings.TrimSpace(rest) {
		case "close":
			st.kind = closing
		case "half":
			st.kind = halfClosing
		default:
			return step{}, fmt.Errorf("%q is neither close nor half", rest)
		}
	default:
		return step{}, fmt.Errorf("%q is none of C: C> C~ C close", line)
	}
	return st, nil
}
