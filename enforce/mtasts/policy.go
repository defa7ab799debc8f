package mtasts

import (
	"errors"
	"net"
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
	ErrWebPKI  = errors.New("mta-sts: policy host's certificate") // besides ErrFetch: RFC 8460 §4.3.2.2 has it apart
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

	// Err is why the latest attempt failed: ErrLookup, ErrFetch or ErrInvalid and,
	// if it came from TXT, Dial or the time, what caused it. With Found the policy
	// holds nevertheless, and only a newer one could not be had.
	Err error
	// Detail is Err's text: printable ASCII of at most 256 bytes, fit for a log.
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

// A failure is an error that is kept with a domain, and so holds little: of what a
// peer sent (certificates, lines of HTTP) nothing but a text that is cut and
// printable.
type failure struct {
	text        string
	kind, cause error
}

// failed is err of a kind. cause is what of it can be kept, or nil.
func failed(kind, err, cause error) *failure {
	return &failure{text: printable(kind.Error() + ": " + withoutAddresses(err)), kind: kind, cause: cause}
}

// withoutAddresses words err without the addresses of both ends that an error of
// the net package names: a reply may quote it, and what is inside stays inside.
func withoutAddresses(err error) string {
	text := err.Error()
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		text = strings.ReplaceAll(text, op.Error(), op.Op+": "+op.Err.Error())
	}
	return text
}

func (f *failure) Error() string { return f.text }

// Unwrap gives the kind first, and the cause if it was kept.
func (f *failure) Unwrap() []error {
	if f.cause == nil {
		return []error{f.kind}
	}
	return []error{f.kind, f.cause}
}

// printable is s for a log: what a peer sent may stand in it.
func printable(s string) string {
	s = s[:min(len(s), mostDetail)] // bytes; half a character becomes a question mark
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
