package leg

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"postern/smtpwire/tlshello"
)

// ErrInjected: something stood in the buffer behind STARTTLS or behind its 220.
// It was said in clear and must never be taken for something said inside TLS.
var ErrInjected = errors.New("octets in clear behind starttls")

// A Handshake is what is known of an attempt at TLS, whether it succeeded or not.
type Handshake struct {
	State    tls.ConnectionState // of a handshake that succeeded
	Err      error               // nil when it succeeded
	Duration time.Duration

	// Read off the wire, so that they are there when the handshake failed too.
	// Nil when the peer or crypto/tls did not come that far.
	Offered *tlshello.ClientHello
	Chosen  *tlshello.ServerHello
	// Certificates that the server sent in clear (TLS 1.2 and before), DER.
	Certificates [][]byte
	// Alert is the description of the fatal alert that the peer sent, 0 when none.
	Alert uint8
	// NotTLS: the peer's first octets were no TLS record.
	NotTLS bool
	// Hello holds what the peer said before it was answered, as it came.
	Hello []byte
}

// ErrDeclined ends a handshake that Decline gave up.
var ErrDeclined = errors.New("tls handshake declined")

// Decline is what a GetConfigForClient callback returns to have the handshake
// given up without a word to the peer, so that somebody else can have it.
func Decline(hello *tls.ClientHelloInfo) error {
	if w, ok := hello.Conn.(*wire); ok {
		w.mute = true
	}
	return ErrDeclined
}

// StartClient runs the handshake of the side that connects, within timeout, and
// returns the TLS phase of the leg. The clear phase is dead afterwards, however
// it ends, and after an error there is nothing left to say: only Close. config is
// the leg's from then on.
func (c *Conn) StartClient(config *tls.Config, timeout time.Duration) (*Conn, *Handshake, error) {
	return c.start(tls.Client, config, timeout)
}

// StartServer is StartClient for the side that was connected to.
func (c *Conn) StartServer(config *tls.Config, timeout time.Duration) (*Conn, *Handshake, error) {
	return c.start(tls.Server, config, timeout)
}

func (c *Conn) start(side func(net.Conn, *tls.Config) *tls.Conn, config *tls.Config, timeout time.Duration) (*Conn, *Handshake, error) {
	if c.read.Buffered() > 0 {
		return nil, &Handshake{Err: ErrInjected}, ErrInjected
	}
	err := c.Flush()
	if err == nil {
		err = c.setDeadline(time.Now().Add(timeout))
	}
	if err != nil {
		return nil, &Handshake{Err: err}, fmt.Errorf("tls handshake: %w", err)
	}
	began := time.Now()
	under := &wire{Conn: c.raw, eyes: new(eyes)}
	config.DynamicRecordSizingDisabled = true // what is said is said in one record, and one write
	secure := side(under, config)
	// Not HandshakeContext: the socket has a deadline, and Abort moves it.
	err = secure.Handshake()
	h := under.eyes.handshake(err)
	h.Duration = time.Since(began)
	under.eyes = nil
	if err != nil {
		return nil, h, fmt.Errorf("tls handshake: %w", err)
	}
	h.State = secure.ConnectionState()
	return c.next(secure, under), h, nil
}

func (c *Conn) setDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.aborted {
		return ErrAborted
	}
	return c.raw.SetDeadline(t)
}

// next is the phase after c, to which an Interrupt or Abort of c still applies.
func (c *Conn) next(secure *tls.Conn, under *wire) *Conn {
	n := newPhase(c.raw, secure, c.write, c.counts)
	n.under, under.arm = under, n.armWrite
	c.mu.Lock()
	defer c.mu.Unlock()
	n.interrupted, n.aborted = c.interrupted, c.aborted
	return n
}

// eyes see a handshake from the outside.
type eyes struct {
	in, out tlshello.Observer
	hello   []byte
}

// helloLimit bounds what is kept of what the peer said, in octets.
const helloLimit = 16 << 10

// keep holds on to what the peer said before it was answered.
func (e *eyes) keep(p []byte) {
	if e.out.ServerHello() == nil && e.out.ClientHello() == nil {
		e.hello = append(e.hello, p[:min(len(p), helloLimit-len(e.hello))]...)
	}
}

func (e *eyes) handshake(err error) *Handshake {
	h := &Handshake{Err: err, Offered: e.in.ClientHello(), Chosen: e.in.ServerHello(), Hello: e.hello}
	if h.Offered == nil {
		h.Offered = e.out.ClientHello()
	}
	if h.Chosen == nil {
		h.Chosen = e.out.ServerHello()
	}
	h.Certificates = e.in.Certificates()
	h.NotTLS = errors.Is(e.in.Err(), tlshello.ErrNotTLS)
	for _, a := range e.in.Alerts() {
		if a.Fatal() {
			h.Alert = a.Description
		}
	}
	if alert, ok := RemoteAlert(err); ok {
		h.Alert = alert
	}
	return h
}

// RemoteAlert returns the description of the TLS alert that the peer sent, if
// that is what err is. An alert that comes on the first read behind a TLS 1.3
// handshake means that it failed: the peer that connects is done before the
// other has looked at its certificate (RFC 8446 §4.4.2.4).
func RemoteAlert(err error) (uint8, bool) {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" {
		return 0, false
	}
	// crypto/tls keeps the type of its alerts to itself, but not their words.
	for n := range 256 {
		if tls.AlertError(n).Error() == op.Err.Error() {
			return uint8(n), true
		}
	}
	return 0, false
}
