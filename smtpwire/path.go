package smtpwire

import (
	"bytes"
	"net/netip"
	"strings"
)

// A Path is the address in MAIL FROM or RCPT TO. The local part is not kept: no
// rule looks at it and no log may have it.
type Path struct {
	Null    bool   // <>
	Domain  string // as it stands, may hold UTF-8 (RFC 6531); "" for Null and <postmaster>
	Literal bool   // Domain is an address literal, with its brackets
}

// A Param is one esmtp-param of MAIL or RCPT.
type Param struct {
	Keyword string // upper case
	Value   string
}

// ParseMail reads the argument of MAIL: "FROM:<path> params".
func ParseMail(arg []byte) (Path, []Param, error) { return parsePath(arg, "FROM:") }

// ParseRcpt reads the argument of RCPT: "TO:<path> params".
func ParseRcpt(arg []byte) (Path, []Param, error) { return parsePath(arg, "TO:") }

// parsePath follows RFC 5321 §4.1.2, and beyond it what devices send and servers
// take: spaces behind the colon and an address without angle brackets. What it
// cannot parse must never be forwarded, for the server might read another domain
// out of it than was judged; that is why it is strict about everything else.
func parsePath(arg []byte, prefix string) (path Path, params []Param, err error) {
	if len(arg) < len(prefix) || !bytes.EqualFold(arg[:len(prefix)], []byte(prefix)) {
		return path, nil, SyntaxError(prefix + "<address> expected")
	}
	s := scanner{rest: bytes.TrimLeft(arg[len(prefix):], " ")}
	angled := s.skip('<')
	switch {
	case angled && s.skip('>'):
		path.Null = prefix == "FROM:"
		if !path.Null {
			return path, nil, SyntaxError("empty recipient")
		}
	default:
		if angled && s.peek() == '@' {
			err = s.sourceRoute()
		}
		if err == nil {
			err = s.mailbox(&path, prefix == "TO:" && angled)
		}
		if err == nil && angled && !s.skip('>') {
			err = SyntaxError("\">\" expected behind the address")
		}
	}
	if err == nil {
		params, err = s.params()
	}
	return path, params, err
}

type scanner struct{ rest []byte }

func (s *scanner) peek() byte {
	if len(s.rest) == 0 {
		return 0
	}
	return s.rest[0]
}

func (s *scanner) skip(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

// take consumes the octets for which ok holds.
func (s *scanner) take(ok func(byte) bool) []byte {
	n := 0
	for n < len(s.rest) && ok(s.rest[n]) {
		n++
	}
	taken := s.rest[:n]
	s.rest = s.rest[n:]
	return taken
}

// sourceRoute passes over "@one,@two:" (RFC 5321 Appendix C): obsolete, and
// judged by the final domain alone.
func (s *scanner) sourceRoute() error {
	for s.skip('@') {
		if len(s.take(domainByte)) == 0 {
			return SyntaxError("domain expected in source route")
		}
		if s.skip(':') {
			return nil
		}
		if !s.skip(',') {
			break
		}
	}
	return SyntaxError("malformed source route")
}

// mailbox reads local-part "@" domain; a bare local part only where it is
// postmaster (RFC 5321 §4.1.1.3) .
func (s *scanner) mailbox(path *Path, postmaster bool) error {
	var local []byte
	if s.skip('"') {
		if err := s.quoted(); err != nil {
			return err
		}
	} else if local = s.take(localByte); len(local) == 0 {
		return SyntaxError("address expected")
	}
	if !s.skip('@') {
		if postmaster && bytes.EqualFold(local, []byte("postmaster")) {
			return nil
		}
		return SyntaxError("\"@\" expected behind the local part")
	}
	if s.peek() == '[' {
		return s.literal(path)
	}
	domain := s.take(domainByte)
	if len(domain) == 0 || len(domain) > 255 {
		return SyntaxError("domain expected")
	}
	if domain[0] == '.' || bytes.Contains(domain, []byte("..")) {
		return SyntaxError("empty label in domain")
	}
	path.Domain = string(domain)
	return nil
}

func (s *scanner) quoted() error {
	for len(s.rest) > 0 {
		c := s.rest[0]
		s.rest = s.rest[1:]
		switch c {
		case '"':
			return nil
		case '\\':
			if len(s.rest) == 0 {
				return SyntaxError("quoted local part without end")
			}
			s.rest = s.rest[1:]
		}
	}
	return SyntaxError("quoted local part without end")
}

func (s *scanner) literal(path *Path) error {
	text := s.take(func(c byte) bool { return c != ']' && c > ' ' && c != '<' && c != '>' && c != '@' })
	if !s.skip(']') {
		return SyntaxError("\"]\" expected behind the address literal")
	}
	if !isAddress(string(text[1:])) {
		// Some servers take a name in brackets for the host of that name, which
		// would have it pass for no domain here.
		return SyntaxError("address expected in brackets")
	}
	path.Domain, path.Literal = string(text)+"]", true
	return nil
}

// isAddress reports whether text is what RFC 5321 §4.1.3 has in an address
// literal: an IPv4 address, or "IPv6:" and one. No other kind was ever defined.
func isAddress(text string) bool {
	six, tagged := strings.CutPrefix(strings.ToLower(text), "ipv6:")
	a, err := netip.ParseAddr(six)
	return err == nil && a.Zone() == "" && a.Is6() == tagged
}

// params reads what follows the path. RFC 5321 §4.1.2: keyword, optionally "="
// and a value of visible characters but "=".
func (s *scanner) params() ([]Param, error) {
	var params []Param
	for len(s.rest) > 0 {
		if !s.skip(' ') {
			return nil, SyntaxError("space expected behind the address")
		}
		s.take(func(c byte) bool { return c == ' ' })
		if len(s.rest) == 0 {
			break
		}
		keyword := s.take(keywordByte)
		if len(keyword) == 0 || keyword[0] == '-' {
			return nil, SyntaxError("parameter expected behind the address")
		}
		p := Param{Keyword: string(bytes.ToUpper(keyword))}
		if s.skip('=') {
			p.Value = string(s.take(func(c byte) bool { return c > ' ' && c != '=' && c != 0x7f }))
			if p.Value == "" {
				return nil, SyntaxError("value expected behind \"=\"")
			}
		}
		params = append(params, p)
	}
	return params, nil
}

// localByte is what may stand in an unquoted local part: RFC 5321's atext and
// dots, UTF-8 (RFC 6531), and nothing that a server might take for a separator.
func localByte(c byte) bool {
	if c <= ' ' || c == 0x7f {
		return false
	}
	return bytes.IndexByte([]byte(`()<>[]:;@\,"`), c) < 0
}

// domainByte is LDH, dot, underscore (seen in the wild) and UTF-8.
func domainByte(c byte) bool {
	return keywordByte(c) || c == '.' || c == '_' || c >= 0x80
}

func keywordByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-'
}
