package proxytest

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// data is RFC 5321 §4.1.1.4.
func (c *conversation) data(args string) error {
	if err := c.alone("DATA"); err != nil {
		return err
	}
	switch {
	case args != "":
		return c.reply("501 5.5.4 DATA has no parameters")
	case c.message == nil || len(c.message.to) == 0:
		return c.reply("503 5.5.1 no valid recipients")
	case c.message.content != nil || c.message.binary:
		return c.reply("503 5.5.1 BDAT it is")
	}
	if skip, err := c.stage(AtData); skip || err != nil {
		return err
	}
	if err := c.reply("354 go ahead"); err != nil {
		return err
	}
	c.message.content = newContent(!c.config.Discard)
	if err := c.flush(); err != nil {
		return err
	}
	if _, err := c.stage(InContent); err != nil {
		return err
	}
	if err := c.readContent(); err != nil {
		return err
	}
	return c.endOfData()
}

func (c *conversation) readContent() error {
	reader := dotReader{lax: c.config.LaxEnd, into: c.message.content}
	for {
		if err := c.setDeadline(); err != nil {
			return err
		}
		if _, err := c.in.Peek(1); err != nil {
			return err
		}
		ahead, _ := c.in.Peek(c.in.Buffered())
		n, done := reader.take(ahead)
		if _, err := c.in.Discard(n); err != nil {
			return err
		}
		if done {
			return nil
		}
	}
}

// bdat is RFC 3030 §2. A chunk is read whatever the reply will be, for it is
// under way already.
func (c *conversation) bdat(args string) error {
	number, option, _ := strings.Cut(args, " ")
	size, err := strconv.ParseInt(number, 10, 62)
	last := strings.EqualFold(option, "LAST")
	if err != nil || size < 0 || option != "" && !last {
		return c.nonsense("BDAT %s", args)
	}
	refusal := ""
	switch {
	case !c.offered("CHUNKING"):
		c.violation("BDAT was not offered")
		refusal = "502 5.5.1 BDAT is not offered"
	case c.message == nil || len(c.message.to) == 0:
		refusal = "503 5.5.1 no valid recipients"
	}
	if refusal != "" {
		if _, err := io.CopyN(io.Discard, c.in, size); err != nil {
			return err
		}
		return c.reply(refusal)
	}
	first := c.message.content == nil
	if first {
		c.message.content = newContent(!c.config.Discard)
		if _, err := c.stage(InContent); err != nil {
			return err
		}
	}
	if err := c.readChunk(size); err != nil {
		return err
	}
	if first {
		if skip, err := c.stage(AtData); skip || err != nil {
			c.message = nil // RFC 3030 §2: the transaction is over
			return err
		}
	}
	if last {
		return c.endOfData()
	}
	return c.reply(fmt.Sprintf("250 2.0.0 %d octets", size))
}

func (c *conversation) readChunk(size int64) error {
	into := c.message.content
	into.chunks = append(into.chunks, size)
	buffer := make([]byte, min(size, bufferSize))
	for size > 0 {
		if err := c.setDeadline(); err != nil {
			return err
		}
		n, err := c.in.Read(buffer[:min(size, int64(len(buffer)))])
		into.add(buffer[:n])
		into.addWire(buffer[:n])
		size -= int64(n)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// endOfData accepts the message, or refuses it. Either way the transaction ends.
func (c *conversation) endOfData() error {
	t := c.message
	c.message = nil
	if skip, err := c.stage(AtEndOfData); skip || err != nil {
		return err
	}
	if c.config.MaxSize > 0 && t.content.size > c.config.MaxSize {
		return c.reply("552 5.3.4 too big")
	}
	message := Message{
		Session: c.session.ID, TLS: c.inTLS, From: t.from, FromParams: t.params, Recipients: t.to,
		Size: t.content.size, Content: t.content.bytes, Wire: t.content.wire, Chunks: t.content.chunks,
		SHA256: [32]byte(t.content.digest.Sum(nil)),
	}
	// Before the reply, so that who has read the 250 finds the message here.
	c.server.note(func() { c.session.Messages = append(c.session.Messages, message) })
	return c.reply(fmt.Sprintf("250 2.0.0 ok: %x", message.SHA256[:6]))
}
