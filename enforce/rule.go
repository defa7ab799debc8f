package enforce

import (
	"net/netip"
	"time"
)

// Policy values as the configuration writes them. The zero value of each is the
// default of a rule.
type (
	// TLSMode is a rule's `tls`.
	TLSMode uint8
	// Verify is a rule's `verify`.
	Verify uint8
	// Fallback is a rule's `on_handshake_failure`.
	Fallback uint8
	// ClientStartTLS is a rule's `client_starttls`.
	ClientStartTLS uint8
	// ClientTLS is a rule's `client_tls`.
	ClientTLS uint8
	// Violation is a rule's `on_violation`.
	Violation uint8
	// Revocation is a rule's `revocation`.
	Revocation uint8
	// Inspect is a rule's `inspect`.
	Inspect uint8
)

// The values, each named in words by Word.
const (
	Opportunistic TLSMode = iota
	Forced
	Off
)

// What of the upstream's certificate is demanded.
const (
	VerifyNone        Verify = iota
	VerifyCA                 // a chain to trusted roots
	VerifyName               // that, and one of the rule's names
	VerifyFingerprint        // a pinned certificate or public key, whoever signed it
	VerifyDANE               // the TLSA records of the recipient's domain (RFC 7672)
	VerifyMTASTS             // the policy of the recipient's domain (RFC 8461)
)

// Whether a revoked certificate is refused, and one of which that is not known.
const (
	RevocationOff  Revocation = iota
	RevocationSoft            // one known to be revoked
	RevocationHard            // that, and one of which it cannot be found out
)

// What becomes of the client's TLS.
const (
	Terminate Inspect = iota
	Watch             // it passes through, and is looked at
)

// What an opportunistic rule does when the handshake fails.
const (
	Block Fallback = iota
	Cleartext
)

// When STARTTLS is offered to the client.
const (
	Mirror ClientStartTLS = iota
	Always
)

// What is demanded of the client leg.
const (
	ClientAny ClientTLS = iota
	ClientRequired
	ClientVerified
)

// What happens when a demand is not met.
const (
	OnViolationDefer Violation = iota
	OnViolationReject
	OnViolationLog
)

// A Fingerprint pins a certificate, or the public key in it.
type Fingerprint struct {
	SPKI   bool // of the SubjectPublicKeyInfo rather than the certificate
	SHA256 [32]byte
}

// A Rule says what must hold for a destination. The zero Rule with a name is the
// built-in last one: opportunistic, for all.
//
// Matchers left empty match everything; the entries of one matcher are
// alternatives; different matchers must all match. A rule with ToDomains or
// FromDomains is an envelope rule, any other a connection rule.
type Rule struct {
	Name string

	ToDomains    []string // "x", "*.x" (one or more labels below x) or "*"; lower-case A-labels
	FromDomains  []string
	ToNetworks   []netip.Prefix
	ToMXOf       []string // domains whose MX hosts have the destination's address; an alternative to ToNetworks
	FromNetworks []netip.Prefix

	TLS            TLSMode
	Verify         Verify
	Names          []string // for VerifyName; "*.x" is exactly one label below x
	Fingerprints   []Fingerprint
	CA             string   // file of roots for this rule; "" are those of [tls.trust]
	MinVersion     uint16   // tls.VersionTLS12 or tls.VersionTLS13; 0 is the floor
	ForwardSecrecy bool     // an ephemeral key exchange
	Ciphers        []uint16 // TLS 1.2 suites allowed; empty allows all that are offered
	Revocation     Revocation

	ServerName         string // SNI
	OnHandshakeFailure Fallback
	ClientCertificate  string // name of a [[tls.certificate]]
	ClientStartTLS     ClientStartTLS
	Inspect            Inspect

	ClientTLS   ClientTLS
	ClientNames []string

	OnViolation Violation
	Auto        bool // what the recipient domain publishes binds; true by default
	Owner       string
	Expires     time.Time // first moment at which the rule no longer matches; zero: never

	// Keys are the configuration keys that were written for this rule, by their
	// names there. Compile refuses keys that would have no effect by what was
	// written, not by what differs from the default.
	Keys map[string]bool
}

// Envelope reports whether r is judged at MAIL or RCPT rather than at connect.
func (r *Rule) Envelope() bool { return len(r.ToDomains) > 0 || len(r.FromDomains) > 0 }
