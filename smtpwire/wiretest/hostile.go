package wiretest

import (
	"bytes"
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// An Event is something that one end did, as the end that is played saw it.
type Event struct {
	From   Side // who did it; 0 for a handshake
	TLS    bool // it came within TLS
	Bytes  []byte
	Note   string // what it was if no bytes: "closes", "handshake: TLS 1.3 …"
	Failed bool   // a handshake, and it failed
}

func (p *player) trace(e Event) {
	if p.options.Trace != nil {
		e.Bytes = bytes.Clone(e.Bytes)
		p.options.Trace(e)
	}
}

func (s Side) other() Side {
	if s == Client {
		return Server
	}
	return Client
}

// heard traces what is read.
type heard struct {
	net.Conn
	player *player
	secure bool
}

func (h heard) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	if n > 0 {
		h.player.trace(Event{From: h.player.side.other(), TLS: h.secure, Bytes: b[:n]})
	}
	return n, err
}

// Signals let scripts wait for each other. The zero Signals have told nothing.
type Signals struct {
	mu   sync.Mutex
	told map[string]chan struct{} // closed when it has been told
}

func (s *Signals) of(name string) chan struct{} {
	if s.told == nil {
		s.told = map[string]chan struct{}{}
	}
	if s.told[name] == nil {
		s.told[name] = make(chan struct{})
	}
	return s.told[name]
}

func (s *Signals) tell(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.of(name):
	default:
		close(s.of(name))
	}
}

func (s *Signals) wait(name string, limit time.Duration) bool {
	s.mu.Lock()
	told := s.of(name)
	s.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-told:
		return true
	case <-timer.C:
		return false
	}
}

// flood sends the same bytes again and again. Who cannot bear it hangs up, and
// what comes next in the script shows whether that was so.
func (p *player) flood(st step) {
	const atOnce = 64 << 10
	p.mayGo = true
	whole := bytes.Repeat(st.bytes, st.count)
	for len(whole) > 0 {
		n := min(len(whole), atOnce)
		if p.write(whole[:n]) != nil {
			return
		}
		whole = whole[n:]
	}
}

// dripEvery is how long the other end may say nothing until it gets one more
// byte.
const dripEvery = 50 * time.Millisecond

// drip sends byte after byte until the other end hangs up. It is for the clear
// phase: a tls.Conn does not survive a deadline.
func (p *player) drip(st step) error {
	for i := range st.bytes {
		if p.write(st.bytes[i:i+1]) != nil {
			return nil
		}
		if err := p.conn.SetReadDeadline(time.Now().Add(dripEvery)); err != nil {
			return p.mismatch(st.line, "to wait", nil, err)
		}
		_, err := p.in.Peek(1)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err == nil {
			got, _ := p.in.Peek(p.in.Buffered())
			return p.mismatch(st.line, "the end of the connection", got, nil)
		}
		p.trace(Event{From: p.side.other(), Note: "has closed"})
		return nil
	}
	return p.mismatch(st.line, "the end of the connection before the last byte", nil, nil)
}
