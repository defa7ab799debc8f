package proxytest

import (
	"bytes"
	"fmt"
)

// Mail is a message to be sent by a [Client].
type Mail struct {
	From       string   // address without brackets
	FromParams string   // "SIZE=5 BODY=8BITMIME"
	To         []string // addresses without brackets
	ToParams   string   // for each
	Content    []byte

	// Pipelined sends MAIL, the RCPTs and DATA in one piece, and BDAT chunks
	// without waiting for replies. Whether that is offered is not looked at.
	Pipelined bool

	// Chunk is the size of BDAT chunks in bytes; 0 sends by DATA.
	Chunk int

	// Wire is sent in place of the content behind DATA's 354 as it is: what
	// ends the message must be part of it.
	Wire []byte
}

// Outcome is how a [Mail] fared. Replies that were not given because things had
// ended before are zero.
type Outcome struct {
	Mail Reply
	Rcpt []Reply // one a recipient, in order
	Data Reply   // to DATA; zero with BDAT
	End  Reply   // to the end of data: the one that counts
}

// Accepted tells whether the server took responsibility for the message.
func (o Outcome) Accepted() bool { return o.End.OK() }

func (o Outcome) recipients() int {
	n := 0
	for _, reply := range o.Rcpt {
		if reply.OK() {
			n++
		}
	}
	return n
}

// Send sends one message, without RSET in the end. A refusal is no error but
// stands in the outcome; the transaction is then reset with RSET so that
// another can be sent. Content that is sent by DATA and does not end in CRLF
// gets one, for there is no other way to say it; BDAT sends it exactly.
func (c *Client) Send(m Mail) (Outcome, error) {
	var o Outcome
	lines := []string{join("MAIL FROM:<"+m.From+">", m.FromParams)}
	for _, to := range m.To {
		lines = append(lines, join("RCPT TO:<"+to+">", m.ToParams))
	}
	if m.Chunk == 0 && m.Pipelined {
		lines = append(lines, "DATA")
	}
	replies, err := c.envelope(lines, m.Pipelined)
	for i, reply := range replies {
		switch {
		case i == 0:
			o.Mail = reply
		case i <= len(m.To):
			o.Rcpt = append(o.Rcpt, reply)
		default:
			o.Data = reply
		}
	}
	if err != nil {
		return o, err
	}
	if m.Chunk == 0 {
		return o, c.sendData(m, &o)
	}
	return o, c.sendChunks(m, &o)
}

func join(command, params string) string {
	if params == "" {
		return command
	}
	return command + " " + params
}

// envelope sends the commands, all at once or one by one. One by one, nothing
// is sent after a MAIL that was refused.
func (c *Client) envelope(lines []string, pipelined bool) ([]Reply, error) {
	if pipelined {
		return c.Pipeline(lines...)
	}
	var replies []Reply
	for _, line := range lines {
		reply, err := c.Command(line)
		if err != nil {
			return replies, err
		}
		replies = append(replies, reply)
		if len(replies) == 1 && !reply.OK() {
			break
		}
	}
	return replies, nil
}

func (c *Client) sendData(m Mail, o *Outcome) error {
	var err error
	if !m.Pipelined {
		if o.recipients() == 0 {
			return c.giveUp(*o)
		}
		if o.Data, err = c.Command("DATA"); err != nil {
			return err
		}
	}
	if o.Data.Code != 354 {
		return c.giveUp(*o)
	}
	wire := m.Wire
	switch {
	case wire != nil:
	case o.recipients() == 0:
		// RFC 2920 §3.1: a 354 without recipients is answered with nothing.
		wire = []byte(".\r\n")
	default:
		wire = stuff(m.Content)
	}
	if _, err := c.Write(wire); err != nil {
		return err
	}
	o.End, err = c.ReadReply()
	return err
}

// stuff prepares content for DATA: a dot that begins a line is doubled, and the
// line that ends it is added (RFC 5321 §4.5.2). Lines end with CRLF and nothing
// else.
func stuff(content []byte) []byte {
	out := bytes.ReplaceAll(content, []byte("\r\n."), []byte("\r\n.."))
	if bytes.HasPrefix(out, []byte(".")) {
		out = append([]byte("."), out...)
	}
	if len(out) > 0 && !bytes.HasSuffix(out, []byte("\r\n")) {
		out = append(out, "\r\n"...)
	}
	return append(out, ".\r\n"...)
}

func (c *Client) sendChunks(m Mail, o *Outcome) error {
	if o.recipients() == 0 {
		return c.giveUp(*o)
	}
	waiting := 0
	rest := m.Content
	for first := true; first || len(rest) > 0; first = false {
		chunk := rest[:min(m.Chunk, len(rest))]
		rest = rest[len(chunk):]
		command := fmt.Sprintf("BDAT %d", len(chunk))
		if len(rest) == 0 {
			command += " LAST"
		}
		c.note('C', command)
		// Command and chunk in one piece, the way senders do it.
		if _, err := c.Write(append([]byte(command+"\r\n"), chunk...)); err != nil {
			return err
		}
		waiting++
		if m.Pipelined && len(rest) > 0 {
			continue
		}
		for ; waiting > 0; waiting-- {
			reply, err := c.ReadReply()
			if err != nil {
				return err
			}
			o.End = reply
		}
		if !o.End.OK() {
			return c.giveUp(*o)
		}
	}
	return nil
}

// giveUp ends a transaction that was begun and refused.
func (c *Client) giveUp(o Outcome) error {
	if !o.Mail.OK() {
		return nil
	}
	_, err := c.Command("RSET")
	return err
}
