package wiretest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
)

func (p *player) handshake(st step) error {
	config, known := p.options.TLS, true
	if st.name != "" {
		config, known = p.options.Named[st.name]
	}
	if !known || config == nil {
		return fmt.Errorf("wiretest: line %d: TLS without a configuration", st.line)
	}
	if err := p.nothingMore(st.line, "a handshake and nothing in front of it"); err != nil {
		return err
	}
	config = config.Clone()
	var keyLog bytes.Buffer
	config.KeyLogWriter = &keyLog
	config.SessionTicketsDisabled = true // a ticket would be a record that nobody counts
	raw := &overheard{Conn: p.raw, piece: st.count}
	conn := tls.Server(raw, config)
	if p.side == Client {
		conn = tls.Client(raw, config)
	}
	err := conn.Handshake()
	raw.over = true
	switch {
	case st.kind == handshakeFails && err == nil:
		return p.mismatch(st.line, "a handshake that fails", []byte("(it succeeded)"), nil)
	case st.kind == handshakeFails:
		p.result.HandshakeErr = err
		p.trace(Event{Note: "handshake fails: " + err.Error(), Failed: true})
		p.failed, p.mayGo = true, true
		p.use(p.raw, false)
		if len(raw.stray) > 0 {
			p.trace(Event{From: p.side.other(), Bytes: raw.stray})
			p.in = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(raw.stray), p.in), maxLine)
		}
		return nil
	case err != nil:
		return p.mismatch(st.line, "a handshake", nil, err)
	}
	state := conn.ConnectionState()
	p.result.TLS = &state
	p.trace(Event{Note: "handshake: " + tls.VersionName(state.Version) + " " + tls.CipherSuiteName(state.CipherSuite)})
	p.keys = newSealer(p.side, state, raw, keyLog.String())
	p.use(conn, true)
	return nil
}

// overheard is a socket on which a handshake runs. Its bytes can be sent in
// pieces, and the beginnings of both ways are kept, where the randoms are. It reads
// no further than one record, so that behind a handshake that fails nothing is
// lost of what the other end said.
type overheard struct {
	net.Conn
	piece   int
	over    bool
	in, out []byte
	left    int    // bytes of the record that is being read
	stray   []byte // what was read in place of a record's header
}

// kept is enough for a ServerHello up to its random.
const kept = 64

func (o *overheard) Read(b []byte) (int, error) {
	if o.over {
		return o.Conn.Read(b)
	}
	limit, inHeader := o.left, o.left == 0
	if inHeader {
		limit = recordHeader
	}
	b = b[:min(len(b), limit)]
	var n int
	var err error
	if inHeader {
		n, err = io.ReadFull(o.Conn, b)
		if n == recordHeader && IsRecord(b) {
			o.left = int(binary.BigEndian.Uint16(b[3:]))
		} else {
			o.stray = append(o.stray, b[:n]...)
		}
	} else {
		n, err = o.Conn.Read(b)
		o.left -= n
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	o.in = append(o.in, b[:min(n, kept-len(o.in))]...)
	return n, err
}

func (o *overheard) Write(b []byte) (int, error) {
	o.out = append(o.out, b[:min(len(b), kept-len(o.out))]...)
	if o.piece == 0 || o.over {
		return o.Conn.Write(b)
	}
	for part := range slices.Chunk(b, o.piece) {
		if _, err := o.Conn.Write(part); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}
