package mtasts

import (
	"errors"
	"strings"
	"time"

	"postern/enforce"
)

// A Mode is what a policy asks of senders (RFC 8461 §5).
type Mode string

// The modes.
const (
	ModeNone    Mode = "none"    // as if there were no policy; said with authority
	ModeTesting Mode = "testing" // deliver, and report what would not have held
	ModeEnforce Mode = "enforce" // do not deliver to a host that does not hold
)

// A State is what is known of a domain's policy.
type State uint8

// The states. The zero State is that of a Policy which nobody filled in, and says
// nothing: neither that there is a policy nor that there is none.
const (
	Unknown     State = iota
	NoPolicy          // no usable TXT record, and no policy that was fetched before
	Found             // Mode, MX, MaxAge, Fetched and Expires hold
	FetchFailed       // the TXT record or the policy could not be had: go on as without one (§3.3), unless a rule insists
	Invalid           // something was fetched that is not a policy: likewise
)

func (s State) String() string {
	switch s {
	case NoPolicy:
		return "none"
	case Found:
		return "found"
	case FetchFailed:
		return "fetch failed"
	case Invalid:
		return "invalid"
	}
	return "unknown"
}

// The kinds of failure. Each wraps its cause.
var (
	ErrDomain  = errors.New("mta-sts: not a domain in lower-case A-labels")
	ErrLookup  = errors.New("mta-sts: txt record")
	ErrFetch   = errors.New("mta-sts: policy fetch")
	ErrInvalid = errors.New("mta-sts: policy")
	ErrBusy    = errors.New("mta-sts: too many lookups under way")
	ErrClosed  = errors.New("mta-sts: closed")
	ErrStored  = errors.New("mta-sts: stored policy")
)

// A Policy is what is known of a domain's MTA-STS policy.
type Policy struct {
	Domain string
	State  State

	Mode    Mode          // Found only, as are those below
	MX      []string      // lower-case patterns, "host" or "*.host"; none is possible with ModeNone
	ID      string        // of the TXT record when it was fetched
	MaxAge  time.Duration // at most MostAge
	Fetched time.Time
	Expires time.Time // Fetched and MaxAge, but never sooner than the next look at the domain

	// Err is why the latest attempt failed; errors.Is tells ErrLookup, ErrFetch
	// and ErrInvalid apart and finds what caused them. With Found the policy holds
	// nevertheless, and only a newer one could not be had. Its text may hold what
	// a peer sent: Detail is for logs.
	Err error
	// Detail is Err in printable ASCII, at most 256 bytes.
	Detail string
}

// MatchMX reports whether the MX record name host is one that the policy allows
// (RFC 8461 §4.1). Case and one trailing dot don't matter. A policy without
// patterns allows none.
func (p Policy) MatchMX(host string) bool {
	host = strings.TrimSuffix(host, ".")
	// A record may say "*.example.com", which as a name presented by a certificate
	// would match and as a host is none.
	return !strings.Contains(host, "*") && enforce.MatchNames([]string{host}, p.MX)
}

// MatchCertificate reports whether a certificate with the DNS names dnsNames is
// one that a host which the policy allows could show (RFC 8461 §4.2). It is the
// comparison for who does not know the MX record's name. The chain and the dates
// have to be verified besides.
func (p Policy) MatchCertificate(dnsNames []string) bool {
	return enforce.MatchNames(dnsNames, p.MX)
}

const mostDetail = 256

// detail is err for a log: what a peer sent may stand in it.
func detail(err error) string {
	if err == nil {
		return ""
	}
	s := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, err.Error())
	return s[:min(len(s), mostDetail)]
}
