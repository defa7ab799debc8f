package tlshello

import "fmt"

// Record types of RFC 8446 §5.1.
const (
	recordChangeCipherSpec = 20
	recordAlert            = 21
	recordHandshake        = 22
	recordApplicationData  = 23
)

const (
	recordHeader  = 5
	maxPlaintext  = 1 << 14         // RFC 8446 §5.1
	maxCiphertext = 1<<14 + 2<<10   // RFC 5246 §6.2.3, the largest of all versions
	sslv2Header   = recordHeader    // length, message type, version
	sslv2Max      = 1<<15 - 1       // of the two-byte header
	sslv2Rest     = sslv2Header - 2 // bytes of the record within that header
)

// phase is how far a direction has got.
type phase uint8

const (
	phaseStart  phase = iota // nothing is known of what this is
	phaseClear               // records are read as they come
	phaseSealed              // encrypted: only a cleartext alert can still be told
	phaseOver                // nothing more will be looked at
)

// Observer reads one direction of a connection from its first TLS byte on. The
// zero value is ready. It is for one goroutine at a time.
//
// It finds out for itself which side it listens to: facts of a client are in
// ClientHello, those of a server in ServerHello; a direction that shows both is
// malformed.
//
// Memory: nothing before the first byte; up to [Limit] for one unfinished
// message, freed when the direction turns to encryption; then the facts, of
// which only the certificates (together less than Limit) can be large.
type Observer struct {
	phase phase
	err   error
	seen  int // bytes looked at

	header     [recordHeader]byte
	headerHave int
	kind       byte // of the record being read
	length     int  // of its body
	left       int  // bytes of its body that are still to come
	sslv2      bool // the record being read is an SSLv2-compatible ClientHello

	message   []byte // a handshake message not yet complete
	end       int    // of the message being taken, in bytes of the direction
	helloEnd  int
	alert     [2]byte
	alertHave int

	client       *ClientHello
	server       *ServerHello
	certificates [][]byte
	alerts       []Alert
	encrypted    bool
}

// Write takes the next bytes of the direction, in pieces as they happen to
// come. It never fails and always takes all, so that an Observer can stand
// behind an [io.TeeReader] or in an [io.MultiWriter] without being able to
// disturb what it watches. p is not kept.
func (o *Observer) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0 && o.phase != phaseOver; {
		if o.seen == Limit {
			o.stop(ErrTooLong)
			break
		}
		n := o.step(rest[:min(len(rest), Limit-o.seen)])
		o.seen += n
		rest = rest[n:]
	}
	return len(p), nil
}

// ClientHello returns the first ClientHello of the direction, nil if none was
// read. A second one, after a HelloRetryRequest, offers the same (RFC 8446
// §4.1.2) and is not kept.
func (o *Observer) ClientHello() *ClientHello { return o.client }

// ServerHello returns the choices of the server, nil if none were read.
func (o *Observer) ServerHello() *ServerHello { return o.server }

// HelloEnd returns how many bytes of the direction there were up to the end of its
// last hello: of the first ClientHello, or of the message that ServerHello comes
// from, a HelloRetryRequest or the final one; 0 if none was read. Who holds bytes
// back until the choice is known lets so many pass, and no more.
func (o *Observer) HelloEnd() int { return o.helloEnd }

// Certificates returns the chain that the peer sent in clear, in DER, its own
// certificate first: nil if no Certificate message was read (always so in TLS
// 1.3 and on resumption), empty and not nil if the peer sent an empty one.
func (o *Observer) Certificates() [][]byte { return o.certificates }

// Alerts returns the alerts that went in clear, in order.
func (o *Observer) Alerts() []Alert { return o.alerts }

// Encrypted tells whether the direction turned to encryption: the peer got as
// far as having keys.
func (o *Observer) Encrypted() bool { return o.encrypted }

// Done tells that nothing more will be learnt from this direction: application
// data flows or Err is set. Feeding may end.
func (o *Observer) Done() bool { return o.phase == phaseOver }

// Err returns why the observation was given up, wrapping [ErrNotTLS],
// [ErrMalformed] or [ErrTooLong]; nil if it was not. Facts read before remain.
func (o *Observer) Err() error { return o.err }

func (o *Observer) stop(err error) {
	o.phase = phaseOver
	o.err = err
	o.message = nil
}

func (o *Observer) malformed(format string, args ...any) {
	o.stop(fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...)))
}

// seal notes that what follows is encrypted.
func (o *Observer) seal() {
	o.encrypted = true
	o.message = nil
	if o.phase == phaseClear {
		o.phase = phaseSealed
	}
}

// step takes some bytes of p, at least one, and returns how many.
func (o *Observer) step(p []byte) int {
	if o.left == 0 {
		o.headerByte(p[0])
		return 1
	}
	n := min(o.left, len(p))
	o.left -= n
	o.body(p[:n])
	return n
}

// headerByte collects a record header. At the start of the direction each byte
// is judged when it comes: plaintext may be shorter than a header, and a peer
// that sent "454" and now waits must be recognised all the same.
func (o *Observer) headerByte(b byte) {
	o.header[o.headerHave] = b
	o.headerHave++
	if o.phase == phaseStart && !plausibleStart(o.header[:o.headerHave]) {
		o.stop(ErrNotTLS)
		return
	}
	if o.headerHave < recordHeader {
		return
	}
	o.headerHave = 0
	if o.phase == phaseStart && o.header[0]&0x80 != 0 {
		o.startSSLv2()
		return
	}
	o.startRecord()
}

// plausibleStart tells whether the first bytes of a direction can be those of a
// TLS record with a handshake message or an alert in it, or of an
// SSLv2-compatible ClientHello.
func plausibleStart(p []byte) bool {
	if p[0]&0x80 == 0 {
		return (p[0] == recordHandshake || p[0] == recordAlert) && (len(p) < 2 || p[1] == 3)
	}
	// The bytes before the last have been judged when they came.
	switch len(p) {
	case 3:
		return p[2] == typeClientHello
	case 4:
		return p[3] == 0 || p[3] == 3
	case 5:
		return p[3] == 3 || p[4] == 2
	}
	return true
}

func (o *Observer) startRecord() {
	kind, length := o.header[0], int(o.header[3])<<8|int(o.header[4])
	if o.header[1] != 3 || kind < recordChangeCipherSpec || kind > recordApplicationData {
		o.malformed("record header %x", o.header)
		return
	}
	limit := maxPlaintext
	if o.phase == phaseSealed || kind == recordApplicationData {
		limit = maxCiphertext
	}
	// RFC 8446 §5.1: only application data may be empty.
	if length > limit || length == 0 && kind != recordApplicationData {
		o.malformed("record of %d bytes", length)
		return
	}
	if o.phase == phaseStart {
		o.phase = phaseClear
	}
	if kind == recordApplicationData {
		o.applicationData()
		return
	}
	if len(o.message) > 0 && kind == recordChangeCipherSpec {
		o.malformed("change of cipher within a handshake message")
		return
	}
	o.kind, o.length, o.left = kind, length, length
	o.alertHave = 0
}

// applicationData ends the observation. A client's may be early data (RFC 8446
// §4.2.10), a server's are the encrypted messages of TLS 1.3 or the real thing.
func (o *Observer) applicationData() {
	if o.client == nil && o.server == nil {
		o.malformed("application data before any hello")
		return
	}
	o.seal()
	o.phase = phaseOver
}

// body takes a piece of the current record's body; o.left is already what
// remains behind it.
func (o *Observer) body(p []byte) {
	switch {
	case o.sslv2:
		o.bodySSLv2(p)
	case o.kind == recordAlert:
		o.bodyAlert(p)
	case o.kind == recordChangeCipherSpec:
		o.bodyChangeCipherSpec()
	case o.phase == phaseClear:
		o.bodyHandshake(p)
	}
}

// bodyAlert collects alerts. An encrypted one has a MAC or a tag and so is
// never two bytes long; thus one in clear is recognised in every phase. That
// matters: a TLS 1.3 peer that fails before it has keys sends it behind the
// change_cipher_spec of the compatibility mode (RFC 8446 appendix D.4).
func (o *Observer) bodyAlert(p []byte) {
	if o.phase == phaseSealed && o.length != len(o.alert) {
		return
	}
	for _, b := range p {
		o.alert[o.alertHave] = b
		o.alertHave++
		if o.alertHave < len(o.alert) {
			continue
		}
		o.alertHave = 0
		if o.alert[0] != 1 && o.alert[0] != 2 {
			o.malformed("alert level %d", o.alert[0])
			return
		}
		if len(o.alerts) < MaxAlerts {
			o.alerts = append(o.alerts, Alert{Level: o.alert[0], Description: o.alert[1]})
		}
	}
}

// bodyChangeCipherSpec seals the direction, but not between HelloRetryRequest
// and ServerHello, where the record means nothing (RFC 8446 appendix D.4). A
// client's second ClientHello may follow its own; that one is not needed.
func (o *Observer) bodyChangeCipherSpec() {
	if o.phase == phaseSealed {
		return
	}
	if o.length != 1 {
		o.malformed("change of cipher of %d bytes", o.length)
		return
	}
	switch {
	case o.client == nil && o.server == nil:
		o.malformed("change of cipher before any hello")
	case o.server != nil && !o.server.Final:
	default:
		o.seal()
	}
}
