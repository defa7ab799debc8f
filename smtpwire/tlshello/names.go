package tlshello

import "fmt"

// Protocol versions as they stand on the wire. SSL 2.0 occurs only as the
// version inside an SSLv2-compatible ClientHello.
const (
	VersionSSL20 uint16 = 0x0002
	VersionSSL30 uint16 = 0x0300
	VersionTLS10 uint16 = 0x0301
	VersionTLS11 uint16 = 0x0302
	VersionTLS12 uint16 = 0x0303
	VersionTLS13 uint16 = 0x0304
)

// Alert descriptions that callers act upon (RFC 8446 §6, RFC 5246 §7.2).
const (
	AlertCloseNotify            uint8 = 0
	AlertHandshakeFailure       uint8 = 40
	AlertBadCertificate         uint8 = 42
	AlertUnsupportedCertificate uint8 = 43
	AlertCertificateRevoked     uint8 = 44
	AlertCertificateExpired     uint8 = 45
	AlertCertificateUnknown     uint8 = 46
	AlertUnknownCA              uint8 = 48
	AlertProtocolVersion        uint8 = 70
	AlertInsufficientSecurity   uint8 = 71
	AlertInappropriateFallback  uint8 = 86
)

// VersionName returns the name of a protocol version as people write it,
// "TLS 1.2" or "SSL 3.0"; one that has no name is returned in hex, "0x0399".
func VersionName(v uint16) string {
	switch v {
	case VersionSSL20:
		return "SSL 2.0"
	case VersionSSL30:
		return "SSL 3.0"
	case VersionTLS10:
		return "TLS 1.0"
	case VersionTLS11:
		return "TLS 1.1"
	case VersionTLS12:
		return "TLS 1.2"
	case VersionTLS13:
		return "TLS 1.3"
	}
	return hex16(v)
}

// CipherName returns the name of a cipher suite in the IANA registry "TLS
// Cipher Suites"; one that is not assigned is returned in hex, "0xC0FF".
func CipherName(c uint16) string { return named(cipherNames, c) }

// GroupName returns the name of a key-exchange group in the IANA registry
// "TLS Supported Groups", in the registry's own spelling (x25519, secp256r1,
// X25519MLKEM768); one that is not assigned is returned in hex.
func GroupName(g uint16) string { return named(groupNames, g) }

// AlertName returns the name of an alert description in the IANA registry
// "TLS Alerts"; one that is not assigned is returned as its decimal number,
// "alert 200", because that is how other programs print them.
func AlertName(a uint8) string {
	if name, ok := alertNames[a]; ok {
		return name
	}
	return fmt.Sprintf("alert %d", a)
}

func named(names map[uint16]string, v uint16) string {
	if name, ok := names[v]; ok {
		return name
	}
	return hex16(v)
}

func hex16(v uint16) string { return fmt.Sprintf("0x%04X", v) }

// isGREASE tells the values that clients send only to keep servers tolerant
// (RFC 8701 §2). They are not offers and would only confuse a reader.
func isGREASE(v uint16) bool {
	return v&0x0F0F == 0x0A0A && v>>8 == v&0xFF
}

var groupNames = map[uint16]string{
	0x0001: "sect163k1",
	0x0002: "sect163r1",
	0x0003: "sect163r2",
	0x0004: "sect193r1",
	0x0005: "sect193r2",
	0x0006: "sect233k1",
	0x0007: "sect233r1",
	0x0008: "sect239k1",
	0x0009: "sect283k1",
	0x000A: "sect283r1",
	0x000B: "sect409k1",
	0x000C: "sect409r1",
	0x000D: "sect571k1",
	0x000E: "sect571r1",
	0x000F: "secp160k1",
	0x0010: "secp160r1",
	0x0011: "secp160r2",
	0x0012: "secp192k1",
	0x0013: "secp192r1",
	0x0014: "secp224k1",
	0x0015: "secp224r1",
	0x0016: "secp256k1",
	0x0017: "secp256r1",
	0x0018: "secp384r1",
	0x0019: "secp521r1",
	0x001A: "brainpoolP256r1",
	0x001B: "brainpoolP384r1",
	0x001C: "brainpoolP512r1",
	0x001D: "x25519",
	0x001E: "x448",
	0x001F: "brainpoolP256r1tls13",
	0x0020: "brainpoolP384r1tls13",
	0x0021: "brainpoolP512r1tls13",
	0x0022: "GC256A",
	0x0023: "GC256B",
	0x0024: "GC256C",
	0x0025: "GC256D",
	0x0026: "GC512A",
	0x0027: "GC512B",
	0x0028: "GC512C",
	0x0029: "curveSM2",
	0x0100: "ffdhe2048",
	0x0101: "ffdhe3072",
	0x0102: "ffdhe4096",
	0x0103: "ffdhe6144",
	0x0104: "ffdhe8192",
	0x0200: "MLKEM512",
	0x0201: "MLKEM768",
	0x0202: "MLKEM1024",
	0x11EB: "SecP256r1MLKEM768",
	0x11EC: "X25519MLKEM768",
	0x11ED: "SecP384r1MLKEM1024",
	0x11EE: "curveSM2MLKEM768",
	0x6399: "X25519Kyber768Draft00",
	0x639A: "SecP256r1Kyber768Draft00",
	0xFF01: "arbitrary_explicit_prime_curves",
	0xFF02: "arbitrary_explicit_char2_curves",
}

var alertNames = map[uint8]string{
	0:   "close_notify",
	10:  "unexpected_message",
	20:  "bad_record_mac",
	21:  "decryption_failed",
	22:  "record_overflow",
	30:  "decompression_failure",
	40:  "handshake_failure",
	41:  "no_certificate",
	42:  "bad_certificate",
	43:  "unsupported_certificate",
	44:  "certificate_revoked",
	45:  "certificate_expired",
	46:  "certificate_unknown",
	47:  "illegal_parameter",
	48:  "unknown_ca",
	49:  "access_denied",
	50:  "decode_error",
	51:  "decrypt_error",
	52:  "too_many_cids_requested",
	60:  "export_restriction",
	70:  "protocol_version",
	71:  "insufficient_security",
	80:  "internal_error",
	86:  "inappropriate_fallback",
	90:  "user_canceled",
	100: "no_renegotiation",
	109: "missing_extension",
	110: "unsupported_extension",
	111: "certificate_unobtainable",
	112: "unrecognized_name",
	113: "bad_certificate_status_response",
	114: "bad_certificate_hash_value",
	115: "unknown_psk_identity",
	116: "certificate_required",
	117: "general_error",
	120: "no_application_protocol",
	121: "ech_required",
}
