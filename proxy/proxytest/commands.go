package proxytest

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// commands are those a [Server] knows.
var commands = map[string]func(*conversation, string) error{
	"EHLO":     (*conversation).ehlo,
	"HELO":     (*conversation).helo,
	"STARTTLS": (*conversation).startTLS,
	"AUTH":     (*conversation).auth,
	"MAIL":     (*conversation).mail,
	"RCPT":     (*conversation).rcpt,
	"DATA":     (*conversation).data,
	"BDAT":     (*conversation).bdat,
	"RSET":     (*conversation).rset,
	"NOOP":     func(c *conversation, _ string) error { return c.reply("250 2.0.0 ok") },
	"VRFY":     func(c *conversation, _ string) error { return c.reply("252 2.5.2 send it and see") },
	"EXPN":     func(c *conversation, _ string) error { return c.reply("252 2.5.2 send it and see") },
	"ETRN":     func(c *conversation, _ string) error { return c.reply("250 2.0.0 queuing started") },
	"HELP":     func(c *conversation, _ string) error { return c.reply("214-2.0.0 a server", "214 2.0.0 for tests") },
	"QUIT":     (*conversation).quit,
}

// command carries out one command line.
func (c *conversation) command(line string) error {
	word, args, _ := strings.Cut(line, " ")
	verb := strings.ToUpper(word)
	run, known := commands[verb]
	// What follows BDAT is its chunk.
	if c.in.Buffered() > 0 && verb != "BDAT" && !c.offered("PIPELINING") {
		c.violation("pipelined behind %s, which was not offered", verb)
	}
	switch {
	case c.closed && verb != "QUIT":
		return c.reply("503 5.5.1 no service here")
	case !known, verb == "EHLO" && c.config.HELOOnly:
		return c.reply("502 5.5.2 command not recognized")
	}
	return run(c, args)
}

func (c *conversation) ehlo(args string) error { return c.hello("EHLO", args) }
func (c *conversation) helo(args string) error { return c.hello("HELO", args) }

func (c *conversation) hello(verb, name string) error {
	if err := c.alone(verb); err != nil {
		return err
	}
	c.server.note(func() { c.session.Hellos = append(c.session.Hellos, verb+" "+name) })
	if name == "" {
		return c.reply("501 5.5.4 who are you?")
	}
	if skip, err := c.stage(AtHello); skip || err != nil {
		return err
	}
	// RFC 5321 §4.1.4: EHLO is a RSET too.
	c.greeted, c.extended, c.message = true, verb == "EHLO", nil
	lines := []string{c.config.Name + " at your service"}
	if c.extended {
		lines = append(lines, c.capabilities()...)
	}
	for i := range lines {
		lines[i] = "250-" + lines[i]
	}
	lines[len(lines)-1] = strings.Replace(lines[len(lines)-1], "250-", "250 ", 1)
	return c.reply(lines...)
}

// capabilities are what is offered now.
func (c *conversation) capabilities() []string {
	list := slices.Clone(c.config.Capabilities)
	if c.inTLS {
		list = slices.Clone(c.config.CapabilitiesTLS)
	}
	if c.config.MaxSize > 0 {
		list = slices.DeleteFunc(list, func(s string) bool { return keyword(s) == "SIZE" })
		list = append(list, "SIZE "+strconv.FormatInt(c.config.MaxSize, 10))
	}
	if len(c.config.Users) > 0 {
		list = append(list, "AUTH PLAIN LOGIN")
	}
	if c.config.TLS != nil && !c.inTLS && !c.config.HideSTARTTLS {
		list = append(list, "STARTTLS")
	}
	return list
}

func keyword(capability string) string {
	word, _, _ := strings.Cut(capability, " ")
	return strings.ToUpper(word)
}

// offered tells whether the client has been offered a capability.
func (c *conversation) offered(word string) bool {
	return c.extended && slices.ContainsFunc(c.capabilities(), func(s string) bool { return keyword(s) == word })
}

// startTLS is RFC 3207 §4.
func (c *conversation) startTLS(args string) error {
	switch {
	case args != "":
		return c.reply("501 5.5.4 STARTTLS has no parameters")
	case c.inTLS || c.config.TLS == nil:
		return c.reply("503 5.5.1 STARTTLS is not offered")
	case c.message != nil:
		c.violation("STARTTLS within a transaction")
	}
	if err := c.alone("STARTTLS"); err != nil {
		return err
	}
	if skip, err := c.stage(AtSTARTTLS); skip || err != nil {
		return err
	}
	if err := c.reply("220 2.0.0 go ahead"); err != nil {
		return err
	}
	if _, err := c.out.Write(c.config.Inject); err != nil {
		return err
	}
	if err := c.flush(); err != nil {
		return err
	}
	if c.config.On[InHandshake].reply != "" {
		// Not together with the 220, but where the ServerHello should be.
		if _, err := c.in.Peek(1); err != nil {
			return err
		}
	}
	if skip, err := c.stage(InHandshake); err != nil {
		return err
	} else if skip {
		return errInClear
	}
	return c.handshake()
}

func (c *conversation) handshake() error {
	if err := c.setDeadline(); err != nil {
		return err
	}
	under := c.raw
	if c.config.OldTLS {
		under = &oldTLSConn{Conn: c.raw}
	}
	conn := tls.Server(under, c.config.TLS)
	if err := conn.Handshake(); err != nil {
		c.server.note(func() { c.session.HandshakeErr = err })
		return fmt.Errorf("%w: %w", errHandshake, err)
	}
	state := conn.ConnectionState()
	c.server.note(func() { c.session.TLS = &state })
	c.use(conn)
	c.inTLS = true
	c.greeted, c.extended, c.user, c.message = false, false, "", nil
	return nil
}

func (c *conversation) rset(string) error {
	c.message = nil
	return c.reply("250 2.0.0 ok")
}

func (c *conversation) quit(string) error {
	if err := c.alone("QUIT"); err != nil {
		return err
	}
	if skip, err := c.stage(AtQuit); err != nil || skip {
		if err == nil {
			err = errQuit
		}
		return err
	}
	if err := c.reply("221 2.0.0 bye"); err != nil {
		return err
	}
	return errQuit
}
