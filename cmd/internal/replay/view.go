package replay

import (
	"slices"
	"strings"
	"time"

	"postern/cmd/internal/recorded"
	"postern/enforce"
)

// A view is a session under one connection rule, with the best or the worst of
// what its record does not say.
type view struct {
	*session
	candidate
	best    bool
	except  string   // but for this, the worst
	missing []string // what was asked for and is not in the record
	anySNI  bool     // another certificate may have been shown
}

// lacks notes what is missing, and gives what is to be taken for it.
func (v *view) lacks(what string) bool {
	if !slices.Contains(v.missing, what) {
		v.missing = append(v.missing, what)
	}
	return v.best && what != v.except
}

func (v *view) decide(stage enforce.Stage, envelope *enforce.Rule, published *enforce.Published, requireTLS bool) enforce.Verdict {
	facts := enforce.Facts{Upstream: v.upstream(envelope), Published: published}
	facts.Client = v.client(facts.Upstream, envelope)
	up := &facts.Upstream
	if hold := v.rec.ClientTLS.Hold; hold != nil {
		facts.Held = &enforce.Hold{Offered: recorded.Version(hold.Offered)}
	}
	if up.State == enforce.StateNone && gave(v.rec, enforce.StartTLSStripped) && !v.Forgetful {
		facts.Remembered = &enforce.Remembered{}
	}
	return enforce.Decide(enforce.Question{
		Stage: stage, Connection: v.conn, Floor: v.Policy.Floor(), Rule: v.rule, Envelope: envelope, Facts: facts,
		RequireTLS: requireTLS, HoldFor: v.Policy.HoldsFor(v.conn), Auto: v.Policy.Auto(v.conn), LogDowngrade: v.Policy.LogDowngrade(),
	})
}

// connection is the verdict before the envelope. The client's own handshakes that
// failed are no matter of policy, but for the floor.
func (v *view) connection() enforce.Verdict {
	stage := enforce.AfterUpstreamTLS
	if v.rec.UpstreamTLS.StateOf() == enforce.StateNone {
		stage = enforce.AfterEHLO
	}
	return v.decide(stage, nil, nil, false)
}

// mail is the verdict on a sender.
func (v *view) mail(t recorded.Transaction) enforce.Verdict {
	sender := address(t.MailDomain)
	return v.decide(enforce.AtMail, v.Policy.EnvelopeRule(v.conn, sender, nil, v.Now), nil, gave(v.rec, enforce.RequireTLSNotPossible))
}

// recipient is the verdict on a domain's recipients, that on the sender included.
func (v *view) recipient(t recorded.Transaction, domain string) enforce.Verdict {
	if refused := v.mail(t); refused.Refused() {
		return refused
	}
	envelope := v.Policy.EnvelopeRule(v.conn, address(t.MailDomain), address(domain), v.Now)
	return v.decide(enforce.AtRcpt, envelope, v.published(t, domain, envelope), false)
}

// address is that of a domain as it stands in a record: a literal in brackets, or
// nothing for the null sender.
func address(domain string) *enforce.Address {
	if strings.HasPrefix(domain, "[") {
		return &enforce.Address{Literal: true}
	}
	return &enforce.Address{Domain: domain}
}

// otherwise is what is missing where TLS was watched and would not be, or the other
// way round: who speaks to the server then is another.
const otherwise = "what would have been agreed on, had TLS been watched, or not"

// upstream is the way to the server as it would have come out.
func (v *view) upstream(envelope *enforce.Rule) enforce.Leg {
	l := &v.rec.UpstreamTLS
	leg := l.Facts(v.names)
	if leg.State == enforce.StateNone && l.Failure != "" { // it was dialled again in clear
		leg.State = enforce.StateFailed
	}
	switch {
	case v.rule.TLS == enforce.Off:
		return enforce.Leg{State: enforce.StateNone}
	case v.watchedOtherwise() && v.lacks(otherwise):
		return v.perfect(envelope)
	case v.watchedOtherwise():
		return enforce.Leg{State: enforce.StateFailed, Failure: enforce.TLSHandshakeFailed}
	}
	switch leg.State {
	case enforce.StateFailed:
		if v.wider(leg) && v.lacks("what the handshake that failed would have come to, had more been offered") {
			return v.perfect(envelope)
		}
		v.failed(&leg)
		if enforce.MayFallBack(v.rule, leg, v.Policy.Floor()) {
			return enforce.Leg{State: enforce.StateNone, Failure: leg.Failure}
		}
		return leg
	case enforce.StateNone:
		leg.Failure = enforce.StartTLSNotOffered
		wasOff := strings.HasPrefix(v.rec.TLS, "none")
		refused := gave(v.rec, enforce.StartTLSRefused) || l.StrippedBy == "refused"
		if !refused && !wasOff && v.fellBack() {
			refused = !v.lacks("whether the server refused STARTTLS, and was dialled again in clear")
		}
		switch {
		case refused:
			leg.State, leg.Failure = enforce.StateFailed, enforce.StartTLSRefused
			if enforce.MayFallBack(v.rule, leg, v.Policy.Floor()) {
				leg.State = enforce.StateNone
			}
		case wasOff && v.lacks("whether the server has TLS, and which, where it was switched off"):
			return v.perfect(envelope)
		case wasOff:
			return enforce.Leg{State: enforce.StateFailed, Failure: enforce.TLSHandshakeFailed, VersionRefused: true}
		}
		return leg
	}
	if leg.State == enforce.StateOK {
		v.chosen(&leg)
	}
	v.certificate(&leg, envelope)
	return leg
}

// fellBack reports whether the record's rule may have left a server in clear that
// refused STARTTLS, of which no record tells.
func (v *view) fellBack() bool {
	for _, r := range v.Policy.Rules() {
		if r.Name == v.rec.Rule {
			return r.OnHandshakeFailure == enforce.Cleartext
		}
	}
	return true
}

// wider reports whether more would have been offered in a handshake that failed: a
// lower version, if it is known that the floor was higher, or more suites.
func (v *view) wider(leg enforce.Leg) bool {
	low := recorded.Version("TLS 1.2")
	if v.Policy.Floor() <= low && leg.Version >= low || v.Policy.Floor() <= low && higherFloor(v.rec) {
		return true
	}
	if leg.Version != 0 && leg.Version < v.Policy.Floor() || gave(v.rec, enforce.StartTLSRefused) || gave(v.rec, enforce.StartTLSInjection) {
		return false
	}
	for _, r := range v.Policy.Rules() {
		if r.Name == v.rec.Rule {
			return len(enforce.Offer(r)) < len(enforce.Offer(v.rule))
		}
	}
	return true // who knows what that rule had offered
}

// higherFloor reports whether a record shows that the floor was TLS 1.3 then.
func higherFloor(r *recorded.Record) bool {
	tells := func(reason enforce.Reason, detail string) bool {
		return reason == enforce.TLSVersionTooLow && (strings.HasPrefix(detail, "TLS 1.3 and later") || strings.HasSuffix(detail, "is below TLS 1.3"))
	}
	return tells(r.Reason, r.Detail) || slices.ContainsFunc(r.Failures, func(f recorded.Failure) bool { return tells(f.Reason, f.Detail) })
}

// failed enters why a handshake failed, and that it may not under another rule.
func (v *view) failed(leg *enforce.Leg) {
	leg.Failure = enforce.TLSHandshakeFailed
	for _, reason := range []enforce.Reason{enforce.StartTLSRefused, enforce.StartTLSInjection} {
		if gave(v.rec, reason) {
			leg.Failure = reason
		}
	}
	leg.VersionRefused = leg.Version == 0 && gave(v.rec, enforce.TLSVersionTooLow)
	leg.Certificate = nil
}

// perfect is a server that falls short of nothing.
func (v *view) perfect(envelope *enforce.Rule) enforce.Leg {
	leg := enforce.Leg{State: enforce.StateOK, Version: recorded.Version("TLS 1.3"), Certificate: new(enforce.Certificate)}
	v.anySNI = true
	v.certificate(&leg, envelope)
	return leg
}

// chosen looks at what the server chose: of a smaller offer it may have chosen
// something else, or nothing.
func (v *view) chosen(leg *enforce.Leg) {
	offer := enforce.Offer(v.rule)
	if leg.Version >= recorded.Version("TLS 1.3") || slices.Contains(offer, leg.Cipher) || len(offer) == 0 {
		return
	}
	if v.lacks("which suite the server would have chosen of those that the rule has offered") {
		leg.Cipher = offer[0]
	}
}

// certificate enters what a certificate is worth, as far as the record knows.
func (v *view) certificate(leg *enforce.Leg, envelope *enforce.Rule) {
	l := &v.rec.UpstreamTLS
	demands := slices.ContainsFunc([]*enforce.Rule{v.rule, envelope}, func(r *enforce.Rule) bool { return r != nil && r.Verify != enforce.VerifyNone })
	other := demands && (v.anySNI || leg.Certificate == nil && l.StateOf() == enforce.StateWatched || v.rule.ServerName != "" && l.SNI != "" && v.rule.ServerName != l.SNI)
	const shown = "which certificate the server would have shown"
	switch {
	case other && v.lacks(shown):
		leg.Certificate = v.wanted(new(enforce.Certificate), envelope)
	case other:
		leg.Certificate = new(enforce.Certificate)
	case l.Certificate != nil && !complete(l.Certificate) && v.demandsNames(envelope) && v.lacks("all names of the certificate"):
		c := *leg.Certificate
		c.DNSNames = v.wanted(new(enforce.Certificate), envelope).DNSNames
		leg.Certificate = &c
	}
	if leg.Certificate == nil {
		return
	}
	leg.Chain = func(roots string) enforce.ChainResult {
		if other {
			return enforce.ChainResult{Verified: v.lacks(shown), Reason: enforce.CertNotTrusted}
		}
		if known, same := v.roots(); !same || known != roots {
			return enforce.ChainResult{Verified: v.lacks("whether the certificate leads to the roots that a rule asks for"), Reason: enforce.CertNotTrusted}
		}
		return enforce.ChainResult{Verified: l.Verified, Reason: v.whyUntrusted(leg.Certificate)}
	}
	leg.Revoked = func(string, bool) enforce.RevocationResult {
		switch l.Revocation {
		case "good":
			return enforce.RevocationResult{State: enforce.RevocationGood}
		case "revoked":
			return enforce.RevocationResult{State: enforce.Revoked}
		}
		if v.lacks("whether the certificate was revoked, which nobody asked") {
			return enforce.RevocationResult{State: enforce.RevocationGood}
		}
		return enforce.RevocationResult{State: enforce.Revoked}
	}
}

func complete(c *recorded.Certificate) bool {
	_, whole := c.DNSNames()
	return whole
}

func (v *view) demandsNames(envelope *enforce.Rule) bool {
	return v.rule.Verify == enforce.VerifyName || envelope != nil && envelope.Verify == enforce.VerifyName
}

// wanted is a certificate that the rules are content with.
func (v *view) wanted(c *enforce.Certificate, envelope *enforce.Rule) *enforce.Certificate {
	for _, r := range []*enforce.Rule{v.rule, envelope} {
		if r == nil {
			continue
		}
		c.DNSNames = slices.Concat(c.DNSNames, r.Names)
		for _, pin := range r.Fingerprints {
			if pin.SPKI {
				c.SPKISHA256 = pin.SHA256
			} else {
				c.SHA256 = pin.SHA256
			}
		}
	}
	return c
}

// roots gives the roots that the record's chain was held against: those of its
// connection rule, if one of that name is still there.
func (v *view) roots() (name string, known bool) {
	if v.rec.Rule == enforce.DefaultRule {
		return "", true
	}
	for _, r := range v.Policy.Rules() {
		if r.Name == v.rec.Rule {
			return r.CA, true
		}
	}
	return "", false
}

// whyUntrusted goes by the dates, which are in the record.
func (v *view) whyUntrusted(c *enforce.Certificate) enforce.Reason {
	at, err := time.Parse(time.RFC3339, v.rec.Time)
	if err == nil && !c.NotAfter.IsZero() && (at.After(c.NotAfter) || at.Before(c.NotBefore)) {
		return enforce.CertExpired
	}
	return enforce.CertNotTrusted
}
