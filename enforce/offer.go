package enforce

import (
	"crypto/tls"
	"slices"
)

// offered are the TLS 1.2 suites that Postern offers and accepts, in the order
// of crypto/tls, which is the order of preference whatever a caller asks for.
// The RSA key exchange comes last and has no forward secrecy: it is offered
// because a session above the floor must not become cleartext.
var offered = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA,
	tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA,
	tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA,
	tls.TLS_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_RSA_WITH_AES_128_CBC_SHA,
	tls.TLS_RSA_WITH_AES_256_CBC_SHA,
}

// Offered returns the TLS 1.2 suites that Postern can negotiate at all.
func Offered() []uint16 { return slices.Clone(offered) }

// Offer returns the TLS 1.2 suites to offer upstream under connection rule r:
// what it allows, and nothing without forward secrecy where it asks for that.
// Its min_version does not narrow the offer; it is judged afterwards, so that
// the record knows what the peer chose.
func Offer(r *Rule) []uint16 {
	return slices.DeleteFunc(Offered(), func(suite uint16) bool {
		return len(r.Ciphers) > 0 && !slices.Contains(r.Ciphers, suite) ||
			r.ForwardSecrecy && !ForwardSecret(tls.VersionTLS12, suite)
	})
}

// MayWiden reports whether a connection whose handshake failed on Offer is to be
// dialled again with all that is Offered, to be judged by what comes of it: where
// what r asks for is only logged, or a failed handshake would end in cleartext. A
// server above the floor must not lose its mail, or its TLS, to an offer that was
// made small.
func MayWiden(r *Rule, upstream Leg) bool {
	return (r.OnViolation == OnViolationLog || r.OnHandshakeFailure == Cleartext) &&
		upstream.State == StateFailed && upstream.NothingInCommon && len(Offer(r)) < len(offered)
}

// ForwardSecret reports whether a session of that version and suite has forward
// secrecy: TLS 1.3 always (a resumed session runs psk_dhe_ke, the only mode that
// crypto/tls speaks), before it an ephemeral key exchange.
func ForwardSecret(version, suite uint16) bool {
	if version >= tls.VersionTLS13 {
		return true
	}
	return slices.Contains(offered[:10], suite)
}
