package wiretest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"syscall"
	"time"
)

const (
	defaultTimeout = 5 * time.Second
	maxLine        = 64 << 10 // of what is awaited
)

// Options say how a script is run.
type Options struct {
	TLS     *tls.Config            // for TLS steps
	Named   map[string]*tls.Config // for TLS steps with a name
	Timeout time.Duration          // of each read and write and of the handshake; 0: 5 seconds
	Piece   int                    // bytes a write, to see what segmentation does; 0: all at once
	Signals *Signals               // shared by scripts that wait for each other
	Trace   func(Event)            // is told what passes, as it passes
}

// Result is what is known after a script has been run to its end.
type Result struct {
	TLS          *tls.ConnectionState // nil without TLS
	HandshakeErr error                // of a step "TLS fails"
}

// player is one run of a script.
type player struct {
	script  *Script
	side    Side
	options Options
	raw     net.Conn
	conn    net.Conn
	in      *bufio.Reader
	result  Result

	failed bool    // a handshake has
	mayGo  bool    // the other end may be gone, and no sending can tell
	keys   *sealer // of the TLS phase, for records made by hand
}

// Run plays a side of the script on a connection, which stays open unless the
// script closes it. Where the other end does not keep to the script the error
// is a [*Mismatch].
func (s *Script) Run(conn net.Conn, side Side, o Options) (Result, error) {
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	p := &player{script: s, side: side, options: o, raw: conn}
	p.use(conn, false)
	for i := 0; i < len(s.steps); {
		n, err := p.play(s.steps[i:])
		if err != nil {
			return p.result, err
		}
		i += n
	}
	return p.result, p.nothingMore(len(s.lines), "the end of the script")
}

func (p *player) use(conn net.Conn, secure bool) {
	p.conn = conn
	p.in = bufio.NewReaderSize(heard{conn, p, secure}, maxLine)
}

// play takes the first of the steps, or several that are sent together, and
// returns how many it took.
func (p *player) play(steps []step) (int, error) {
	st := steps[0]
	// On a connection that is closed nothing blocks, and there may be bytes left
	// that were read ahead.
	err := p.raw.SetDeadline(time.Now().Add(p.options.Timeout))
	if err != nil && !errors.Is(err, io.ErrClosedPipe) && !errors.Is(err, net.ErrClosed) {
		return 0, p.mismatch(st.line, "", nil, err)
	}
	switch {
	case st.kind == handshake, st.kind == handshakeFails:
		return 1, p.handshake(st)
	case st.side != p.side:
		return 1, p.await(st)
	case st.kind == exact:
		return p.send(steps)
	}
	return 1, p.do(st)
}

// do does what cannot be joined with what follows.
func (p *player) do(st step) error {
	switch st.kind {
	case repeated:
		p.flood(st)
		return nil
	case telling:
		p.options.Signals.tell(st.name)
		return nil
	case waiting:
		if !p.options.Signals.wait(st.name, p.options.Timeout) {
			return p.mismatch(st.line, "to be told "+st.name, nil, nil)
		}
		return nil
	case dripping:
		return p.drip(st)
	case recording:
		return p.sendRecord(st)
	case bypassing:
		p.trace(Event{From: p.side, Bytes: st.bytes})
		_, err := p.raw.Write(st.bytes)
		return err
	case closing:
		p.trace(Event{From: p.side, Note: "closes"})
		return p.raw.Close()
	case halfClosing:
		half, ok := p.conn.(interface{ CloseWrite() error })
		if !ok {
			return fmt.Errorf("wiretest: line %d: a %T cannot be closed by half", st.line, p.conn)
		}
		p.trace(Event{From: p.side, Note: "ends its sending"})
		return half.CloseWrite()
	}
	return fmt.Errorf("wiretest: line %d: a pattern cannot be sent", st.line)
}

// send sends the steps up to the first that is something else.
func (p *player) send(steps []step) (int, error) {
	var out []byte
	n := 0
	for ; n < len(steps) && steps[n].side == p.side && steps[n].kind == exact; n++ {
		out = append(out, steps[n].bytes...)
	}
	piece := len(out)
	if p.options.Piece > 0 {
		piece = p.options.Piece
	}
	for part := range slices.Chunk(out, max(1, piece)) {
		if err := p.write(part); err != nil && !p.mayGo {
			return 0, p.mismatch(steps[0].line, "to be able to send", nil, err)
		}
	}
	return n, nil
}

func (p *player) write(out []byte) error {
	p.trace(Event{From: p.side, TLS: p.secure(), Bytes: out})
	_, err := p.conn.Write(out)
	p.keys.wrote()
	return err
}

func (p *player) secure() bool { return p.conn != p.raw }

// await reads what the other side is to do.
func (p *player) await(st step) error {
	switch st.kind {
	case telling, waiting, bypassing:
		return nil // the other script's business
	case closing, halfClosing, dripping:
		return p.awaitEnd(st)
	case recording:
		return p.awaitRecord(st)
	case repeated:
		for range st.count {
			if got, err := p.readExact(st); !bytes.Equal(got, st.bytes) {
				return p.differs(st, got, err)
			}
		}
		return nil
	case matching:
		got, err := p.readLine()
		if err != nil || !st.pattern.Match(bytes.TrimSuffix(got, []byte("\r\n"))) || !bytes.HasSuffix(got, []byte("\r\n")) {
			return p.mismatch(st.line, "a line that matches "+st.pattern.String(), got, err)
		}
		return nil
	}
	got, err := p.readExact(st)
	if !bytes.Equal(got, st.bytes) {
		return p.differs(st, got, err)
	}
	return nil
}

// readExact reads as much as is awaited: of a line, the whole line that comes
// instead, so that it can be shown.
func (p *player) readExact(st step) ([]byte, error) {
	if st.isLine {
		return p.readLine()
	}
	got := make([]byte, len(st.bytes))
	n, err := io.ReadFull(p.in, got)
	return got[:n], err
}

// readLine reads up to and with the next LF.
func (p *player) readLine() ([]byte, error) {
	got, err := p.in.ReadSlice('\n')
	return bytes.Clone(got), err
}

func (p *player) awaitEnd(st step) error {
	got, err := p.in.Peek(1)
	for p.failed && err == nil && p.passRecord() {
		got, err = p.in.Peek(1)
	}
	if err == nil {
		got, _ = p.in.Peek(p.in.Buffered())
	}
	var op *net.OpError
	alert := errors.As(err, &op) && op.Op == "remote error" // of TLS: fatal, or no error
	ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrClosedPipe) || alert
	if !ended {
		return p.mismatch(st.line, "the end of the connection", got, err)
	}
	note := "has closed"
	if alert {
		note += ", with the TLS alert: " + op.Err.Error()
	}
	p.trace(Event{From: p.side.other(), Note: note})
	return nil
}

// nothingMore makes sure that nothing has been read ahead: neither at the end,
// nor in front of a handshake, where it would be sent in clear and read as if
// it had come inside.
func (p *player) nothingMore(line int, where string) error {
	if p.in.Buffered() == 0 {
		return nil
	}
	got, _ := p.in.Peek(p.in.Buffered())
	return p.mismatch(line, where, got, nil)
}
