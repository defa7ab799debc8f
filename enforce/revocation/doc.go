// Package revocation says whether the certificates of a verified chain were
// revoked: by the OCSP answer that a peer stapled to its handshake, by asking the
// OCSP responder, or by the certificate revocation list, where the certificate
// itself names them (RFC 6960, RFC 5280 §6.3).
//
// A Checker asks each question once for everybody, keeps the answers within
// bounds, and goes on asking when the session that asked has no more time, so
// that the next one finds the answer. What it fetches comes over plain HTTP and
// from strangers: only a signature by the issuer, or by whom the issuer named for
// it, makes an answer of it, and only within its own dates.
//
// It verifies no chain: what it is given has to be one that crypto/x509 verified,
// or addresses of an attacker's choice are fetched. It does not decide what an
// unknown state means (a rule says soft or hard), does not ask whether the
// certificate of a delegated responder was revoked, sends no nonce (most
// responders sign in advance, RFC 5019 §4), reads neither delta nor indirect
// lists, speaks no LDAP, and keeps nothing on disk. It has no clock: the caller
// says what time it is.
package revocation
