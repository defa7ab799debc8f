package session

import (
	"errors"
	"sync"

	"postern/smtpwire/tlshello"
)

// A gate stands between two peers that are about to speak TLS with one another,
// and lets none of it pass that could carry mail before what they agreed on was
// judged:
//
//   - of the client, nothing until its ClientHello is whole and was judged; then
//     that, and nothing behind it until the server has answered. So early data (RFC
//     8446 §2.3) waits for the verdict like everything else: whoever has it sends it
//     before anybody knows what the server chose.
//   - of the server, a HelloRetryRequest (RFC 8446 §4.1.4) to its end, and nothing
//     of the ServerHello, which is what holds, until that is whole and was judged.
//
// Behind the verdict it lets pass what has the form of TLS records and cuts at the
// first octet that has not: a peer whose handshake failed may go on in clear, and
// there are servers that do, too.
//
// A gate that only watches lets everything pass.
type gate struct {
	onlyWatch bool
	offered   func(*tlshello.ClientHello) error // judges the client's hello
	chosen    func(*tlshello.ServerHello) error // judges the final one of the server

	client, server side

	asked       chan struct{} // closed when the ClientHello has been passed on
	answered    chan struct{} // closed when the server's first word has
	clientEnded chan struct{} // closed when no more will come of that side
	serverEnded chan struct{}

	mu sync.Mutex // of both sides, in a gate that only watches
}

// A side is one direction.
type side struct {
	observer tlshello.Observer
	records  records
	open     bool   // what has the form of TLS passes
	held     []byte // read, and not passed on yet
	passed   int    // octets passed on while it was not open
}

func newGate() *gate {
	return &gate{asked: make(chan struct{}), answered: make(chan struct{}), clientEnded: make(chan struct{}), serverEnded: make(chan struct{})}
}

// What has a gate cut, besides a verdict.
var (
	errNoTLS    = errors.New("octets in clear behind STARTTLS")
	errNotTLS   = errors.New("the server sent what is not TLS")
	errInClear  = errors.New("octets in clear within TLS")
	errAlert    = errors.New("the handshake ended with an alert")
	errOtherEnd = errors.New("the other side is gone")
)

// take looks at a piece that has come.
func (s *side) take(p []byte) {
	s.observer.Write(p)
	s.records.take(p)
}

// fatal reports whether the side has ended the handshake, in clear.
func (s *side) fatal() bool {
	for _, a := range s.observer.Alerts() {
		if a.Fatal() {
			return true
		}
	}
	return false
}

// release sends what is held, up to end in octets of the direction.
func (s *side) release(end int, send func([]byte) error) error {
	piece := s.held[:end-s.passed]
	s.held, s.passed = s.held[len(piece):], end
	if len(piece) == 0 {
		return nil
	}
	return send(piece)
}

// fromClient is the look at what the client says.
func (g *gate) fromClient(p []byte, send func([]byte) error) error {
	c := &g.client
	if g.onlyWatch {
		return g.lookOn(c, p, send)
	}
	if c.take(p); c.open {
		return c.records.only(p, send)
	}
	c.held = append(c.held, p...)
	hello := c.observer.ClientHello()
	if hello == nil {
		if c.observer.Err() != nil {
			return errNoTLS
		}
		if c.fatal() {
			return errAlert
		}
		return nil
	}
	if err := g.offered(hello); err != nil {
		return err
	}
	if err := c.release(c.observer.HelloEnd(), send); err != nil {
		return err
	}
	close(g.asked)
	select {
	case <-g.answered:
	case <-g.serverEnded:
		return errOtherEnd
	}
	c.open = true
	rest := c.held
	c.held = nil
	return c.records.only(rest, send)
}

// fromServer is the look at what the server says. It is called once the client has
// asked.
func (g *gate) fromServer(p []byte, send func([]byte) error) error {
	s := &g.server
	if g.onlyWatch {
		return g.lookOn(s, p, send)
	}
	if s.take(p); s.open {
		return s.records.only(p, send)
	}
	s.held = append(s.held, p...)
	hello := s.observer.ServerHello()
	if hello == nil || !hello.Final {
		return g.unanswered(hello, send)
	}
	if s.observer.Err() != nil {
		return errNotTLS
	}
	if err := g.chosen(hello); err != nil {
		return err
	}
	s.open = true
	g.answer()
	rest := s.held
	s.held = nil
	return s.records.only(rest, send)
}

// unanswered goes on while the server has not chosen: hello is nil or a
// HelloRetryRequest.
func (g *gate) unanswered(hello *tlshello.ServerHello, send func([]byte) error) error {
	s := &g.server
	if s.observer.Err() != nil {
		return errNotTLS
	}
	if hello != nil && s.observer.HelloEnd() > s.passed {
		if err := s.release(s.observer.HelloEnd(), send); err != nil {
			return err
		}
		g.answer()
	}
	if s.fatal() { // the client is to know why, and nothing that follows
		if err := s.release(max(s.passed, s.records.whole), send); err != nil {
			return err
		}
		return errAlert
	}
	return nil
}

// mayListen waits until the server may be heard, which is when it has been asked;
// false when it will not be.
func (g *gate) mayListen() bool {
	if g.onlyWatch {
		return true
	}
	select {
	case <-g.asked:
	case <-g.clientEnded:
	}
	return g.wasAsked()
}

// wasAsked reports whether the server has had a ClientHello.
func (g *gate) wasAsked() bool {
	if g.onlyWatch {
		return g.client.open
	}
	select {
	case <-g.asked:
		return true
	default:
		return false
	}
}

// answer lets the client go on.
func (g *gate) answer() {
	select {
	case <-g.answered:
	default:
		close(g.answered)
	}
}

// lookOn passes on what has come, whatever the judges say of it. They are asked
// once each, by either direction.
func (g *gate) lookOn(s *side, p []byte, send func([]byte) error) error {
	g.mu.Lock()
	s.take(p)
	if hello := g.client.observer.ClientHello(); hello != nil && !g.client.open {
		g.client.open = true
		g.offered(hello)
	}
	if hello := g.server.observer.ServerHello(); hello != nil && hello.Final && !g.server.open {
		g.server.open = true
		g.chosen(hello)
	}
	g.mu.Unlock()
	return send(p)
}

// records tells apart what has the form of TLS records (RFC 8446 §5.1) and what
// has not. It looks at nothing but their headers.
type records struct {
	seen   int     // octets taken
	whole  int     // of them, up to the end of the last record that is whole
	broken bool    // one has come that is none of a record
	header [5]byte // of the record that comes
	have   int
	left   int // octets of its body that are still to come
	// first is the length of the first record of application data, 0 for none: of
	// what is encrypted from TLS 1.3 on it is all there is to see.
	first int
}

const (
	maxRecord        = 1<<14 + 2<<10 // RFC 5246 §6.2.3
	changeCipherSpec = 20
	applicationData  = 23
)

func (r *records) take(p []byte) {
	for len(p) > 0 && !r.broken {
		n := min(r.left, len(p))
		if n == 0 {
			n = 1
			if r.headerOctet(p[0]); r.broken {
				break
			}
		} else {
			r.left -= n
		}
		r.seen += n
		p = p[n:]
		if r.have == 0 && r.left == 0 {
			r.whole = r.seen
		}
	}
}

func (r *records) headerOctet(b byte) {
	switch r.have {
	case 0:
		r.broken = b < changeCipherSpec || b > applicationData
	case 1:
		r.broken = b != 3
	case 4:
		r.left = int(r.header[3])<<8 | int(b)
		r.broken = r.left > maxRecord
	}
	if r.broken {
		return
	}
	r.header[r.have] = b
	if r.have++; r.have < len(r.header) {
		return
	}
	r.have = 0
	if r.header[0] == applicationData && r.first == 0 {
		r.first = r.left
	}
}

// only sends the end p of what was taken if all of that has the form of records.
func (r *records) only(p []byte, send func([]byte) error) error {
	if r.broken {
		return errInClear
	}
	if len(p) == 0 {
		return nil
	}
	return send(p)
}
