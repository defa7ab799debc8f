package session

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// A talker is a client that says steps.
type talker struct {
	conn   *net.TCPConn
	link   net.Conn // conn, or the TLS over it
	half   bool     // it ends by closing its way of sending, and not with QUIT
	r      *bufio.Reader
	pieces []int // sizes in which it sends
	event  int   // pieces after which before is called; <0: never
	before func(*talker)
	sent   int
	mute   bool // it says no more

	owed  []step // whose replies are still to come
	codes []int
	texts []string // the last line of each reply
	marks []string

	from      string // what the replies say that the server has
	rcpts     []string
	chunks    string
	envelopes []string
}

// talk says the steps and returns when all is answered or the session is over.
func (c *talker) talk(steps []step) {
	c.use(c.conn)
	c.conn.SetDeadline(time.Now().Add(20 * time.Second))
	c.owed = []step{{line: "banner"}}
	steps = append([]step{{line: "EHLO client.example", wait: true}}, steps...)
	if c.listen() == 0 {
		return
	}
	var pending string
	if !c.half {
		steps = append(steps, step{line: "QUIT", wait: true})
	}
	for _, s := range steps {
		pending += s.line + "\r\n"
		c.owed = append(c.owed, s)
		if strings.HasPrefix(s.line, "BDAT") {
			pending += s.content
		}
		if s.wait || s.line == "DATA" {
			c.send(pending)
			pending = ""
			code := c.listen()
			if code == 0 {
				return
			}
			switch {
			case s.line == "DATA" && code == 354:
				pending = s.content
				c.owed = append(c.owed, step{line: ".", content: s.content})
			case s.line == "STARTTLS" && code == 220 && !c.secure(), code == 334 && !c.answer(s.content):
				return
			}
		}
	}
	if c.half {
		c.send(pending)
		c.link.(interface{ CloseWrite() error }).CloseWrite()
		c.listen()
	}
}

func (c *talker) use(link net.Conn) { c.link, c.r = link, bufio.NewReader(link) }

func (c *talker) secure() bool {
	link := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true})
	c.use(link)
	return link.Handshake() == nil
}

// answer goes on with a dialogue of AUTH that was asked to.
func (c *talker) answer(lines string) bool {
	for line := range strings.Lines(lines) {
		c.owed = append(c.owed, step{line: "answer"})
		c.send(line)
		switch c.listen() {
		case 0:
			return false
		case 334:
		default:
			return true
		}
	}
	return true
}

func (c *talker) send(text string) {
	for len(text) > 0 {
		if c.sent == c.event {
			c.before(c)
		}
		n := min(c.pieces[c.sent%len(c.pieces)], len(text))
		c.sent++
		if !c.mute {
			c.link.Write([]byte(text[:n])) // that it failed is heard
		}
		text = text[n:]
	}
}

// listen reads all replies that are owed and returns the code of the last, or 0
// when there are no more.
func (c *talker) listen() (code int) {
	for len(c.owed) > 0 {
		line, err := c.r.ReadString('\n')
		if err != nil || len(line) < 6 {
			return 0
		}
		if _, mark, ok := strings.Cut(strings.TrimSpace(line), "queued-"); ok {
			number, _, _ := strings.Cut(mark, " ")
			c.marks = append(c.marks, "queued-"+number)
		}
		if line[3] == '-' {
			continue
		}
		code, _ = strconv.Atoi(line[:3])
		c.codes, c.texts = append(c.codes, code), append(c.texts, strings.TrimSpace(line))
		c.believe(c.owed[0], code)
		c.owed = c.owed[1:]
	}
	return code
}

// believe keeps the envelope that the server must have, going by its replies.
func (c *talker) believe(s step, code int) {
	verb, arg, _ := strings.Cut(s.line, " ")
	if code/100 != 2 && verb != "." {
		return
	}
	switch verb {
	case "MAIL":
		c.from = arg
	case "RCPT":
		c.rcpts = append(c.rcpts, arg)
	case "BDAT", ".":
		c.chunks += s.content
	}
	whole := verb == "." || strings.HasSuffix(arg, "LAST")
	if whole && code == 250 {
		c.envelopes = append(c.envelopes, fmt.Sprintf("%s %s %q", c.from, c.rcpts, c.chunks))
	}
	if whole || verb == "EHLO" || verb == "HELO" || verb == "RSET" {
		c.from, c.rcpts, c.chunks = "", nil, ""
	}
}
