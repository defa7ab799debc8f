package probe

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"postern/enforce"
	"postern/enforce/published"
	"postern/smtpwire/tlshello"
)

// legOf gives the facts of a connection that was made as the proxy makes it, as a
// session has them, and the certificates that were shown.
func legOf(d *dialogue) (enforce.Leg, []*x509.Certificate) {
	switch {
	case d.phase == atSTARTTLS && d.reply == 0:
		return enforce.Leg{State: enforce.StateNone, Failure: enforce.StartTLSNotOffered, Detail: "STARTTLS is not offered"}, nil
	case d.phase == atSTARTTLS:
		return enforce.Leg{State: enforce.StateFailed, Failure: enforce.StartTLSRefused, Detail: "STARTTLS was answered " + strconv.Itoa(d.reply)}, nil
	}
	var leg enforce.Leg
	shown := d.state.PeerCertificates
	if d.phase == inTLS {
		leg = enforce.Leg{State: enforce.StateOK, Version: d.state.Version, Cipher: d.state.CipherSuite, Group: uint16(d.state.CurveID)}
	} else {
		leg = enforce.Leg{State: enforce.StateFailed, Failure: enforce.TLSHandshakeFailed, Detail: d.detail,
			VersionRefused:  d.alert == tlshello.AlertProtocolVersion,
			NothingInCommon: d.alert == tlshello.AlertHandshakeFailure || d.alert == tlshello.AlertInsufficientSecurity}
		if d.injected {
			leg.Failure = enforce.StartTLSInjection
		}
		if d.chosen != nil {
			leg.Version, leg.Cipher, leg.Group = d.chosen.Version, d.chosen.CipherSuite, d.chosen.Group
		}
		shown = parse(d.raw)
	}
	if len(shown) > 0 {
		c := shown[0]
		leg.Certificate = &enforce.Certificate{DNSNames: c.DNSNames, SHA256: sha256.Sum256(c.Raw),
			SPKISHA256: sha256.Sum256(c.RawSubjectPublicKeyInfo), NotBefore: c.NotBefore, NotAfter: c.NotAfter}
	}
	return leg, shown
}

// judge asks for the verdicts of a session, in its order and until one refuses.
func (s *sitting) judge(ctx context.Context) {
	v := &Verdict{Client: s.conn.Client.String(), Rule: s.rule.Name, Verdict: enforce.Allow.String()}
	s.out.Verdict = v
	s.settle(ctx, v)
	s.facts.Client = enforce.Leg{State: enforce.StateNone}
	stage := enforce.AfterUpstreamTLS
	if s.facts.Upstream.State == enforce.StateNone {
		stage = enforce.AfterEHLO
	}
	if !s.decide(v, enforce.AtConnect, nil) || !s.decide(v, stage, nil) || s.Domain == "" {
		return
	}
	recipient := &enforce.Address{Domain: s.Domain}
	atMail := s.Policy.EnvelopeRule(s.conn, s.Sender, nil, s.now)
	atRcpt := s.Policy.EnvelopeRule(s.conn, s.Sender, recipient, s.now)
	s.facts.Client = s.obliging(v, atMail, atRcpt)
	if !s.decide(v, enforce.AtMail, atMail) {
		return
	}
	if atRcpt != nil {
		v.Envelope = atRcpt.Name
	}
	if parts := enforce.AsksPublished(s.Policy.Auto(s.conn), s.rule, atRcpt); parts.Any() {
		server := published.Server{Address: s.to}
		if s.facts.Upstream.State == enforce.StateOK {
			server.Chain = s.shown
		}
		held := s.directory.Hold(ctx, s.directory.Look(ctx, s.Domain, s.Port, parts), server, s.now)
		s.facts.Published = &held.Published
		if ctx.Err() != nil {
			v.Verdict, v.Stage, v.Detail = unknown, enforce.AtRcpt.String(), "there was no time to find out what "+s.Domain+" publishes"
			return
		}
	} else if s.Policy.Relay(s.conn) {
		v.Notes = append(v.Notes, "the address is in [verify] relays: what the domain publishes does not bind without a rule")
	}
	s.decide(v, enforce.AtRcpt, atRcpt)
}

// settle brings the facts of the upstream leg to what a session would have after
// its fallbacks, and gives them the questions that rules have.
func (s *sitting) settle(ctx context.Context, v *Verdict) {
	up := &s.facts.Upstream
	if s.widened {
		v.Notes = append(v.Notes, "the offer that the rule narrows was refused, and made again with all suites")
	}
	switch {
	case s.rule.TLS == enforce.Off:
		*up = enforce.Leg{State: enforce.StateNone, Detail: "TLS is switched off for this destination"}
		s.facts.RequireTLSOffered = false
		v.Notes = append(v.Notes, `the rule has tls = "off": what the server offers is not used`)
	case enforce.MayFallBack(s.rule, *up, s.Policy.Floor()):
		*up = enforce.Leg{State: enforce.StateNone, Failure: up.Failure, Detail: up.Detail}
		v.Notes = append(v.Notes, "the rule has the server dialled again, in clear")
	}
	if s.rule.Inspect == enforce.Watch {
		v.Notes = append(v.Notes, `the rule has inspect = "watch": this is for a client that comes in clear; the TLS of others passes through to the server`)
	}
	if up.State != enforce.StateOK || len(s.shown) == 0 {
		return
	}
	type worth struct {
		enforce.ChainResult
		built []*x509.Certificate
	}
	known := map[string]worth{}
	look := func(roots string) worth {
		w, ok := known[roots]
		if !ok {
			w.ChainResult, w.built = s.Known.Verify(roots, s.shown, s.now)
			known[roots] = w
		}
		return w
	}
	up.Chain = func(roots string) enforce.ChainResult { return look(roots).ChainResult }
	up.Revoked = func(roots string, _ bool) (r enforce.RevocationResult) {
		// Always asked: a session that does not wait has the answer next time.
		if w := look(roots); w.Verified && s.Known.Revocation != nil {
			r, _ = s.Known.Revocation(ctx, w.built, s.first.state.OCSPResponse, s.now)
		}
		return r
	}
}

// obliging is a client leg that meets what rules demand of clients, which is not
// what is looked at here.
func (s *sitting) obliging(v *Verdict, rules ...*enforce.Rule) enforce.Leg {
	certificate := new(enforce.Certificate)
	demanded := false
	for _, r := range append(rules, s.rule) {
		if r == nil || r.ClientTLS == enforce.ClientAny {
			continue
		}
		demanded = true
		for _, n := range r.ClientNames {
			certificate.DNSNames = append(certificate.DNSNames, strings.Replace(n, "*", "client", 1))
		}
	}
	if demanded {
		v.Notes = append(v.Notes, "the client is taken for one that meets what a rule demands of it")
	}
	return enforce.Leg{State: enforce.StateOK, Version: tls.VersionTLS13, Cipher: tls.TLS_AES_128_GCM_SHA256, Certificate: certificate,
		Chain: func(string) enforce.ChainResult { return enforce.ChainResult{Verified: true} }}
}

// decide enters the verdict at a stage, and reports whether the session goes on.
func (s *sitting) decide(v *Verdict, stage enforce.Stage, envelope *enforce.Rule) bool {
	got := enforce.Decide(enforce.Question{
		Stage: stage, Connection: s.conn, Floor: s.Policy.Floor(), Rule: s.rule, Envelope: envelope, Facts: s.facts,
		Auto: s.Policy.Auto(s.conn), LogDowngrade: s.Policy.LogDowngrade(),
	})
	for _, f := range got.Failures {
		if words := fmt.Sprintf("%s: %s", f.Reason, quote(f.Detail)); f.Logged && !slices.Contains(v.Logged, words) {
			v.Logged = append(v.Logged, words)
		}
	}
	if !got.Refused() {
		return true
	}
	v.Verdict, v.Stage, v.Reason, v.Detail, v.By = got.Action.String(), stage.String(), string(got.Reason), quote(got.Detail), got.Rule
	if envelope != nil {
		v.Envelope = envelope.Name
	}
	v.Reply = "421 " + got.Reason.Enhanced(got.Action)
	switch {
	case stage >= enforce.AtMail:
		v.Reply = got.Reason.Codes(got.Action)
	case got.Action == enforce.Reject:
		v.Reply = "554 " + got.Reason.Enhanced(got.Action)
	}
	return false
}
