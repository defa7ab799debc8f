package session

import (
	"context"
	"crypto/x509"
	"net/netip"
	"slices"
	"time"

	"postern/enforce"
)

// A Partners tells what is known of the domains that mail goes to. Whatever it has
// to ask for it keeps, for this session and for others.
type Partners interface {
	// MXOf gives those of the domains named in to_mx_of of which the address is
	// one of an MX host. It never waits.
	MXOf(netip.Addr) []string
	// Host is the name of the MX host at an address, "" where none is known. It
	// never waits.
	Host(netip.Addr) string
	// Published holds what domain publishes against a server. It takes no longer
	// than the context.
	Published(ctx context.Context, domain string, parts enforce.Auto, up Server) Finding
	// Hosts gives the MX hosts of domain, of those at the address if there are any.
	// It takes no longer than the context.
	Hosts(ctx context.Context, domain string, at netip.Addr) []string
}

// A Server is who a session talks to, and what it showed.
type Server struct {
	Address netip.AddrPort
	Chain   []*x509.Certificate // the leaf first; empty without TLS
	Named   bool                // it matters whether the certificate is for an MX host
}

// A Finding is what a domain publishes, and the names of the hosts that it would
// have its mail given to: of those with the server's address if there are any.
type Finding struct {
	enforce.Published
	Hosts []string
}

// A partner is what a session knows of its recipients' domains.
type partner struct {
	known map[query]Finding // with the present upstream leg
	since time.Time         // when the first of them was asked for
	spent time.Duration     // waiting for others than the peers
	// proven are the domains whose publications vouch for the present upstream's
	// certificate.
	proven   map[string]bool
	replaced bool // the upstream leg was replaced for another name
}

// A query is a domain and what is asked of it.
type query struct {
	domain string
	parts  enforce.Auto
	named  bool // whether the certificate is for an MX host matters
}

// How long a session waits for what neither peer has a part in: for one answer,
// and for all of them. What takes longer is there for the next one.
const (
	patience    = 10 * time.Second
	allPatience = time.Minute
	noPatience  = 100 * time.Millisecond
)

// patience is the context of one such wait.
func (s *Session) patience() (context.Context, func()) {
	left := min(patience, allPatience-s.partner.spent) // less than nothing is for what is known already
	if s.snap.Observe {
		left = min(left, noPatience) // a verdict that nobody hears is nothing to wait for
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(s.ctx, left)
	return ctx, func() {
		cancel()
		s.partner.spent += time.Since(began)
	}
}

// consult adds what is known of a recipient's domain to the facts, and gives the
// hosts that the domain would have its mail given to.
func (s *Session) consult(recipient enforce.Address, rule *enforce.Rule, requireTLS bool) []string {
	s.facts.Published = nil
	parts := enforce.AsksPublished(s.auto, s.rule, rule)
	if s.snap.Partners == nil || !parts.Any() && (!requireTLS || s.smartHost) {
		return nil
	}
	if recipient.Domain == "" {
		s.facts.Published = &enforce.Published{MX: enforce.MXNone, Detail: "it has no domain"}
		return nil
	}
	q := query{recipient.Domain, parts, requireTLS}
	if now := time.Now(); now.Sub(s.partner.since) > lasting {
		s.partner.known, s.partner.since = nil, now
	}
	found, ok := s.partner.known[q]
	if !ok {
		s.flushBoth() // what stands before it need not wait for it
		ctx, done := s.patience()
		defer done()
		up := Server{Address: s.rec.Upstream.Address, Named: requireTLS}
		if s.facts.Upstream.State == enforce.StateOK {
			up.Chain = s.shown
		}
		found = s.snap.Partners.Published(ctx, q.domain, q.parts, up)
		if s.partner.known == nil {
			s.partner.known = map[query]Finding{}
		}
		if len(s.partner.known) < maxKnown {
			s.partner.known[q] = found
		}
	}
	s.facts.Published = &found.Published
	s.notePublished(found.Published)
	return found.Hosts
}

// lasting is how long a session goes by what it was told of a domain; it may itself
// last for hours.
const lasting = 5 * time.Second

// graver gives whichever of two words stands later in the order.
func graver(a, b string, order ...string) string {
	if slices.Index(order, b) > slices.Index(order, a) {
		return b
	}
	return a
}

// maxKnown bounds how many domains a session keeps answers for; of more it asks
// again.
const maxKnown = 1000

// notePublished enters the strictest of what domains published in the record.
func (s *Session) notePublished(p enforce.Published) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec := &s.rec.UpstreamTLS
	rec.DANE = graver(rec.DANE, p.DANE.State.String(), "none", "matched", "unavailable", "unusable", "failed", "mismatch")
	rec.MTASTS = graver(rec.MTASTS, p.MTASTS.State.String(), "none", "off", "failed", "unanswered", "invalid", "testing", "enforce")
	chain := s.facts.Upstream.Chain
	if p.DANE.State == enforce.DANEMatches ||
		(p.MTASTS.State == enforce.MTASTSEnforce || p.MTASTS.State == enforce.MTASTSTesting) && p.MTASTS.MXMatches &&
			p.MTASTS.CertificateMatches && chain != nil && chain("").Verified {
		if s.partner.proven == nil {
			s.partner.proven = map[string]bool{}
		}
		if len(s.partner.proven) < maxKnown {
			s.partner.proven[p.Domain] = true
		}
	}
}
