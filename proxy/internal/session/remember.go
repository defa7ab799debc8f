package session

import (
	"net/netip"
	"slices"

	"postern/enforce"
	"postern/proxy/internal/record"
	"postern/smtpwire"
)

// A Memory knows what destinations and domains could do in earlier sessions. None
// of its methods waits.
type Memory interface {
	// Recall gives what is known of a destination, nil where nothing is that could
	// be relied on.
	Recall(netip.AddrPort) *enforce.Remembered
	// RecallDomain gives what is known of a domain, from sessions that verified or
	// from those of the same client.
	RecallDomain(domain string, client netip.Addr) *enforce.Remembered
	Learn(Observation)
}

// An Observation is what a session saw of its upstream.
type Observation struct {
	Client  netip.Addr
	Address netip.AddrPort
	Domains []string // of recipients that it accepted; none where it is a smart host
	TLS     bool     // the leg had TLS above the floor
	Version uint16
	Issuer  string // of the certificate, redacted
	SPKI    [32]byte
	// Verified: somebody other than the server itself vouched for its certificate
	// under this name: a rule, or the recipient's domain, or DNS and a known root.
	Verified bool
	// VerifiedDomains: each of Domains did, by what it publishes.
	VerifiedDomains bool
}

// recollect adds what is remembered of the destination to the facts, and says what
// may have taken STARTTLS away.
func (s *Session) recollect() {
	s.facts.Remembered = nil
	if s.snap.Memory != nil && s.rec.Upstream.Address.IsValid() {
		s.facts.Remembered = s.snap.Memory.Recall(s.rec.Upstream.Address)
	}
}

// blameHand notes in whose hands STARTTLS may have been lost, by the marks that
// they leave. The client is not told: it could not mend it.
func (s *Session) blameHand() {
	s.rec.UpstreamTLS.StrippedBy = smtpwire.StripMark([]byte(s.rec.Upstream.Banner), s.caps, s.heloOnly).String()
}

// recollectDomain does so for a recipient's domain, where nothing is remembered of
// the destination. What a smart host can do its recipients' domains do not know.
func (s *Session) recollectDomain(domain string) {
	if m := s.facts.Remembered; m != nil && m.Domain == "" {
		return
	}
	s.facts.Remembered = nil
	if s.snap.Memory != nil && domain != "" && s.facts.Upstream.State == enforce.StateNone && !s.smartHost {
		s.facts.Remembered = s.snap.Memory.RecallDomain(domain, s.conn.Client)
	}
}

// memorize keeps what the session saw, when it is over.
func (s *Session) memorize() {
	up := s.facts.Upstream
	secure := up.State == enforce.StateOK || up.State == enforce.StateWatched
	if s.snap.Memory == nil || !secure && up.State != enforce.StateNone || !s.rec.Upstream.Address.IsValid() ||
		secure && s.legReason != "" {
		return // what fell short of its rule is nothing to go by later
	}
	o := Observation{Client: s.conn.Client, Address: s.rec.Upstream.Address}
	if secure && up.Version >= s.snap.Policy.Floor() {
		o.TLS, o.Version, o.Verified = true, up.Version, s.vouchedFor()
		if c := s.rec.UpstreamTLS.Certificate; c != nil {
			o.Issuer, o.SPKI = c.Issuer, c.SPKISHA256
		}
	}
	if !s.smartHost {
		o.Domains = acceptedDomains(s.rec.Transactions)
		o.VerifiedDomains = o.TLS && len(o.Domains) > 0 && !slices.ContainsFunc(o.Domains, func(d string) bool { return !s.partner.proven[d] })
	}
	s.snap.Memory.Learn(o)
}

// vouchedFor reports whether the upstream's certificate was verified for whom it
// is, and not just for whom it says it is: by a rule, or by DNS for the MX host of a
// domain that a rule names. What a recipient's domain publishes vouches for that
// domain alone. Anybody can have one whose records name this address.
func (s *Session) vouchedFor() bool {
	up, r := s.facts.Upstream, s.rule
	if up.State != enforce.StateOK || up.Certificate == nil || s.legReason != "" {
		return false
	}
	if r.Verify == enforce.VerifyName || r.Verify == enforce.VerifyFingerprint || r.Verify == enforce.VerifyCA && r.CA != "" {
		return true
	}
	if s.snap.Partners == nil {
		return false
	}
	host := s.snap.Partners.Host(s.conn.Upstream)
	return host != "" && up.Chain("").Verified && enforce.MatchNames(up.Certificate.DNSNames, []string{host})
}

// mostDomains bounds what one session teaches of domains.
const mostDomains = 100

func acceptedDomains(transactions []*record.Transaction) []string {
	var all []string
	seen := map[string]bool{}
	for _, t := range transactions {
		for _, d := range t.RcptDomains {
			if d != "" && d[0] != '[' && !seen[d] && len(all) < mostDomains {
				seen[d] = true
				all = append(all, d)
			}
		}
	}
	return all
}
