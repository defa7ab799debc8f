package smtpwire

import "bytes"

// A Verb is a command's first word in upper case.
type Verb string

// The verbs whose framing is known. Anything else is Unknown: what cannot be
// framed is not passed on.
const (
	Unknown  Verb = ""
	EHLO     Verb = "EHLO"
	HELO     Verb = "HELO"
	MAIL     Verb = "MAIL"
	RCPT     Verb = "RCPT"
	DATA     Verb = "DATA"
	BDAT     Verb = "BDAT" // RFC 3030
	RSET     Verb = "RSET"
	VRFY     Verb = "VRFY"
	EXPN     Verb = "EXPN"
	HELP     Verb = "HELP"
	NOOP     Verb = "NOOP"
	QUIT     Verb = "QUIT"
	AUTH     Verb = "AUTH"     // RFC 4954
	STARTTLS Verb = "STARTTLS" // RFC 3207
	ETRN     Verb = "ETRN"     // RFC 1985
	TURN     Verb = "TURN"     // RFC 821, withdrawn
	ATRN     Verb = "ATRN"     // RFC 2645
	XCLIENT  Verb = "XCLIENT"  // of Postfix, as is the next
	XFORWARD Verb = "XFORWARD"
)

var verbs = func() map[string]Verb {
	m := make(map[string]Verb)
	for _, v := range []Verb{EHLO, HELO, MAIL, RCPT, DATA, BDAT, RSET, VRFY, EXPN,
		HELP, NOOP, QUIT, AUTH, STARTTLS, ETRN, TURN, ATRN, XCLIENT, XFORWARD} {
		m[string(v)] = v
	}
	return m
}()

// A Command is one line of a client. Its fields are parts of the line and stay
// valid as long as that does.
type Command struct {
	Verb Verb
	Arg  []byte // what follows the verb, without the spaces around it
	Line []byte // the whole line, without CRLF
}

// ParseCommand takes a line apart. The verb is the whole first word (RFC 5321
// §4.1.1): "DATAX" is unknown and not DATA. A control character anywhere is a
// SyntaxError, for it has no place in any command and servers disagree on it.
func ParseCommand(line []byte) (Command, error) {
	for _, c := range line {
		if c < ' ' && c != '\t' || c == 0x7f {
			return Command{Line: line}, SyntaxError("control character in command")
		}
	}
	word, arg, _ := bytes.Cut(line, []byte(" "))
	if len(word) > longestVerb {
		return Command{Arg: arg, Line: line}, nil
	}
	upper := upperCase(word)
	return Command{
		Verb: verbs[string(upper[:len(word)])],
		Arg:  bytes.Trim(arg, " \t"),
		Line: line,
	}, nil
}

// longestVerb is how long a word may be, in octets, that one is looked for in.
const longestVerb = 8

// upperCase gives a word of at most longestVerb octets in upper case.
func upperCase(word []byte) (upper [longestVerb]byte) {
	for i, c := range word {
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		upper[i] = c
	}
	return upper
}

// Foreign reports whether the first octets of a connection, or of a line within
// one, belong to another protocol: a TLS record, HTTP (cross-protocol attacks
// make browsers speak to port 25), or anything that no command begins with. Such
// a peer is hung up on, since its following lines are no commands either.
func Foreign(line []byte) bool {
	if len(line) == 0 {
		return false
	}
	if c := line[0]; c < ' ' && c != '\r' && c != '\n' && c != '\t' || c >= 0x7f {
		return true
	}
	word, _, _ := bytes.Cut(line, []byte(" "))
	if len(word) > longestVerb {
		return false
	}
	upper := upperCase(word)
	switch string(upper[:len(word)]) {
	case "GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "CONNECT", "PATCH":
		return true
	}
	return false
}

// ParseBDAT reads the argument of BDAT (RFC 3030 §2): a chunk size in octets and
// optionally LAST. After a SyntaxError the connection cannot go on, since nobody
// knows how many octets of content follow.
func ParseBDAT(arg []byte) (size int64, last bool, err error) {
	digits, rest, _ := bytes.Cut(arg, []byte(" "))
	if len(digits) == 0 || len(digits) > 18 { // 18 digits cannot overflow an int64
		return 0, false, SyntaxError("chunk size expected")
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false, SyntaxError("chunk size expected")
		}
		size = size*10 + int64(c-'0')
	}
	switch rest = bytes.Trim(rest, " \t"); {
	case len(rest) == 0:
		return size, false, nil
	case bytes.EqualFold(rest, []byte("LAST")):
		return size, true, nil
	}
	return 0, false, SyntaxError("LAST or nothing expected behind the chunk size")
}

// HeloName checks the argument of EHLO and HELO. RFC 5321 §4.1.1.1 asks for a
// domain or address literal; devices send all kinds of names, so anything that
// is one word of visible characters and at most 255 octets will do.
func HeloName(arg []byte) (string, error) {
	if len(arg) == 0 {
		return "", SyntaxError("name expected")
	}
	if len(arg) > 255 {
		return "", SyntaxError("name too long")
	}
	for _, c := range arg {
		if c <= ' ' || c == 0x7f {
			return "", SyntaxError("name is not one word")
		}
	}
	return string(arg), nil
}
