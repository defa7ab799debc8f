package session

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// A reference is a server that answers by the letter of RFC 5321 and RFC 3030,
// and remembers what it was told.
type reference struct {
	conn *net.TCPConn
	link net.Conn    // conn, or the TLS over it
	tls  *tls.Config // nil: STARTTLS is not offered
	// judges: it refuses itself what a rule would have refused in front of it.
	judges bool
	r      *bufio.Reader
	w      *bytes.Buffer
	slow   time.Duration // it takes to think about a message
	cut    int           // commands after which it goes away; <0: never
	how    func(*reference)

	asked     string   // what the next reply answers
	heard     []string // commands and content
	envelopes []string // messages accepted
	given     []string // marks of the replies that said so

	secure  bool
	greeted bool
	known   bool // by AUTH

	from   string
	rcpts  []string
	chunks string
	chunky bool // BDAT has begun
	failed bool // and gone wrong
	broken bool // a chunk was refused in this conversation
}

func (s *reference) serve() {
	defer s.conn.Close()
	s.conn.SetDeadline(time.Now().Add(20 * time.Second))
	s.use(s.conn)
	s.w = new(bytes.Buffer)
	s.say("220 reference.example")
	for n := 0; ; n++ {
		if s.r.Buffered() == 0 || n == s.cut {
			if !s.flush() {
				return
			}
		}
		if n == s.cut {
			s.how(s)
			return
		}
		line, err := s.r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSuffix(line, "\r\n")
		s.heard = append(s.heard, line)
		s.asked = line
		if !s.answer(line) {
			s.flush()
			if line == "QUIT" { // what is still said must not reset the last reply
				s.conn.CloseWrite()
				io.Copy(io.Discard, s.conn)
			}
			return
		}
	}
}

func (s *reference) use(link net.Conn) { s.link, s.r = link, bufio.NewReader(link) }

func (s *reference) flush() bool {
	_, err := s.link.Write(s.w.Bytes())
	s.w.Reset()
	return err == nil
}

// verdictDomain is one that a rule does not allow here.
const verdictDomain = "@verdict.example>"

// say gives a reply, with a mark in it that tells it from all others.
func (s *reference) say(reply string) {
	s.w.WriteString(reply + " " + markOf(s.asked) + "\r\n")
}

// markOf is how a reply of the reference says what it answers.
func markOf(asked string) string { return "(" + asked + ")" }

func (s *reference) reset() {
	s.from, s.rcpts, s.chunks, s.chunky, s.failed = "", nil, "", false, false
}

func (s *reference) answer(line string) bool {
	verb, arg, _ := strings.Cut(line, " ")
	refused := strings.Contains(arg, "no-") || s.judges && strings.Contains(arg, verdictDomain)
	switch verb {
	case "EHLO":
		s.greeted = true
		s.reset()
		s.say(s.capabilities())
	case "HELO":
		s.greeted = true
		s.reset()
		s.say("250 reference.example")
	case "RSET":
		s.reset()
		s.say("250 reference.example")
	case "MAIL":
		switch {
		case s.from != "" || !s.greeted:
			s.say("503 nested")
		case refused:
			s.say("550 sender")
		default:
			s.from = arg
			s.say("250 sender")
		}
	case "RCPT":
		switch {
		case s.from == "" || s.chunky:
			s.say("503 no")
		case refused:
			s.say("550 recipient")
		default:
			s.rcpts = append(s.rcpts, arg)
			s.say("250 recipient")
		}
	case "DATA":
		return s.data()
	case "BDAT":
		return s.bdat(arg)
	case "NOOP":
		s.say("250 noop")
	case "HELP":
		s.say("214-help\r\n214 yourself")
	case "VRFY":
		if s.greeted {
			s.say("252 perhaps")
		} else {
			s.say("503 no")
		}
	case "STARTTLS":
		return s.startTLS()
	case "AUTH":
		return s.auth(refused)
	case "QUIT":
		s.say("221 bye")
		return false
	default:
		s.say("500 what")
	}
	return true
}

func (s *reference) capabilities() string {
	switch {
	case s.tls == nil:
		return "250-reference.example\r\n250-PIPELINING\r\n250 CHUNKING"
	case s.secure:
		return "250-reference.example\r\n250-PIPELINING\r\n250-AUTH LOGIN\r\n250 CHUNKING"
	}
	return "250-reference.example\r\n250-PIPELINING\r\n250-STARTTLS\r\n250 CHUNKING"
}

func (s *reference) startTLS() bool {
	switch {
	case s.tls == nil:
		s.say("502 no")
		return true
	case s.secure || s.from != "" || !s.greeted:
		s.say("503 no")
		return true
	}
	s.say("220 go")
	if !s.flush() || s.r.Buffered() > 0 {
		return false
	}
	link := tls.Server(s.conn, s.tls)
	if link.Handshake() != nil {
		return false
	}
	s.secure, s.greeted = true, false
	s.reset()
	s.use(link)
	return true
}

// auth holds the dialogue of AUTH LOGIN.
func (s *reference) auth(refused bool) bool {
	switch {
	case s.tls == nil || !s.secure:
		s.say("538 no")
		return true
	case s.known || s.from != "" || !s.greeted:
		s.say("503 no")
		return true
	}
	for _, ask := range []string{"334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6"} {
		s.say(ask)
		s.flush()
		answer, err := s.r.ReadString('\n')
		if err != nil {
			return false
		}
		s.heard = append(s.heard, strings.TrimSuffix(answer, "\r\n"))
		if answer == "*\r\n" {
			s.say("501 as you like")
			return true
		}
	}
	if s.known = !refused; s.known {
		s.say("235 welcome")
	} else {
		s.say("535 no")
	}
	return true
}

func (s *reference) data() bool {
	if len(s.rcpts) == 0 || s.chunky {
		s.say("503 no")
		return true
	}
	s.say("354 go")
	s.flush()
	var content string
	for !strings.HasSuffix(content, "\r\n.\r\n") {
		line, err := s.r.ReadString('\n')
		if err != nil {
			return false
		}
		content += line
	}
	s.accept(content)
	return true
}

func (s *reference) bdat(arg string) bool {
	size, last, _ := strings.Cut(arg, " ")
	n, err := strconv.Atoi(size)
	chunk := make([]byte, n)
	if err != nil {
		return false
	}
	if _, err := io.ReadFull(s.r, chunk); err != nil {
		return false
	}
	s.broken = s.broken || len(s.rcpts) == 0 || bytes.Contains(chunk, []byte("no-"))
	switch {
	case len(s.rcpts) == 0 || s.failed:
		s.say("503 no")
	case bytes.Contains(chunk, []byte("no-")):
		s.chunky, s.failed = true, true
		s.say("554 chunk")
	case last == "":
		s.chunky, s.chunks = true, s.chunks+string(chunk)
		s.say("250 chunk")
	default:
		s.accept(s.chunks + string(chunk))
	}
	return true
}

// accept ends the transaction with content.
func (s *reference) accept(content string) {
	time.Sleep(s.slow)
	if strings.Contains(content, "no-") {
		s.say("554 message")
	} else {
		mark := fmt.Sprintf("queued-%d", len(s.given))
		s.envelopes = append(s.envelopes, fmt.Sprintf("%s %s %q", s.from, s.rcpts, content))
		s.given = append(s.given, mark)
		s.say("250 " + mark)
	}
	s.reset()
}
