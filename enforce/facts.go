package enforce

import (
	"net/netip"
	"time"
)

// A Hold is what is known of a client whose last TLS handshake with the same
// destination fell below the floor. Such a client often comes back in clear.
type Hold struct {
	Offered      uint16    // the highest TLS version it offered
	Since, Until time.Time // when it began, and when it ends unless it is renewed
	Refused      int       // how often the client was refused because of it
}

// A TLSState says how far TLS on a leg has come. The zero value is no knowledge
// at all, and no knowledge refuses.
type TLSState uint8

// The states of a leg, with the words the record uses for them.
const (
	StateUnknown TLSState = iota
	StateNone             // "none": the leg is settled in clear
	StateOK               // "ok": a handshake succeeded
	StateFailed           // "failed": a handshake was begun and failed, or STARTTLS was refused
	// "watched": the TLS of client and upstream passes through and was read off the
	// wire as far as it goes in clear. Certificates are not judged, for from TLS 1.3
	// on they do not. Both legs are the same TLS.
	StateWatched
)

func (s TLSState) String() string {
	switch s {
	case StateNone:
		return "none"
	case StateOK:
		return "ok"
	case StateFailed:
		return "failed"
	case StateWatched:
		return "watched"
	}
	return "unknown"
}

// A Certificate is what rules want to know of the leaf that a peer showed.
type Certificate struct {
	DNSNames            []string // subject alternative names of type dNSName, as they stand
	SHA256, SPKISHA256  [32]byte // of the whole certificate, of its SubjectPublicKeyInfo
	NotBefore, NotAfter time.Time
}

// A ChainResult is the outcome of building a chain from what the peer showed to
// a set of roots, at the time of the handshake. The zero value is untrusted.
type ChainResult struct {
	Verified bool
	Reason   Reason // CertNotTrusted or CertExpired when not verified
	Detail   string // why, in words; may quote the peer and is cut and escaped before it is shown
}

// A Leg is what is known of one end of a session.
type Leg struct {
	State   TLSState
	Failure Reason // why State is none (StartTLSNotOffered) or failed; empty otherwise
	Detail  string // of the failure, in words

	// VersionRefused: the peer answered with the alert protocol_version, so it
	// speaks nothing of what was offered (RFC 8446 §6.2).
	VersionRefused bool

	// NothingInCommon: the peer answered with the alert handshake_failure or
	// insufficient_security, so a wider offer might have done.
	NothingInCommon bool

	Version uint16 // agreed on or, when the handshake failed, chosen by the peer; 0 when not known
	Cipher  uint16 // likewise
	Group   uint16 // key-exchange group; 0 when there was none
	Resumed bool

	Certificate *Certificate // nil: the peer showed none
	// Chain verifies what the peer showed against the named roots: "" are those
	// of [tls.trust], anything else is the ca of a rule. Nil means that there is
	// nothing to verify. It is asked at most once a judgement and may cache.
	Chain func(roots string) ChainResult
	// Revoked tells whether anything in the chain that Chain verified with these
	// roots was revoked. With wait it may ask for as long as a session can wait,
	// without it it says at once what is known. Nil: nothing is.
	Revoked func(roots string, wait bool) RevocationResult
}

// A RevocationState is what is known of a chain's revocation. The zero value is
// nothing.
type RevocationState uint8

// The states, with the words of the record.
const (
	RevocationUnknown RevocationState = iota // "unknown"
	RevocationGood                           // "good"
	Revoked                                  // "revoked"
)

func (s RevocationState) String() string {
	return [...]string{"unknown", "good", "revoked"}[min(s, Revoked)]
}

// A RevocationResult is what asking about a chain's revocation came to.
type RevocationResult struct {
	State  RevocationState
	Detail string // in words; may quote the peer
	// NobodyToAsk: no certificate of the chain says whom to ask about it.
	NobodyToAsk bool
}

// Facts is all that is known of a session's two legs.
type Facts struct {
	Upstream, Client Leg
	// RequireTLSOffered: the upstream lists REQUIRETLS inside TLS (RFC 8689).
	RequireTLSOffered bool
	// Held: the client is held to what its last handshake came to; nil: it is not.
	Held *Hold
	// Remembered: what the destination, or at RCPT the recipient's domain, could do
	// before; nil: nothing is remembered that could be relied on.
	Remembered *Remembered
	// Published: what the recipient's domain publishes, at RCPT; nil: nobody asked.
	Published *Published
}

// A Remembered is what earlier sessions with a destination, or with a domain, came
// to.
type Remembered struct {
	Domain      string    // the domain; "" when it is the destination itself
	Since, Last time.Time // when TLS was first and last seen there
	Version     uint16    // the best
	Count       int       // sessions
}

// A Connection is what selects connection rules.
type Connection struct {
	Client   netip.Addr // whoever opened the connection
	Upstream netip.Addr // the original destination
	// MXOf are those of the domains in a policy's MXDomains of which Upstream is an
	// address of an MX host.
	MXOf []string
}

// An Address is the part of an envelope path that rules look at.
type Address struct {
	// Domain is a lower-case A-label domain without trailing dot. It is empty
	// for the null reverse-path, for <postmaster>, and for a domain literal.
	Domain  string
	Literal bool // an address literal such as [192.0.2.1] stood where the domain does
}
