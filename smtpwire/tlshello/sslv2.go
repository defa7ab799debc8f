package tlshello

import (
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

// startSSLv2 begins the ClientHello of RFC 5246 appendix E.2: a two-byte length
// with the high bit set, then the message. Three of its bytes have come with
// the header already.
func (o *Observer) startSSLv2() {
	length := (int(o.header[0])<<8 | int(o.header[1])) & sslv2Max
	if length <= sslv2Rest {
		o.malformed("SSLv2-compatible ClientHello of %d bytes", length)
		return
	}
	o.phase = phaseClear
	o.sslv2 = true
	o.length, o.left = length, length-sslv2Rest
	o.message = append(o.message, o.header[2:]...)
}

// bodySSLv2 gathers that ClientHello. Whatever follows it comes in TLS records.
func (o *Observer) bodySSLv2(p []byte) {
	o.message = append(o.message, p...)
	if o.left > 0 {
		return
	}
	h := parseSSLv2(o.message)
	if h == nil {
		o.malformed("SSLv2-compatible ClientHello of %d bytes", o.length)
		return
	}
	o.sslv2 = false
	o.client, o.helloEnd = h, o.seen+len(p)
	o.message = o.message[:0]
}

// parseSSLv2 reads an SSLv2-compatible ClientHello from its message type on;
// nil if it is not well formed. Its cipher specs have three bytes, of which the
// first is zero where SSL 3.0 and TLS know the suite; the others are dropped.
func parseSSLv2(message []byte) *ClientHello {
	s := cryptobyte.String(message)
	h := &ClientHello{Length: len(message), SSLv2: true}
	var kind uint8
	var specs, id, challenge []byte
	var specsLength, idLength, challengeLength uint16
	if !s.ReadUint8(&kind) || !s.ReadUint16(&h.LegacyVersion) ||
		!s.ReadUint16(&specsLength) || !s.ReadUint16(&idLength) || !s.ReadUint16(&challengeLength) ||
		specsLength == 0 || specsLength%3 != 0 || idLength > maxSessionID ||
		!s.ReadBytes(&specs, int(specsLength)) || !s.ReadBytes(&id, int(idLength)) ||
		!s.ReadBytes(&challenge, int(challengeLength)) || !s.Empty() {
		return nil
	}
	for spec := range slices.Chunk(specs, 3) {
		suite := uint16(spec[1])<<8 | uint16(spec[2])
		if spec[0] == 0 && !isGREASE(suite) && len(h.CipherSuites) < MaxList {
			h.CipherSuites = append(h.CipherSuites, suite)
		}
	}
	h.SessionID = slices.Clone(id)
	return h
}
