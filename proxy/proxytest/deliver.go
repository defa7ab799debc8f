package proxytest

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"time"
)

// ErrNoSTARTTLS means that a [Delivery] that needs STARTTLS was not offered it,
// or that it was refused.
var ErrNoSTARTTLS = errors.New("proxytest: no STARTTLS")

// ErrRefused means that the server would not have the session: its greeting or
// its answer to EHLO, HELO or AUTH was a refusal.
var ErrRefused = errors.New("proxytest: refused")

// STARTTLS says when a [Delivery] uses TLS.
type STARTTLS uint8

// The ways.
const (
	NeverTLS     STARTTLS = iota // as an old device
	IfOfferedTLS                 // as most servers; a handshake that fails ends the session
	AlwaysTLS                    // without it nothing is sent
)

// Delivery is a whole session of a [Client].
type Delivery struct {
	Name     string // for EHLO; empty: client.test
	HELO     bool   // says HELO and never EHLO
	STARTTLS STARTTLS
	TLS      *tls.Config   // for STARTTLS
	User     string        // not empty: AUTH PLAIN
	Password string        //
	Mails    []Mail        // sent one after the other
	Timeout  time.Duration // of each read and write; 0: 5 minutes
}

// Report is how a [Delivery] went. Replies that were not given are zero.
type Report struct {
	Greeting   Reply
	Hello      Reply // the last answer to EHLO or HELO
	STARTTLS   Reply
	TLS        *tls.ConnectionState // nil without TLS
	Outcomes   []Outcome            // one for each mail that was tried
	Transcript []Line
	Err        error // what ended the session before its time
}

// Accepted tells whether every mail was accepted.
func (r Report) Accepted(d Delivery) bool {
	for _, o := range r.Outcomes {
		if !o.Accepted() {
			return false
		}
	}
	return r.Err == nil && len(r.Outcomes) == len(d.Mails)
}

// Deliver holds a session on a connection and closes it.
func Deliver(conn net.Conn, d Delivery) Report {
	c := NewClient(conn, d.Timeout)
	var r Report
	r.Err = d.hold(c, &r)
	_ = c.Close()
	r.TLS, r.Transcript = c.ConnectionState(), c.Transcript()
	return r
}

func (d Delivery) hold(c *Client, r *Report) error {
	var err error
	if r.Greeting, err = c.ReadReply(); err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	if r.Greeting.Code != 220 {
		return fmt.Errorf("%w: greeting: %s", ErrRefused, r.Greeting)
	}
	if err := d.hello(c, r); err != nil {
		return err
	}
	if err := d.secure(c, r); err != nil {
		return err
	}
	if err := d.logIn(c); err != nil {
		return err
	}
	for _, m := range d.Mails {
		outcome, err := c.Send(m)
		r.Outcomes = append(r.Outcomes, outcome)
		if err != nil {
			return fmt.Errorf("mail %d: %w", len(r.Outcomes), err)
		}
	}
	_, err = c.Command("QUIT")
	return err
}

func (d Delivery) hello(c *Client, r *Report) error {
	verb, name := "EHLO", d.Name
	if d.HELO {
		verb = "HELO"
	}
	if name == "" {
		name = "client.test"
	}
	var err error
	r.Hello, err = c.Hello(verb, name)
	// RFC 5321 §3.2: a server that does not know EHLO is asked once more.
	if err == nil && verb == "EHLO" && (r.Hello.Code == 500 || r.Hello.Code == 502) {
		r.Hello, err = c.Hello("HELO", name)
	}
	if err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	if !r.Hello.OK() {
		return fmt.Errorf("%w: hello: %s", ErrRefused, r.Hello)
	}
	return nil
}

func (d Delivery) secure(c *Client, r *Report) error {
	if d.STARTTLS == NeverTLS {
		return nil
	}
	if _, offered := c.Offers("STARTTLS"); !offered {
		if d.STARTTLS == AlwaysTLS {
			return fmt.Errorf("%w: not offered", ErrNoSTARTTLS)
		}
		return nil
	}
	var err error
	if r.STARTTLS, err = c.StartTLS(d.TLS); err != nil {
		return err
	}
	if r.STARTTLS.Code != 220 {
		if d.STARTTLS == AlwaysTLS {
			return fmt.Errorf("%w: %s", ErrNoSTARTTLS, r.STARTTLS)
		}
		return nil
	}
	return d.hello(c, r)
}

func (d Delivery) logIn(c *Client) error {
	if d.User == "" {
		return nil
	}
	secret := base64.StdEncoding.EncodeToString([]byte("\x00" + d.User + "\x00" + d.Password))
	reply, err := c.Command("AUTH PLAIN " + secret)
	if err != nil {
		return fmt.Errorf("auth: %w", err)
	}
	if !reply.OK() {
		return fmt.Errorf("%w: auth: %s", ErrRefused, reply)
	}
	return nil
}
