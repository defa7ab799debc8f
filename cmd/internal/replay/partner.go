package replay

import (
	"slices"

	"postern/cmd/internal/recorded"
	"postern/enforce"
)

// client is the client's leg. What it would have done, had more been demanded of
// it, is only known where it was offered TLS and did without.
func (v *view) client(up enforce.Leg, envelope *enforce.Rule) enforce.Leg {
	l := &v.rec.ClientTLS
	leg := l.Facts(v.names)
	if v.watchedOtherwise() { // the other leg says what is missing
		leg = enforce.Leg{State: enforce.StateOK, Version: recorded.Version("TLS 1.3")}
	}
	switch leg.State {
	case enforce.StateUnknown:
		leg.State = enforce.StateNone
	case enforce.StateFailed:
		if !gave(v.rec, enforce.ClientTLSTooLow) { // that is no matter of policy
			return enforce.Leg{State: enforce.StateNone}
		}
		leg.Failure = enforce.ClientTLSTooLow
		if offered := highest(l.Offered); offered >= v.Policy.Floor() && offered != 0 {
			return enforce.Leg{State: enforce.StateNone}
		}
	}
	if leg.State == enforce.StateOK && up.State != enforce.StateOK && v.rule.ClientStartTLS != enforce.Always {
		leg = enforce.Leg{State: enforce.StateNone} // it would not have been offered TLS
	}
	demand := v.rule.ClientTLS
	if envelope != nil {
		demand = max(demand, envelope.ClientTLS)
	}
	was, is := v.rec.UpstreamTLS.InTLS(), up.State == enforce.StateOK || v.rule.ClientStartTLS == enforce.Always
	if leg.State == enforce.StateNone && demand != enforce.ClientAny && l.Hold == nil && is && !was &&
		v.lacks("whether the client would have used TLS, which it was not offered") {
		leg = enforce.Leg{State: enforce.StateOK, Version: recorded.Version("TLS 1.3")}
	}
	if leg.State == enforce.StateOK && demand == enforce.ClientVerified {
		v.clientCertificate(&leg, envelope)
	}
	return leg
}

// clientCertificate enters what the client's certificate is worth. Who was not
// asked for one shows none.
func (v *view) clientCertificate(leg *enforce.Leg, envelope *enforce.Rule) {
	l := &v.rec.ClientTLS
	verified, names := l.Verified, []string(nil)
	switch {
	case leg.Certificate == nil && gave(v.rec, enforce.ClientCertMissing):
		return
	case leg.Certificate == nil && v.lacks("which certificate the client would have shown, had it been asked"):
		leg.Certificate, verified = new(enforce.Certificate), true
		names = v.clientNames(envelope)
	case leg.Certificate == nil:
		return
	case !complete(l.Certificate) && v.lacks("all names of the client's certificate"):
		names = v.clientNames(envelope)
	}
	leg.Certificate.DNSNames = slices.Concat(leg.Certificate.DNSNames, names)
	leg.Chain = func(string) enforce.ChainResult {
		return enforce.ChainResult{Verified: verified, Reason: enforce.CertNotTrusted}
	}
}

func (v *view) clientNames(envelope *enforce.Rule) []string {
	names := slices.Clone(v.rule.ClientNames)
	if envelope != nil {
		names = append(names, envelope.ClientNames...)
	}
	return names
}

func highest(versions []string) uint16 {
	var high uint16
	for _, name := range versions {
		high = max(high, recorded.Version(name))
	}
	return high
}

// watchedOtherwise reports whether a session with the client's TLS was watched and
// would not be, or would be and was not.
func (v *view) watchedOtherwise() bool {
	was := v.rec.ClientTLS.StateOf() == enforce.StateWatched || v.rec.UpstreamTLS.StateOf() == enforce.StateWatched
	return (was || v.rec.ClientTLS.InTLS()) && was != (v.rule.Inspect == enforce.Watch)
}

// published is what is known of what a recipient's domain publishes. The record has
// the states, of one domain or the strictest of several, where they were asked for.
// They were judged then: a recipient who was not refused for them satisfied them.
func (v *view) published(t recorded.Transaction, domain string, envelope *enforce.Rule) *enforce.Published {
	asks := enforce.AsksPublished(v.Policy.Auto(v.conn), v.rule, envelope)
	if !asks.Any() {
		return nil
	}
	if a := address(domain); a.Literal || a.Domain == "" {
		return &enforce.Published{MX: enforce.MXNone}
	}
	p := &enforce.Published{Domain: domain, MX: enforce.MXKnown}
	reason := refusal(t, domain)
	if reason == "" && v.rec.Observed() && v.alone() {
		reason = v.rec.Reason
	}
	if reason == enforce.MXUnknown {
		p.MX = enforce.MXNone
		return p
	}
	if asks.DANE {
		p.DANE.State = v.dane(reason, v.ruleAsks(enforce.VerifyDANE, envelope))
	}
	if asks.MTASTS {
		p.MTASTS = v.mtaSTS(reason, v.ruleAsks(enforce.VerifyMTASTS, envelope))
	}
	return p
}

// ruleAsks reports whether a rule asks for a publication, which then has to be
// there; one that binds by itself may as well not.
func (v *view) ruleAsks(verify enforce.Verify, envelope *enforce.Rule) bool {
	return v.rule.Verify == verify || envelope != nil && envelope.Verify == verify
}

// inClear reports whether the way to the server would be in clear, so that nothing
// is there to match.
func (v *view) inClear() bool {
	return v.rule.TLS == enforce.Off || !v.rec.UpstreamTLS.InTLS()
}

// alone reports whether the session had recipients in one domain only, so that what
// the record says of published data is of that domain.
func (v *view) alone() bool {
	var all []string
	for _, t := range v.rec.Transactions {
		for _, d := range recipients(t) {
			if !slices.Contains(all, d) {
				all = append(all, d)
			}
		}
	}
	return len(all) == 1
}

func (v *view) dane(reason enforce.Reason, rule bool) enforce.DANEState {
	state := v.daneThen(reason, rule)
	if state == enforce.DANEMatches && v.inClear() {
		return enforce.DANEDiffers
	}
	return state
}

func (v *view) daneThen(reason enforce.Reason, rule bool) enforce.DANEState {
	best := enforce.DANENone
	if rule {
		best = enforce.DANEMatches
	}
	switch reason {
	case enforce.DANEMismatch:
		return enforce.DANEDiffers
	case enforce.DANERequired:
		return enforce.DANENone
	case enforce.DNSSECBogus:
		return enforce.DANEFailed
	}
	word := v.rec.UpstreamTLS.DANE
	switch {
	case word == "" && v.lacks("whether the recipient's domain publishes TLSA records, which nobody asked"):
		return best
	case word == "":
		return enforce.DANEDiffers
	case v.alone():
		for s := enforce.DANENone; s <= enforce.DANEUnavailable; s++ {
			if s.String() == word {
				return s
			}
		}
	}
	// Whoever was accepted satisfied what there was, in TLS.
	switch {
	case v.lacks("what each recipient's domain publishes (TLSA records), of several in one session"):
		return best
	case v.inClear():
		return enforce.DANEDiffers
	}
	return enforce.DANENone
}

func (v *view) mtaSTS(reason enforce.Reason, rule bool) enforce.MTASTS {
	none, held := enforce.MTASTS{State: enforce.MTASTSNone}, enforce.MTASTS{State: enforce.MTASTSEnforce, MXMatches: true, CertificateMatches: true}
	best, broken := none, enforce.MTASTS{State: enforce.MTASTSEnforce}
	if rule {
		best = held
	}
	l := &v.rec.UpstreamTLS
	switch reason {
	case enforce.MTASTSMXMismatch:
		return broken
	case enforce.MTASTSCert:
		return enforce.MTASTS{State: enforce.MTASTSEnforce, MXMatches: true}
	case enforce.MTASTSPolicy:
		return enforce.MTASTS{State: enforce.MTASTSInvalid}
	case enforce.MTASTSFetch:
		return enforce.MTASTS{State: enforce.MTASTSFailed}
	}
	switch {
	case l.MTASTS == "" && v.lacks("whether the recipient's domain has an MTA-STS policy, which nobody asked"):
		return best
	case l.MTASTS == "":
		return broken
	case v.alone():
		return v.policyOf(l)
	case v.lacks("what each recipient's domain publishes (MTA-STS), of several in one session"):
		return best
	case v.inClear():
		return broken
	}
	return none
}

// policyOf is the policy of the only domain there was. It was judged then, unless
// DANE had decided before.
func (v *view) policyOf(l *recorded.Leg) enforce.MTASTS {
	for s := enforce.MTASTSNone; s <= enforce.MTASTSFailed; s++ {
		if s.String() != l.MTASTS {
			continue
		}
		m := enforce.MTASTS{State: s, MXMatches: !gave(v.rec, enforce.MTASTSMXMismatch), CertificateMatches: !gave(v.rec, enforce.MTASTSCert)}
		judged := slices.Contains([]string{"", enforce.DANENone.String(), enforce.DANEUnusable.String()}, l.DANE)
		if !judged && (s == enforce.MTASTSEnforce || s == enforce.MTASTSTesting) {
			ok := v.lacks("whether the server satisfies the MTA-STS policy, where DANE decided")
			m.MXMatches, m.CertificateMatches = ok, ok
		}
		return m
	}
	return enforce.MTASTS{State: enforce.MTASTSInvalid}
}
