package session

import (
	"bufio"
	"bytes"
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
	r    *bufio.Reader
	w    *bytes.Buffer
	slow time.Duration // it takes to think about a message
	cut  int           // commands after which it goes away; <0: never
	how  func(*reference)

	heard     []string // commands and content
	envelopes []string // messages accepted
	given     []string // marks of the replies that said so

	from   string
	rcpts  []string
	chunks string
	chunky bool // BDAT has begun
	failed bool // and gone wrong
}

func (s *reference) serve() {
	defer s.conn.Close()
	s.conn.SetDeadline(time.Now().Add(20 * time.Second))
	s.r, s.w = bufio.NewReader(s.conn), new(bytes.Buffer)
	s.say("220 reference.example")
	for n := 0; ; n++ {
		if s.r.Buffered() == 0 || n == s.cut {
			if _, err := s.conn.Write(s.w.Bytes()); err != nil {
				return
			}
			s.w.Reset()
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
		if !s.answer(line) {
			s.conn.Write(s.w.Bytes())
			return
		}
	}
}

func (s *reference) say(reply string) { s.w.WriteString(reply + "\r\n") }

func (s *reference) reset() {
	s.from, s.rcpts, s.chunks, s.chunky, s.failed = "", nil, "", false, false
}

func (s *reference) answer(line string) bool {
	verb, arg, _ := strings.Cut(line, " ")
	refused := strings.Contains(arg, "no-")
	switch verb {
	case "EHLO":
		s.reset()
		s.say("250-reference.example\r\n250-PIPELINING\r\n250 CHUNKING")
	case "HELO", "RSET":
		s.reset()
		s.say("250 reference.example")
	case "MAIL":
		switch {
		case s.from != "":
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
	case "VRFY":
		s.say("252 perhaps")
	case "QUIT":
		s.say("221 bye")
		return false
	default:
		s.say("500 what")
	}
	return true
}

func (s *reference) data() bool {
	if len(s.rcpts) == 0 || s.chunky {
		s.say("503 no")
		return true
	}
	s.say("354 go")
	s.conn.Write(s.w.Bytes())
	s.w.Reset()
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
