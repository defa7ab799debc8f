package revocation

import (
	"strconv"
	"strings"
	"time"
)

// A State is what is known of a certificate. The zero State is Unknown.
type State uint8

// The states. A certificate on hold is Revoked for as long as it is.
const (
	Unknown State = iota
	Good
	Revoked
)

func (s State) String() string {
	return [...]string{"unknown", "good", "revoked"}[min(s, Revoked)]
}

// A Source is where a state was learnt.
type Source string

// The sources. Nobody was asked where there was no need to, or nobody to ask.
const (
	FromNobody Source = ""
	FromStaple Source = "staple"
	FromOCSP   Source = "ocsp"
	FromCRL    Source = "crl"
)

// A Result is what is known of a chain. It is Revoked if any of its certificates
// is, Good if all are, and Unknown otherwise; the rest speaks of the certificate
// that made it so, and of the leaf where all are good.
type Result struct {
	State       State
	Source      Source
	Cached      bool      // it was known before this question
	Certificate string    // the subject, quoted and cut
	Detail      string    // in words: what is wrong, or why nobody was asked. What a peer chose is quoted and cut
	At          time.Time // when it was revoked, or else as of when the answer holds; zero when there is none
	Until       time.Time // the answer's nextUpdate; zero when there is none

	// MissingStaple reports that the leaf demands a stapled answer (TLS feature
	// status_request, RFC 7633 §4.2.3.1) and that none came which holds.
	MissingStaple bool
}

func unknown(detail string) Result { return Result{Detail: detail} }

// join makes one result of those of a chain's certificates, the leaf first.
func join(results []Result) Result {
	all := results[0]
	for _, r := range results[1:] {
		if all.State != Revoked && (r.State == Revoked || r.State == Unknown && all.State == Good) {
			all = r
		}
	}
	return all
}

// The most octets of what a certificate or a server says that are repeated.
const mostQuoted = 160

// quote makes what a peer chose fit for a log line.
func quote(s string) string {
	if len(s) > mostQuoted {
		return strconv.QuoteToASCII(s[:mostQuoted]) + "…"
	}
	return strconv.QuoteToASCII(s)
}

// shown gives an address as it is, if nothing in it could do harm.
func shown(address string) string {
	if len(address) > maxAddress || strings.ContainsFunc(address, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return quote(address)
	}
	return address
}

// reasonName gives the words for a code of RFC 5280 §5.3.1, where 7 is not used.
func reasonName(code int) string {
	names := [...]string{"", "key compromise", "CA compromise", "affiliation changed", "superseded", "cessation of operation",
		"on hold", "", "removed from the list", "privilege withdrawn", "attribute authority compromise"}
	if code < 0 || code >= len(names) {
		return ""
	}
	return names[code]
}

// An answer is what a responder or a list says of one certificate.
type answer struct {
	state      State
	this, next time.Time
	revoked    time.Time // if it is Revoked
	reason     int
}

// result words an answer. That a responder does not know a certificate is no
// answer to the question, but something to be told.
func (a answer) result(source Source, cert string) Result {
	r := Result{State: a.state, Source: source, Certificate: cert, At: a.this, Until: a.next}
	switch a.state {
	case Revoked:
		r.At = a.revoked
		r.Detail = "revoked on " + a.revoked.UTC().Format("2006-01-02 15:04 MST")
		if why := reasonName(a.reason); why != "" {
			r.Detail += ": " + why
		}
	case Unknown:
		r.Detail = "the responder does not know the certificate"
	}
	return r
}
