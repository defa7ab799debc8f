package smtpwire

import "errors"

// What a peer can do wrong on the wire. All are final for the connection but
// ErrLineTooLong, after which the next line can be read.
var (
	// ErrLineTooLong: a line exceeded its limit and was swallowed whole.
	ErrLineTooLong = errors.New("line too long")
	// ErrLineEndless: a line exceeded its limit and went on without end.
	ErrLineEndless = errors.New("line without end")
	// ErrBareNewline: a CR or LF that is not part of CRLF (RFC 5321 §2.3.8).
	ErrBareNewline = errors.New("bare CR or LF")
	// ErrReplySyntax: what the server said is no reply (RFC 5321 §4.2).
	ErrReplySyntax = errors.New("malformed reply")
	// ErrReplyTooLong: a reply of more lines than allowed.
	ErrReplyTooLong = errors.New("reply has too many lines")
)

// A SyntaxError is a command that cannot be understood; Error says which part.
type SyntaxError string

func (e SyntaxError) Error() string { return string(e) }
