// Package tlshello reads what a TLS handshake says in clear off a stream of
// bytes: the ClientHello, the ServerHello, the certificates (up to TLS 1.2,
// which sends them unencrypted) and the alerts of a handshake that fails.
//
// It is a bystander. An [Observer] is fed a copy of the bytes of one direction
// while somebody else holds the handshake, and afterwards it knows what was
// offered and chosen even where that somebody gave up at the first message:
// "TLS 1.0, TLS_RSA_WITH_AES_128_CBC_SHA" instead of "handshake error".
//
// What it reads is hostile. It takes bytes in pieces of any size and records
// in fragments of any size, looks at [Limit] bytes of a direction and no more,
// and where a message is not well formed it keeps no half-read facts of it: a
// bystander that reads leniently what an endpoint refuses could be told another
// story than the endpoint.
//
// It does not decrypt, verify, dial or decide. It knows no DTLS, no QUIC and of
// SSL 2.0 only the ClientHello in which old clients wrap an offer of SSL 3.0 or
// TLS (RFC 5246 appendix E.2). It does not check that a handshake is one that
// an endpoint should accept, and it does not tie one direction to the other:
// that an answer belongs to an offer is for the endpoints to find out.
package tlshello

import "errors"

// Bounds on what is kept of one direction.
const (
	// Limit is how many bytes of a direction are looked at. A handshake that
	// has not turned to encryption by then ends in [ErrTooLong]. Real first
	// flights are 2 to 8 KB, with large chains and post-quantum keys 20 KB.
	Limit = 64 << 10

	// MaxList is how many entries of an offered list (cipher suites, groups,
	// signature schemes, versions, protocols) are kept; further ones are
	// dropped. Clients offer up to about 150.
	MaxList = 256

	// MaxCertificates is how many certificates of a chain are kept, the first
	// being the peer's own; further ones are dropped.
	MaxCertificates = 16

	// MaxAlerts is how many alerts are kept; further ones are dropped.
	MaxAlerts = 8
)

// What ends an observation early. [Observer.Err] wraps one of them.
var (
	// ErrNotTLS means that the very first bytes are no TLS record: plaintext,
	// or some other protocol.
	ErrNotTLS = errors.New("tlshello: not TLS")

	// ErrMalformed means that something behind a good beginning is not TLS as
	// the RFCs have it.
	ErrMalformed = errors.New("tlshello: malformed")

	// ErrTooLong means that [Limit] was passed before encryption began.
	ErrTooLong = errors.New("tlshello: handshake too long")
)

// ClientHello is what a client offers. Values of RFC 8701 (GREASE) are taken
// out of all its lists; each holds at most [MaxList] entries. The strings and
// byte slices are the peer's own words, unchecked.
type ClientHello struct {
	LegacyVersion     uint16   // the version field of the message itself
	SupportedVersions []uint16 // RFC 8446 §4.2.1, as ordered by the client; nil if not sent
	CipherSuites      []uint16 // in the client's order, with signalling values (SCSV)
	Groups            []uint16 // RFC 8446 §4.2.7, RFC 8422 §5.1.1
	SignatureSchemes  []uint16 // RFC 8446 §4.2.3
	ServerName        string   // RFC 6066 §3; empty if not sent
	ALPN              []string // RFC 7301
	SessionID         []byte   // up to 32 bytes; empty if none
	Length            int      // bytes of the message with its header
	EarlyData         bool     // RFC 8446 §4.2.10: data may follow before the server has answered
	SSLv2             bool     // it came in the SSLv2-compatible form
}

// Versions returns the versions the client says it offers: its list if it sent
// one, else the one version that older clients name, which is their highest.
func (h *ClientHello) Versions() []uint16 {
	if len(h.SupportedVersions) > 0 {
		return h.SupportedVersions
	}
	return []uint16{h.LegacyVersion}
}

// ServerHello is what a server chose.
type ServerHello struct {
	LegacyVersion uint16 // the version field of the message itself
	Version       uint16 // the version that holds: of supported_versions where sent
	CipherSuite   uint16
	Group         uint16 // of key_share (1.3) or ServerKeyExchange (ECDHE up to 1.2); 0 if none or not yet sent
	ALPN          string // up to 1.2, where it stands in clear
	SessionID     []byte // as echoed; up to 1.2 a repetition of the client's means resumption
	Length        int    // bytes of the message with its header

	// HelloRetryRequest tells that the server asked for a second ClientHello
	// (RFC 8446 §4.1.4). If Final is not set, nothing but that request came,
	// and the choices are those it announces.
	HelloRetryRequest bool
	Final             bool
}

// Alert is one alert that went in clear.
type Alert struct {
	Level       uint8 // 1 warning, 2 fatal
	Description uint8 // see [AlertName]
}

// Fatal tells whether the alert ends the connection. TLS 1.3 knows no other
// kind but for close_notify and user_canceled (RFC 8446 §6).
func (a Alert) Fatal() bool { return a.Level == 2 }

// String returns the alert as "fatal protocol_version".
func (a Alert) String() string {
	if a.Fatal() {
		return "fatal " + AlertName(a.Description)
	}
	return "warning " + AlertName(a.Description)
}
