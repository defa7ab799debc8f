package proxytest

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// Line is one line of a conversation.
type Line struct {
	From byte // 'C' or 'S'
	TLS  bool
	Text string // without line ending; content is only counted
}

// String returns the line as "S: 250 ok", within TLS as "S* 250 ok".
func (l Line) String() string {
	mark := ":"
	if l.TLS {
		mark = "*"
	}
	return string(l.From) + mark + " " + l.Text
}

// Client is an SMTP client for tests. It does what it is told and checks what
// it hears, and keeps all of it. It is for one goroutine. Any error of a method
// leaves it unusable, but for Transcript and Close.
type Client struct {
	raw     net.Conn
	conn    net.Conn
	in      *bufio.Reader
	timeout time.Duration
	tls     *tls.ConnectionState
	lines   []Line
	offers  map[string]string
}

// NewClient returns a client on a connection, which it then owns. timeout
// bounds each read and write; 0 means 5 minutes. The greeting is not yet read.
func NewClient(conn net.Conn, timeout time.Duration) *Client {
	if timeout == 0 {
		timeout = defaultTimeout
	}
	return &Client{raw: conn, conn: conn, in: bufio.NewReaderSize(conn, bufferSize), timeout: timeout}
}

// Transcript returns all that was said until now.
func (c *Client) Transcript() []Line { return c.lines }

// ConnectionState returns the state of TLS, nil without TLS.
func (c *Client) ConnectionState() *tls.ConnectionState { return c.tls }

// Close closes the connection without a word.
func (c *Client) Close() error { return c.raw.Close() }

// Write sends bytes as they are, in one piece. The transcript counts them.
func (c *Client) Write(p []byte) (int, error) {
	c.note('C', fmt.Sprintf("(%d bytes)", len(p)))
	return c.send(p)
}

func (c *Client) send(p []byte) (int, error) {
	if err := c.raw.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.conn.Write(p)
}

func (c *Client) note(from byte, text string) {
	c.lines = append(c.lines, Line{From: from, TLS: c.tls != nil, Text: text})
}

// ReadReply reads the next reply: the greeting, or what Write asked for. A
// reply that is none gives [ErrReply].
func (c *Client) ReadReply() (Reply, error) {
	if err := c.raw.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return Reply{}, err
	}
	return readReply(c.in, func(line string) { c.note('S', line) })
}

// Command sends a line and reads the reply.
func (c *Client) Command(line string) (Reply, error) {
	replies, err := c.Pipeline(line)
	if err != nil {
		return Reply{}, err
	}
	return replies[0], nil
}

// Pipeline sends lines in one piece and reads as many replies. If one is
// missing, those before it are returned with the error.
func (c *Client) Pipeline(lines ...string) ([]Reply, error) {
	for _, line := range lines {
		c.note('C', line)
	}
	if _, err := c.send([]byte(strings.Join(lines, "\r\n") + "\r\n")); err != nil {
		return nil, err
	}
	var replies []Reply
	for range lines {
		reply, err := c.ReadReply()
		if err != nil {
			return replies, err
		}
		replies = append(replies, reply)
	}
	return replies, nil
}

// Hello says EHLO or HELO under a name. What a 250 to EHLO offers is remembered.
func (c *Client) Hello(verb, name string) (Reply, error) {
	reply, err := c.Command(verb + " " + name)
	if err != nil || !reply.OK() {
		return reply, err
	}
	c.offers = map[string]string{}
	if strings.EqualFold(verb, "EHLO") {
		for _, line := range reply.Lines[1:] {
			word, params, _ := strings.Cut(line, " ")
			c.offers[strings.ToUpper(word)] = params
		}
	}
	return reply, nil
}

// Offers tells whether the last EHLO offered a capability, and its parameters.
func (c *Client) Offers(word string) (params string, ok bool) {
	params, ok = c.offers[strings.ToUpper(word)]
	return params, ok
}

// StartTLS says STARTTLS and, after a 220, shakes hands. An error that is no
// reply's fault wraps what crypto/tls says. What the server offered before is
// forgotten (RFC 3207 §4.2). In TLS 1.3 a server that refuses the client's
// certificate is only heard of by the next read.
func (c *Client) StartTLS(config *tls.Config) (Reply, error) {
	reply, err := c.Command("STARTTLS")
	if err != nil || reply.Code != 220 {
		return reply, err
	}
	if n := c.in.Buffered(); n > 0 {
		ahead, _ := c.in.Peek(n)
		return reply, fmt.Errorf("starttls: %d bytes behind the 220: %q", n, ahead)
	}
	if err := c.raw.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return reply, err
	}
	conn := tls.Client(c.raw, config)
	if err := conn.Handshake(); err != nil {
		return reply, fmt.Errorf("starttls: handshake: %w", err)
	}
	state := conn.ConnectionState()
	c.conn, c.in, c.tls, c.offers = conn, bufio.NewReaderSize(conn, bufferSize), &state, nil
	return reply, nil
}

// Quit says QUIT, reads the reply and closes the connection.
func (c *Client) Quit() (Reply, error) {
	reply, err := c.Command("QUIT")
	return reply, errors.Join(err, c.Close())
}
