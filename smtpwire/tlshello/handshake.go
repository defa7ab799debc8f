package tlshello

import (
	"strings"

	"golang.org/x/crypto/cryptobyte"
)

// Handshake message types of RFC 8446 §4 and RFC 5246 §7.4.
const (
	typeHelloRequest      = 0
	typeClientHello       = 1
	typeServerHello       = 2
	typeCertificate       = 11
	typeServerKeyExchange = 12
)

const messageHeader = 4 // type and length

// bodyHandshake puts handshake messages together: one may span records, and a
// record may hold several (RFC 8446 §5.1).
func (o *Observer) bodyHandshake(p []byte) {
	o.message = append(o.message, p...)
	rest := o.message
	for len(rest) >= messageHeader {
		length := int(rest[1])<<16 | int(rest[2])<<8 | int(rest[3])
		// Before it is gathered, because a length is only three bytes of talk.
		if messageHeader+length > Limit {
			o.stop(ErrTooLong)
			return
		}
		if len(rest) < messageHeader+length {
			break
		}
		o.end = o.seen + len(p) - (len(rest) - messageHeader - length) // what is behind it is of p
		o.handshake(rest[0], rest[messageHeader:messageHeader+length])
		if o.phase != phaseClear {
			return
		}
		rest = rest[messageHeader+length:]
	}
	o.message = o.message[:copy(o.message, rest)]
}

// handshake takes one complete message. Nothing of body may be kept.
func (o *Observer) handshake(kind byte, body []byte) {
	if o.client == nil && o.server == nil &&
		kind != typeClientHello && kind != typeServerHello && kind != typeHelloRequest {
		o.malformed("handshake message %d before any hello", kind)
		return
	}
	switch kind {
	case typeClientHello:
		o.clientHello(body)
	case typeServerHello:
		o.serverHello(body)
	case typeCertificate:
		o.certificate(body)
	case typeServerKeyExchange:
		o.serverKeyExchange(body)
	}
}

func (o *Observer) clientHello(body []byte) {
	if o.server != nil {
		o.malformed("ClientHello from a server")
		return
	}
	if o.client != nil {
		return
	}
	h := parseClientHello(body)
	if h == nil {
		o.malformed("ClientHello of %d bytes", len(body))
		return
	}
	o.client, o.helloEnd = h, o.end
}

func (o *Observer) serverHello(body []byte) {
	if o.client != nil {
		o.malformed("ServerHello from a client")
		return
	}
	h := parseServerHello(body)
	if h == nil {
		o.malformed("ServerHello of %d bytes", len(body))
		return
	}
	if before := o.server; before != nil {
		// RFC 8446 §4.1.4: one request, and the version stays.
		if before.Final || !h.Final || h.Version != before.Version {
			o.malformed("second ServerHello")
			return
		}
		h.HelloRetryRequest = true
	}
	o.server, o.helloEnd = h, o.end
	if h.Final && h.Version >= VersionTLS13 {
		o.seal() // everything behind it is encrypted
	}
}

// certificate keeps a chain as RFC 5246 §7.4.2 has it. The one of TLS 1.3 never
// comes here, it is encrypted.
func (o *Observer) certificate(body []byte) {
	if o.certificates != nil {
		o.malformed("second Certificate")
		return
	}
	s := cryptobyte.String(body)
	var list cryptobyte.String
	if !s.ReadUint24LengthPrefixed(&list) || !s.Empty() {
		o.malformed("Certificate of %d bytes", len(body))
		return
	}
	chain := [][]byte{}
	for !list.Empty() {
		var der cryptobyte.String
		if !list.ReadUint24LengthPrefixed(&der) || der.Empty() {
			o.malformed("Certificate of %d bytes", len(body))
			return
		}
		if len(chain) < MaxCertificates {
			chain = append(chain, append([]byte(nil), der...))
		}
	}
	o.certificates = chain
}

// serverKeyExchange takes the group out of an ECDHE exchange (RFC 8422 §5.4).
// Other exchanges begin differently, so the suite must be known to be one.
func (o *Observer) serverKeyExchange(body []byte) {
	if o.server == nil || !signedECDHE(o.server.CipherSuite) {
		return
	}
	const namedCurve = 3
	s := cryptobyte.String(body)
	var kind uint8
	var group uint16
	if s.ReadUint8(&kind) && kind == namedCurve && s.ReadUint16(&group) {
		o.server.Group = group
	}
}

func signedECDHE(suite uint16) bool {
	name := CipherName(suite)
	return strings.HasPrefix(name, "TLS_ECDHE_ECDSA_") ||
		strings.HasPrefix(name, "TLS_ECDHE_RSA_") ||
		strings.HasPrefix(name, "TLS_ECDH_anon_")
}
