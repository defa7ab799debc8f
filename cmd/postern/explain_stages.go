package main

import (
	"crypto/tls"
	"fmt"
	"slices"
	"time"

	"postern/cmd/internal/config"
	"postern/enforce"
)

var allowed = enforce.Allow.String()

// An explanation is what "explain --format json" prints.
type explanation struct {
	Mode     string        `json:"mode"`
	Client   string        `json:"client"`
	Upstream string        `json:"upstream"`
	From     string        `json:"from,omitempty"`
	To       []string      `json:"to,omitempty"`
	Facts    []statement   `json:"facts"`
	Stages   []stageResult `json:"stages"`
	Verdict  string        `json:"verdict"` // of the first stage that refuses, or "allow"
	Reason   string        `json:"reason,omitempty"`

	assumed [2]bool // client, upstream: not given
}

// A stageResult is one point of the session.
type stageResult struct {
	Stage      string    `json:"stage"`
	Recipient  string    `json:"recipient,omitempty"`
	Verdict    string    `json:"verdict"`
	Reason     string    `json:"reason,omitempty"`
	Detail     string    `json:"detail,omitempty"`
	DemandedBy string    `json:"demanded_by,omitempty"` // the rule, or "" for the floor
	Reply      string    `json:"reply,omitempty"`       // its codes
	Failures   []failure `json:"failures,omitempty"`    // all of them, where more than one failed or any was only logged
	Rules      []lookup  `json:"rules,omitempty"`
	Notes      []string  `json:"notes,omitempty"`
}

// A failure is one demand that was not met.
type failure struct {
	Reason     string `json:"reason"`
	Detail     string `json:"detail"`
	DemandedBy string `json:"demanded_by,omitempty"`
	Logged     bool   `json:"logged"` // recorded and let pass
}

// An explainer takes a question through the stages, in the order of a session
// and with the facts that a session would have at each.
type explainer struct {
	question
	file  *config.File
	now   time.Time
	rule  *enforce.Rule
	facts enforce.Facts
	out   *explanation
}

func explain(file *config.File, q question, now time.Time) *explanation {
	x := &explainer{question: q, file: file, now: now, out: &explanation{
		Mode: "enforce", Client: q.connection.Client.String(), Upstream: q.connection.Upstream.String(), Verdict: allowed, assumed: q.assumed,
	}}
	if file.Proxy.Observe {
		x.out.Mode = "observe"
	}
	if q.sender != nil {
		x.out.From = q.sender.shown
	}
	for _, r := range q.recipients {
		x.out.To = append(x.out.To, r.shown)
	}
	x.out.Facts = []statement{{"server", x.serverWords()}, {"client", x.clientWords()}}
	if x.connect() && x.upstream() && x.clientLeg() && x.mail() {
		for _, r := range x.recipients {
			x.rcpt(r)
		}
	}
	return x.out
}

// connect is where the connection rule is chosen. Like the others it reports
// whether the session comes further.
func (x *explainer) connect() bool {
	policy := x.file.Policy
	x.rule = policy.ConnectionRule(x.connection, x.now)
	m := &matching{connection: x.connection, now: x.now}
	return x.judge(enforce.AtConnect, nil, stageResult{Rules: m.lookups(policy.Rules(), false, x.rule)})
}

// upstream settles the way to the server, before the client's EHLO is answered.
func (x *explainer) upstream() bool {
	var notes []string
	x.facts.Client.State = enforce.StateNone
	x.facts.Upstream, notes = x.handshake()
	if enforce.MayFallBack(x.rule, x.facts.Upstream, x.file.Policy.Floor()) {
		failed := x.facts.Upstream
		x.facts.Upstream = enforce.Leg{State: enforce.StateNone, Failure: failed.Failure, Detail: failed.Detail}
		notes = append(notes, fmt.Sprintf("%s; the rule has the server dialled again, in clear", failed.Detail))
	}
	x.facts.RequireTLSOffered = x.requireTLS && x.facts.Upstream.State == enforce.StateOK
	stage := enforce.AfterUpstreamTLS
	if x.facts.Upstream.State == enforce.StateNone {
		stage = enforce.AfterEHLO
	}
	if x.facts.Upstream.State == enforce.StateFailed {
		return x.judgeFailed(stage, notes)
	}
	goesOn := x.judge(stage, nil, stageResult{Notes: notes})
	if goesOn && stage == enforce.AfterEHLO {
		last := &x.out.Stages[len(x.out.Stages)-1]
		last.Notes = append(last.Notes, "the mail leaves in clear")
	}
	return goesOn
}

// judgeFailed judges a handshake that failed, behind which no session goes on.
func (x *explainer) judgeFailed(stage enforce.Stage, notes []string) bool {
	if x.file.Proxy.Observe {
		notes = append(notes, "observed: the server is dialled again and all octets pass end to end, so that client and server get what they have without Postern")
	} else if x.facts.Client.State == enforce.StateFailed {
		notes = append(notes, "no reply: the handshake ends with an alert, and the connection closes")
	}
	x.judge(stage, nil, stageResult{Notes: notes})
	return false
}

// handshake is what comes of STARTTLS with the server. It is offered everything
// from the floor to TLS 1.3, and the suites that the rule leaves.
func (x *explainer) handshake() (leg enforce.Leg, notes []string) {
	offer := enforce.Offer(x.rule)
	failed := enforce.Leg{State: enforce.StateFailed, Failure: enforce.TLSHandshakeFailed, Detail: "the TLS handshake failed"}
	switch {
	case x.rule.TLS == enforce.Off:
		return enforce.Leg{State: enforce.StateNone, Detail: "TLS is switched off for this destination"},
			[]string{`the rule has tls = "off": what the server offers is not used`}
	case !x.startTLS:
		return enforce.Leg{State: enforce.StateNone, Failure: enforce.StartTLSNotOffered, Detail: "STARTTLS is not offered"}, nil
	case x.version == 0:
		return failed, nil
	case x.version < x.file.Policy.Floor():
		failed.Version = x.version
		return failed, nil
	}
	cipher := x.cipher
	switch {
	case x.version == tls.VersionTLS13 && cipher == 0:
		cipher = tls.TLS_AES_128_GCM_SHA256
	case x.version == tls.VersionTLS13:
	case cipher == 0:
		cipher = offer[0]
	case !slices.Contains(offer, cipher):
		return failed, []string{fmt.Sprintf("the rule does not have %s offered to the server, which has no other", tls.CipherSuiteName(cipher))}
	}
	certificate := x.certificate
	return enforce.Leg{
		State: enforce.StateOK, Version: x.version, Cipher: cipher, Certificate: &certificate,
		Chain: func(string) enforce.ChainResult { return x.chain },
	}, nil
}

// clientLeg is the client's own STARTTLS, if it is to use it and is offered it.
func (x *explainer) clientLeg() bool {
	if x.clientVersion == 0 {
		x.recall()
		return true
	}
	var missing string
	switch {
	case len(x.file.Proxy.TLS.Certificates) == 0:
		missing = "there is no [[tls.certificate]] to show"
	case x.facts.Upstream.State != enforce.StateOK && x.rule.ClientStartTLS != enforce.Always:
		missing = "the way to the server is in clear"
	}
	if missing != "" {
		return x.judge(enforce.AfterClientTLS, nil, stageResult{
			Notes: []string{"the client is not offered STARTTLS, for " + missing + "; it is taken to go on without"}})
	}
	floor := x.file.Policy.Floor()
	if x.clientVersion < floor {
		x.facts.Client = enforce.Leg{State: enforce.StateFailed, Failure: enforce.ClientTLSTooLow,
			Detail: tls.VersionName(x.clientVersion) + " is below " + tls.VersionName(floor)}
		return x.judgeFailed(enforce.AfterClientTLS, nil)
	}
	x.facts.Client = enforce.Leg{State: enforce.StateOK, Version: x.clientVersion}
	var notes []string
	if asks := x.file.Policy.RequestsClientCertificate(x.connection, x.now); x.clientShows != nil && asks {
		x.facts.Client.Certificate = x.clientShows
		x.facts.Client.Chain = func(string) enforce.ChainResult { return enforce.ChainResult{Verified: true} }
	} else if x.clientShows != nil {
		notes = append(notes, "the client is not asked for a certificate: no rule that could bind it demands one")
	}
	return x.judge(enforce.AfterClientTLS, nil, stageResult{Notes: notes})
}

// recall adds a hold to the facts as a session would: where it could matter.
func (x *explainer) recall() {
	if x.held != 0 && x.held < x.file.Policy.Floor() && x.file.Policy.MayHold(x.connection, x.now) {
		x.facts.Held = &enforce.Hold{Offered: x.held}
	}
}

func (x *explainer) mail() bool {
	policy := x.file.Policy
	rule := policy.EnvelopeRule(x.connection, x.sender.address(), nil, x.now)
	m := &matching{connection: x.connection, sender: x.sender, now: x.now}
	return x.judge(enforce.AtMail, rule, stageResult{Rules: m.lookups(policy.Rules(), true, rule)})
}

func (x *explainer) rcpt(recipient *envelopeAddress) {
	policy := x.file.Policy
	rule := policy.EnvelopeRule(x.connection, x.sender.address(), recipient.address(), x.now)
	m := &matching{connection: x.connection, sender: x.sender, recipient: recipient, now: x.now}
	result := stageResult{Recipient: recipient.shown, Rules: m.lookups(policy.Rules(), true, rule)}
	if x.facts.Published = nil; enforce.AsksPublished(enforce.Auto{}, x.rule, rule).Any() {
		x.publish(recipient)
		result.Notes = append(result.Notes, "what the domain publishes is not looked up, and taken to name a server whose certificate verifies; postern probe asks")
	}
	x.judge(enforce.AtRcpt, rule, result)
}

// publish has the recipient's domain publish what a server satisfies that is a good
// one, where a rule asks for it.
func (x *explainer) publish(recipient *envelopeAddress) {
	x.facts.Published = &enforce.Published{Domain: recipient.Domain, MX: enforce.MXKnown,
		DANE:   enforce.DANE{State: enforce.DANEMatches},
		MTASTS: enforce.MTASTS{State: enforce.MTASTSEnforce, MXMatches: true, CertificateMatches: true}}
	if recipient.Domain == "" {
		x.facts.Published = &enforce.Published{MX: enforce.MXNone, Detail: "it has no domain"}
	} else if x.facts.Upstream.State != enforce.StateOK || !x.chain.Verified {
		x.facts.Published.DANE.State = enforce.DANEDiffers
	}
}

// judge asks for the verdict at a stage and enters it. It reports whether the
// session goes on from there, as one that is only observed always does.
func (x *explainer) judge(stage enforce.Stage, envelope *enforce.Rule, r stageResult) bool {
	v := enforce.Decide(enforce.Question{
		Stage: stage, Connection: x.connection, Floor: x.file.Policy.Floor(), Rule: x.rule, Envelope: envelope,
		Facts: x.facts, RequireTLS: x.requireTLS && stage == enforce.AtMail,
		HoldFor: x.file.Policy.HoldsFor(x.connection),
	})
	r.Stage, r.Verdict, r.Reason, r.Detail, r.DemandedBy = stage.String(), v.Action.String(), string(v.Reason), v.Detail, v.Rule
	if len(v.Failures) > 1 || len(v.Failures) > 0 && !v.Refused() {
		for _, f := range v.Failures {
			r.Failures = append(r.Failures, failure{string(f.Reason), f.Detail, f.Rule, f.Logged})
		}
	}
	if v.Refused() {
		r.Reply = x.reply(stage, v)
		if x.out.Verdict == allowed {
			x.out.Verdict, x.out.Reason = r.Verdict, r.Reason
		}
	}
	x.out.Stages = append(x.out.Stages, r)
	return !v.Refused() || x.file.Proxy.Observe
}

// reply gives the codes that a refusal is spoken with, "" where none is: a
// handshake that failed has no reply, and one that is observed is not spoken.
func (x *explainer) reply(stage enforce.Stage, v enforce.Verdict) string {
	switch {
	case x.file.Proxy.Observe, x.facts.Client.State == enforce.StateFailed:
		return ""
	case stage >= enforce.AtMail:
		return v.Reason.Codes(v.Action)
	case v.Action == enforce.Reject:
		return "554 " + v.Reason.Enhanced(v.Action)
	}
	return "421 " + v.Reason.Enhanced(v.Action)
}
