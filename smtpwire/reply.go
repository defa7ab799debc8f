package smtpwire

import "bytes"

// MaxReplyLine bounds one line of a reply, in octets with its CRLF. RFC 5321
// §4.5.3.1.5 allows 512; servers that list many AUTH mechanisms exceed it.
const MaxReplyLine = 2048

// A Reply is what a server said: one code, one or more lines.
type Reply struct {
	Code int    // 200 to 599
	Raw  []byte // all lines as they came, each with its CRLF
}

// Positive reports a 2yz code, Intermediate a 3yz.
func (r Reply) Positive() bool { return r.Code/100 == 2 }

// Intermediate reports a 3yz code: the server waits for more.
func (r Reply) Intermediate() bool { return r.Code/100 == 3 }

// Lines calls yield with the text of each line: what follows "250-" or "250 ".
func (r Reply) Lines(yield func(text []byte) bool) {
	for rest := r.Raw; len(rest) > 0; {
		line, after, _ := bytes.Cut(rest, []byte("\r\n"))
		rest = after
		text := line[min(4, len(line)):]
		if !yield(text) {
			return
		}
	}
}

// Text returns the text of the first line.
func (r Reply) Text() []byte {
	var first []byte
	r.Lines(func(text []byte) bool { first = text; return false })
	return first
}

// ReadReply reads one reply of at most maxLines lines, each of at most
// MaxReplyLine octets. Raw stays valid until the next call.
//
// RFC 5321 §4.2.1: every line of a reply has the same code. A code below 200 or
// above 599, a missing code, anything but SP, "-" or the end of the line behind
// it, or a NUL is ErrReplySyntax.
func (r *Reader) ReadReply(maxLines int) (Reply, error) {
	for {
		line, err := r.ReadLine(MaxReplyLine)
		if err != nil {
			return Reply{}, err // a call after a deadline goes on from here
		}
		code, more, ok := replyLine(line)
		if !ok || r.replyLines > 0 && code != r.reply.Code {
			return Reply{}, ErrReplySyntax
		}
		if r.replyLines == 0 {
			r.reply = Reply{Code: code, Raw: r.reply.Raw[:0]}
		}
		if r.replyLines++; r.replyLines > maxLines {
			return Reply{}, ErrReplyTooLong
		}
		r.reply.Raw = append(append(r.reply.Raw, line...), '\r', '\n')
		if !more {
			r.replyLines = 0
			reply := r.reply
			if cap(r.reply.Raw) > lineBuffer {
				r.reply.Raw = nil // a long EHLO reply need not be carried along
			}
			return reply, nil
		}
	}
}

// replyLine takes one line of a reply apart; more says that another follows.
func replyLine(line []byte) (code int, more, ok bool) {
	if len(line) < 3 || bytes.IndexByte(line, 0) >= 0 {
		return 0, false, false
	}
	for _, c := range line[:3] {
		if c < '0' || c > '9' {
			return 0, false, false
		}
		code = code*10 + int(c-'0')
	}
	if code < 200 || code > 599 {
		return 0, false, false
	}
	if len(line) == 3 {
		return code, false, true
	}
	return code, line[3] == '-', line[3] == '-' || line[3] == ' '
}
