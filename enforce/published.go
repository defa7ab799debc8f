package enforce

// What a recipient domain publishes about its mail servers: TLSA records (DANE,
// RFC 7672), a policy (MTA-STS, RFC 8461), and its MX hosts, to which both speak.

// A Published is what a recipient domain publishes, held against what the
// upstream leg showed. The zero value is no knowledge, and satisfies no rule that
// asks for some.
type Published struct {
	Domain string
	MX     MXState
	Detail string // of MX, in words
	// NamesHost: the certificate is for one of the MX hosts.
	NamesHost bool
	DANE      DANE
	MTASTS    MTASTS
}

// An MXState says whether the hosts that take a domain's mail are known.
type MXState uint8

// The states of a domain's MX hosts.
const (
	MXNotAsked    MXState = iota
	MXKnown               // there are some
	MXNone                // there are none: no such domain, a null MX (RFC 7505), an address literal
	MXFailed              // asking failed: bogus, or no answer in time
	MXUnavailable         // no resolver is there to ask
)

// A DANEState is what the TLSA records of a domain's MX hosts come to.
type DANEState uint8

// The states of DANE, with the words of the record.
const (
	DANENotAsked    DANEState = iota
	DANENone                  // "none": no MX host has records that DNSSEC secures
	DANEUnusable              // "unusable": some have, but none that can be used (RFC 7672 §2.1.1): TLS, unauthenticated
	DANEMatches               // "matched": the upstream's chain matches those of one MX host
	DANEDiffers               // "mismatch": it matches none, or there is nothing to match
	DANEFailed                // "failed": asking failed, or what came is bogus
	DANEUnavailable           // "unavailable": no resolver is there to ask
)

func (s DANEState) String() string {
	return [...]string{"", "none", "unusable", "matched", "mismatch", "failed", "unavailable"}[min(s, DANEUnavailable)]
}

// A DANE is what a domain's TLSA records say of the upstream leg.
type DANE struct {
	State  DANEState
	Host   string // the MX host whose records matched, or the first that has some
	Detail string
}

// An MTASTSState is what a domain's MTA-STS policy is.
type MTASTSState uint8

// The states of MTA-STS, with the words of the record.
const (
	MTASTSNotAsked   MTASTSState = iota
	MTASTSNone                   // "none": there is no policy
	MTASTSModeNone               // "off": one that asks for nothing (mode none)
	MTASTSTesting                // "testing"
	MTASTSEnforce                // "enforce"
	MTASTSInvalid                // "invalid": one that cannot be read
	MTASTSFailed                 // "failed": it is announced and cannot be had, and none is kept
	MTASTSUnanswered             // "unanswered": it is not known yet whether there is one
)

func (s MTASTSState) String() string {
	return [...]string{"", "none", "off", "testing", "enforce", "invalid", "failed", "unanswered"}[min(s, MTASTSUnanswered)]
}

// An MTASTS is what a domain's policy says of the upstream leg.
type MTASTS struct {
	State MTASTSState
	// MXMatches: no MX host is known to have the upstream's address, or one that
	// has it is allowed by the policy. CertificateMatches: a name of the
	// certificate is.
	MXMatches, CertificateMatches bool
	Detail                        string
}

// An Auto says which of what a recipient domain publishes binds although no rule
// asks for it.
type Auto struct{ DANE, MTASTS bool }

// Any reports whether anything does.
func (a Auto) Any() bool { return a.DANE || a.MTASTS }

// AsksPublished gives what of a recipient domain's publications a verdict at RCPT
// needs to know.
func AsksPublished(auto Auto, rules ...*Rule) Auto {
	needs := auto
	for _, r := range rules {
		if r != nil && !r.Auto {
			needs = Auto{}
		}
	}
	for _, r := range rules {
		if r != nil {
			needs.DANE = needs.DANE || r.Verify == VerifyDANE
			needs.MTASTS = needs.MTASTS || r.Verify == VerifyMTASTS
		}
	}
	return needs
}

// published judges what the rule demands of the recipient's domain. Before RCPT
// there is none.
func (j *judgement) published() {
	p := j.q.Facts.Published
	if j.q.Stage != AtRcpt || j.rule.Verify != VerifyDANE && j.rule.Verify != VerifyMTASTS {
		return
	}
	if p == nil {
		p = &Published{}
	}
	switch p.MX {
	case MXKnown:
	case MXFailed, MXUnavailable:
		j.failForNow(DNSSECBogus, "the MX hosts of %s cannot be looked up: %s", or(p.Domain, "the recipient"), or(p.Detail, "no answer"))
		return
	default:
		j.fail(MXUnknown, "the MX hosts of %s are not known: %s", or(p.Domain, "the recipient"), or(p.Detail, "nobody asked"))
		return
	}
	if j.rule.Verify == VerifyDANE {
		j.dane(p)
	} else {
		j.mtaSTS(p)
	}
}

// dane judges a rule that asks for DANE.
func (j *judgement) dane(p *Published) {
	switch p.DANE.State {
	case DANEMatches:
	case DANEDiffers:
		j.fail(DANEMismatch, "%s: %s", p.Domain, or(p.DANE.Detail, "the certificate does not match"))
	case DANEFailed, DANEUnavailable:
		j.failForNow(DNSSECBogus, "%s: %s", p.Domain, or(p.DANE.Detail, "TLSA records cannot be looked up"))
	default:
		j.fail(DANERequired, "%s: %s", p.Domain, or(p.DANE.Detail, "no TLSA records that DNSSEC secures"))
	}
}

// mtaSTS judges a rule that asks for MTA-STS. A policy in testing is one, for the
// rule has decided what the domain has not yet.
func (j *judgement) mtaSTS(p *Published) {
	switch p.MTASTS.State {
	case MTASTSEnforce, MTASTSTesting:
		j.policy(p, j.fail)
	case MTASTSModeNone, MTASTSInvalid:
		j.fail(MTASTSPolicy, "%s: %s", p.Domain, or(p.MTASTS.Detail, "the MTA-STS policy asks for nothing"))
	case MTASTSFailed, MTASTSUnanswered:
		j.failForNow(MTASTSFetch, "%s: %s", p.Domain, or(p.MTASTS.Detail, "its MTA-STS policy cannot be had"))
	default:
		j.fail(MTASTSFetch, "%s: %s", p.Domain, or(p.MTASTS.Detail, "no MTA-STS policy"))
	}
}

// policy holds the upstream's leg against an MTA-STS policy (RFC 8461 §4).
func (j *judgement) policy(p *Published, fail func(Reason, string, ...any)) {
	up := j.q.Facts.Upstream
	if up.State != StateOK {
		return // said by who asks for TLS
	}
	got := chain(up, "")
	switch {
	case !p.MTASTS.MXMatches:
		fail(MTASTSMXMismatch, "%s: %s", p.Domain, or(p.MTASTS.Detail, "the MTA-STS policy does not name this server"))
	case !got.Verified:
		fail(or(got.Reason, CertNotTrusted), "MTA-STS of %s: %s", p.Domain, or(got.Detail, "the certificate is not trusted"))
	case !p.MTASTS.CertificateMatches:
		fail(MTASTSCert, "%s: the certificate is for %s, which its MTA-STS policy does not name", p.Domain, some(up.Certificate.DNSNames))
	}
}

// auto judges what the recipient's domain publishes where no rule asks for it. A
// domain that has both leaves it to DANE (RFC 8461 §2). What cannot be had for
// want of any resolver does not bind: that nobody listens on loopback is no
// attack, and the record says so.
func (j *judgement) auto() {
	p, on := j.q.Facts.Published, j.q.Auto
	if j.q.Stage != AtRcpt || p == nil || !on.Any() || !j.q.Rule.Auto || j.q.Envelope != nil && !j.q.Envelope.Auto {
		return
	}
	j.rule = nil
	if p.MX == MXFailed {
		j.failForNow(DNSSECBogus, "the MX hosts of %s cannot be looked up: %s", p.Domain, or(p.Detail, "no answer"))
		return
	}
	if on.DANE {
		switch p.DANE.State {
		case DANEFailed:
			j.failForNow(DNSSECBogus, "%s: %s", p.Domain, or(p.DANE.Detail, "TLSA records cannot be looked up"))
			return
		case DANEDiffers:
			if j.inTLS(p, "TLSA records") {
				j.fail(DANEMismatch, "%s: %s", p.Domain, or(p.DANE.Detail, "the certificate does not match"))
			}
			return
		case DANEMatches:
			return
		case DANEUnusable:
			j.inTLS(p, "TLSA records") // and perhaps MTA-STS besides, which can be
		}
	}
	if !on.MTASTS {
		return
	}
	switch p.MTASTS.State {
	case MTASTSEnforce:
		if j.inTLS(p, "MTA-STS policy") {
			j.policy(p, j.fail)
		}
	case MTASTSTesting:
		j.policy(p, j.note)
	case MTASTSUnanswered: // that one fails to be had is an answer, which binds nobody
		j.failForNow(MTASTSFetch, "%s: %s", p.Domain, or(p.MTASTS.Detail, "its MTA-STS policy is not known yet"))
	}
}

// inTLS refuses a leg in clear where the domain's publication asks for TLS.
func (j *judgement) inTLS(p *Published, what string) bool {
	up := j.q.Facts.Upstream
	if up.State == StateOK {
		return true
	}
	if up.State == StateNone {
		j.fail(j.missing(), "%s has %s: %s", p.Domain, what, or(up.Detail, "STARTTLS is not offered"))
	}
	return false // of one that failed the floor has said so
}

// failForNow is fail for what is only not known: it is deferred whatever the rule
// says, for a name server that does not answer must not cost a message.
func (j *judgement) failForNow(reason Reason, format string, args ...any) {
	j.fail(reason, format, args...)
	j.failures[len(j.failures)-1].ForNow = true
}

// note records what is only tried out (RFC 8461 §5, mode testing).
func (j *judgement) note(reason Reason, format string, args ...any) {
	j.fail(reason, format, args...)
	j.failures[len(j.failures)-1].Logged = true
}
