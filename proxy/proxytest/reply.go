package proxytest

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
)

const (
	maxReplyLine  = 4096
	maxReplyLines = 1000
)

// ErrReply means that what came is no SMTP reply (RFC 5321 §4.2).
var ErrReply = errors.New("proxytest: not an SMTP reply")

// Reply is an answer of a server.
type Reply struct {
	Code  int
	Lines []string // text of each line, without code and line ending
}

// String returns the reply as it came, lines separated by "\n".
func (r Reply) String() string {
	lines := make([]string, len(r.Lines))
	for i, text := range r.Lines {
		separator := "-"
		if i == len(r.Lines)-1 {
			separator = " "
		}
		lines[i] = fmt.Sprintf("%03d%s%s", r.Code, separator, text)
	}
	return strings.Join(lines, "\n")
}

// OK tells whether the reply is a 2xx.
func (r Reply) OK() bool { return r.Code/100 == 2 }

// readReply reads one reply. Each line must end in CRLF and bear the same code.
// heard is called for every line, without its ending.
func readReply(in *bufio.Reader, heard func(string)) (Reply, error) {
	var reply Reply
	for len(reply.Lines) < maxReplyLines {
		raw, err := in.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			if len(raw) > 0 {
				err = fmt.Errorf("%w: ended within the line %q: %w", ErrReply, raw, err)
			}
			return reply, err
		}
		line, ok := strings.CutSuffix(string(raw), "\r\n")
		if !ok || len(line) > maxReplyLine || strings.ContainsAny(line, "\r\n\x00") {
			return reply, fmt.Errorf("%w: line %q", ErrReply, raw)
		}
		heard(line)
		code, text, more, ok := splitReply(line)
		if !ok || len(reply.Lines) > 0 && code != reply.Code {
			return reply, fmt.Errorf("%w: line %q", ErrReply, raw)
		}
		reply.Code, reply.Lines = code, append(reply.Lines, text)
		if !more {
			return reply, nil
		}
	}
	return reply, fmt.Errorf("%w: more than %d lines", ErrReply, maxReplyLines)
}

func splitReply(line string) (code int, text string, more, ok bool) {
	if len(line) < 3 || line[0] < '2' || line[0] > '5' {
		return 0, "", false, false
	}
	for _, digit := range []byte(line[:3]) {
		if digit < '0' || digit > '9' {
			return 0, "", false, false
		}
		code = code*10 + int(digit-'0')
	}
	if len(line) == 3 {
		return code, "", false, true
	}
	return code, line[4:], line[3] == '-', line[3] == '-' || line[3] == ' '
}
