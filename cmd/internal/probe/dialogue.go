package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"postern/smtpwire"
	"postern/smtpwire/tlshello"
)

// A phase is how far a connection came.
type phase uint8

const (
	atDial phase = iota
	atBanner
	atEHLO
	atSTARTTLS  // it was not offered, or not answered 220
	inHandshake // which failed
	inTLS
)

// A dialogue is one connection and what became of it.
type dialogue struct {
	phase  phase
	local  netip.Addr
	detail string // why it came no further; may quote the server

	banner   string // its text, as it came
	caps     smtpwire.Capabilities
	heloOnly bool
	reply    int                    // to STARTTLS; 0: it was not said
	inside   *smtpwire.Capabilities // offered in TLS; nil: not asked

	injected bool // octets in clear behind the reply to STARTTLS
	timeout  bool
	state    tls.ConnectionState
	chosen   *tlshello.ServerHello
	raw      [][]byte // certificates of a handshake that failed
	alert    uint8    // that the server sent; 0: none
	notTLS   bool
}

// A caller opens connections, no more than so many at a time.
type caller struct {
	helo     string
	patience time.Duration
	turn     chan struct{}                    // of all
	there    map[netip.AddrPort]chan struct{} // of one address
}

// An ask is what one connection is for.
type ask struct {
	to netip.AddrPort
	// config is what to offer, once it is known who is there. Nil: no STARTTLS.
	config func(*dialogue) *tls.Config
	greet  bool // say EHLO again in TLS
}

// call opens one connection, within the context and so much patience.
func (c *caller) call(ctx context.Context, a ask) *dialogue {
	d := new(dialogue)
	for _, turn := range []chan struct{}{c.there[a.to], c.turn} {
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-ctx.Done():
			d.detail, d.timeout = "there was no time for it", true
			return d
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", a.to.String())
	if err != nil {
		d.fail(err)
		return d
	}
	defer conn.Close()
	if at, err := netip.ParseAddrPort(conn.LocalAddr().String()); err == nil {
		d.local = at.Addr().Unmap()
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := d.talk(conn, c.helo, a); err != nil {
		d.fail(err)
	}
	return d
}

// talk says what is to be said, until something goes wrong.
func (d *dialogue) talk(conn net.Conn, helo string, a ask) error {
	clear := &wire{conn, smtpwire.NewReader(conn)}
	d.phase = atBanner
	reply, err := clear.read()
	if err != nil {
		return err
	}
	d.banner = string(reply.Text())
	if reply.Code != 220 {
		return fmt.Errorf("it greets with %d", reply.Code)
	}
	d.phase = atEHLO
	if d.caps, d.heloOnly, err = clear.greet(helo); err != nil {
		return err
	}
	d.phase = atSTARTTLS
	if a.config == nil || !d.caps.Has("STARTTLS") {
		_ = clear.quit(conn)
		return nil
	}
	if reply, err = clear.say("STARTTLS"); err != nil {
		return err
	}
	if d.reply = reply.Code; d.reply != 220 {
		_ = clear.quit(conn)
		return fmt.Errorf("STARTTLS was answered %d", reply.Code)
	}
	d.phase = inHandshake
	if clear.from.Buffered() > 0 { // RFC 3207 §4.2: it was said in clear
		d.injected = true
		return errors.New("octets in clear behind the reply to STARTTLS")
	}
	return d.secure(conn, helo, a)
}

// secure runs the handshake. In TLS 1.3 the server's answer to our side of it
// comes behind it (RFC 8446 §4.4.2.4), so that it succeeded only when the server
// has said something.
func (d *dialogue) secure(conn net.Conn, helo string, a ask) error {
	seen := &watched{Conn: conn}
	tlsConn := tls.Client(seen, a.config(d))
	err := tlsConn.Handshake()
	d.chosen, d.notTLS = seen.in.ServerHello(), errors.Is(seen.in.Err(), tlshello.ErrNotTLS)
	for _, alert := range seen.in.Alerts() {
		if alert.Fatal() {
			d.alert = alert.Description
		}
	}
	if err == nil {
		d.state = tlsConn.ConnectionState()
		inside := &wire{tlsConn, smtpwire.NewReader(tlsConn)}
		var caps smtpwire.Capabilities
		if a.greet {
			if caps, _, err = inside.greet(helo); err == nil {
				d.inside = &caps
			}
		}
		if err == nil {
			err = inside.quit(conn)
		}
		if alert, is := remoteAlert(err); !is || alert == tlshello.AlertCloseNotify {
			d.phase = inTLS
			return nil
		}
	}
	if alert, is := remoteAlert(err); is {
		d.alert = alert
	}
	d.raw = seen.in.Certificates()
	return err
}

// A wire is one phase of a connection, whose deadline is the connection's.
type wire struct {
	to   io.Writer
	from *smtpwire.Reader
}

func (w *wire) read() (smtpwire.Reply, error) { return w.from.ReadReply(mostReply) }

func (w *wire) say(line string) (smtpwire.Reply, error) {
	if _, err := io.WriteString(w.to, line+"\r\n"); err != nil {
		return smtpwire.Reply{}, err
	}
	return w.read()
}

// greet says EHLO, or HELO where that is refused (RFC 5321 §3.2).
func (w *wire) greet(helo string) (caps smtpwire.Capabilities, heloOnly bool, err error) {
	reply, err := w.say("EHLO " + helo)
	if err == nil && reply.Code/100 == 5 {
		heloOnly = true
		reply, err = w.say("HELO " + helo)
	}
	switch {
	case err != nil:
		return caps, heloOnly, err
	case !reply.Positive():
		return caps, heloOnly, fmt.Errorf("it answers our name with %d", reply.Code)
	}
	caps = smtpwire.ParseCapabilities(reply)
	if heloOnly {
		caps.List = nil
	}
	return caps, heloOnly, nil
}

// goodbye is how long the answer to QUIT is waited for. A server that says nothing
// more has said enough.
const goodbye = 3 * time.Second

func (w *wire) quit(socket net.Conn) error {
	_ = socket.SetDeadline(time.Now().Add(goodbye))
	_, err := w.say("QUIT")
	return err
}

// watched is a socket of which what comes in is looked at.
type watched struct {
	net.Conn
	in tlshello.Observer
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	_, _ = w.in.Write(p[:n])
	return n, err
}

// remoteAlert gives the alert that a server sent, if that is what err is.
func remoteAlert(err error) (uint8, bool) {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" {
		return 0, false
	}
	for n := range 256 { // crypto/tls keeps the type of its alerts to itself, but not their words
		if tls.AlertError(n).Error() == op.Err.Error() {
			return uint8(n), true
		}
	}
	return 0, false
}

// fail enters why a connection came no further, in words that name no address of
// ours.
func (d *dialogue) fail(err error) {
	var timeout interface{ Timeout() bool }
	var errno syscall.Errno
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		d.detail, d.timeout = "no answer in time", true
	case errors.Is(err, context.Canceled):
		d.detail, d.timeout = "there was no time for it", true
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
		d.detail = "it closed the connection"
	case errors.As(err, &errno):
		d.detail = errno.Error()
	default:
		d.detail = quote(err.Error())
	}
	if d.phase == inHandshake {
		d.detail = d.handshakeWords()
	}
}

// handshakeWords say how a handshake failed, as a session of the proxy says it.
func (d *dialogue) handshakeWords() string {
	const failed = "the TLS handshake failed"
	switch {
	case d.injected:
		return "octets in clear behind the reply to STARTTLS"
	case d.alert != 0:
		return failed + ": the server sent the alert " + tlshello.AlertName(d.alert)
	case d.notTLS:
		return failed + ": the server sent what is not TLS"
	case d.timeout:
		return failed + ": timeout"
	case d.detail == "it closed the connection":
		return failed + ": the server closed the connection"
	}
	return failed
}

// bannerName is the name that a banner begins with, if it is fit to be one.
func bannerName(banner string) string {
	word, _, _ := strings.Cut(banner, " ")
	name := strings.ToLower(word)
	labels := strings.Split(name, ".")
	if len(labels) < 2 || len(name) > 253 {
		return ""
	}
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return ""
		}
	}
	if _, err := strconv.ParseUint(labels[len(labels)-1], 10, 64); err == nil {
		return ""
	}
	return name
}
