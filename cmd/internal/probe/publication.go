package probe

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"postern/enforce/dane"
	"postern/enforce/mtasts"
)

// mostRecords bounds how many TLSA records of a host, and patterns of a policy, are
// told of.
const mostRecords = 20

func policyOf(p mtasts.Policy) *MTASTS {
	m := &MTASTS{State: p.State.String(), Detail: quote(p.Detail)}
	if p.State == mtasts.Found {
		m.Mode, m.MX, m.ID, m.MaxAge, m.Expires = string(p.Mode), quoteAll(p.MX), quote(p.ID), int(p.MaxAge/time.Second), moment(p.Expires)
	}
	return m
}

func daneOf(h dane.Host) *DANE {
	d := &DANE{State: h.State.String(), Base: quote(h.Base), Detail: quote(h.Detail)}
	for _, r := range h.Records[:min(len(h.Records), mostRecords)] {
		d.Records = append(d.Records, recordWords(r))
	}
	if more := len(h.Records) - mostRecords; more > 0 {
		d.Records = append(d.Records, fmt.Sprintf("and %d more", more))
	}
	return d
}

// recordWords writes a TLSA record as zone files do, its data cut.
func recordWords(r dane.Record) string {
	const most = 64 // octets: a whole SHA-512
	data := hex.EncodeToString(r.Data[:min(len(r.Data), most)])
	if len(r.Data) > most {
		data += "..."
	}
	return fmt.Sprintf("%d %d %d %s", r.Usage, r.Selector, r.MatchingType, data)
}

// hold holds the server against what its host and the domain publish, each by
// itself.
func (s *sitting) hold(ctx context.Context) {
	select {
	case <-s.published:
	case <-ctx.Done():
		return
	}
	if s.place < len(s.hosts) {
		h := s.hosts[s.place]
		m := &Match{State: h.State.String(), Detail: quote(h.Detail)}
		if h.State == dane.Usable {
			ok, detail := dane.Match(h.Records, s.shown, h.Names, s.now)
			m.State, m.Detail = "mismatch", quote(detail)
			if ok {
				m.State = "matched"
			}
		}
		s.out.DANE = m
	}
	policy := s.listing.Policy
	if policy.State != mtasts.Found || policy.Mode == mtasts.ModeNone {
		return
	}
	m := &Match{State: "mismatch"}
	switch {
	case s.name != "" && !policy.MatchMX(s.name):
		m.Detail = "the policy does not name this host"
	case len(s.shown) == 0:
		m.Detail = "no certificate was shown"
	case s.out.Chain == nil || !s.out.Chain.Verified:
		m.Detail = "the certificate does not verify"
	case !policy.MatchCertificate(s.shown[0].DNSNames):
		m.Detail = "the policy does not name the certificate"
	default:
		m.State = "matched"
	}
	s.out.MTASTS = m
}
