package enforce

import (
	"errors"
	"net/netip"
	"slices"
	"time"
)

// A Policy is a list of rules that were found sound, ready to be asked which of
// them bind. It is made by Compile, never changes, and may be asked by any number
// of sessions at once.
//
// Rules are asked in the order of the file and the first that matches decides,
// within its kind: one connection rule and at most one envelope rule bind. An
// expired rule matches nothing, so that the next one decides.
//
// What it costs to ask does not grow with the number of rules, but for those that
// speak of the same network or domain.
type Policy struct {
	floor    uint16
	rules    []*compiled // in the order of the file; the built-in last one behind them
	envelope []*compiled
	last     *compiled
	mxOf     []string // of all rules

	atConnect    *index // of the connection rules, the built-in one last
	atMail       *index // of the envelope rules, whoever the recipient is
	atRcpt       *index // of the envelope rules
	ofClients    *index // of the envelope rules that demand TLS of a client, whoever sends to whom
	ofIdentities *index // of those that demand a certificate

	holdFor networkSet
	verify  Verification
	relays  networkSet // of verify
}

// compiled is a rule with its matchers in the form that is asked.
type compiled struct {
	Rule
	from, to               networkSet
	fromDomains, toDomains domainSet
	mxOf                   map[string]bool // the entries of to_mx_of
	twin                   *compiled       // the same demand on recipients; nil: there is none
}

func compile(r Rule) *compiled {
	c := &compiled{
		Rule:        r,
		from:        newNetworkSet(r.FromNetworks),
		to:          newNetworkSet(r.ToNetworks),
		fromDomains: newDomainSet(r.FromDomains),
		toDomains:   newDomainSet(r.ToDomains),
	}
	if len(r.ToMXOf) > 0 {
		c.mxOf = make(map[string]bool, len(r.ToMXOf))
		for _, domain := range r.ToMXOf {
			c.mxOf[domain] = true
		}
		c.twin = c.makeTwin()
	}
	return c
}

func (r *compiled) expired(now time.Time) bool {
	return !r.Expires.IsZero() && !now.Before(r.Expires)
}

// matchesNetworks reports whether r is in force and its network matchers hold, for a
// connection whose addresses are plain.
func (r *compiled) matchesNetworks(c *Connection, now time.Time) bool {
	return !r.expired(now) &&
		(!r.from.written || r.from.has(c.Client)) &&
		(!r.to.written && len(r.ToMXOf) == 0 || r.to.has(c.Upstream) || r.isMX(c))
}

// isMX reports whether the destination is an MX host of a domain in to_mx_of.
func (r *compiled) isMX(c *Connection) bool {
	return len(r.mxOf) > 0 && slices.ContainsFunc(c.MXOf, func(domain string) bool { return r.mxOf[domain] })
}

// Floor gives the lowest TLS version of either leg, such as tls.VersionTLS12.
func (p *Policy) Floor() uint16 { return p.floor }

// Rules gives the rules in the order of the file, the built-in one last. They
// must not be changed.
func (p *Policy) Rules() []*Rule {
	rules := make([]*Rule, len(p.rules))
	for i, r := range p.rules {
		rules[i] = &r.Rule
	}
	return rules
}

// EnvelopeRules gives the envelope rules in the order in which they are asked, those
// that to_mx_of implies among them. They must not be changed.
func (p *Policy) EnvelopeRules() []*Rule {
	rules := make([]*Rule, len(p.envelope))
	for i, r := range p.envelope {
		rules[i] = &r.Rule
	}
	return rules
}

// ConnectionRule gives the first connection rule in force that matches c. It is
// never nil: where no rule of the file matches it is the built-in one, named
// DefaultRule.
func (p *Policy) ConnectionRule(c Connection, now time.Time) *Rule {
	if r := p.atConnect.first(c, nil, nil, now); r != nil {
		return &r.Rule
	}
	return &p.last.Rule
}

// EnvelopeRule gives the envelope rule that binds sender and recipient, or nil
// when none does.
//
// At RCPT both are given, and the first rule in the order of the file that
// matches decides.
//
// At MAIL recipient is nil. Then the first rule decides whose networks and
// from_domains match, but only if it has no to_domains. If it has some, the
// answer is nil although a later rule without to_domains would match: which of
// the two decides depends on the recipient, and to refuse the sender by the
// later one would take from the earlier one what it decides by coming first. The
// later one is then found at RCPT, for each recipient that the earlier one
// leaves to it. So whatever is given at MAIL is given again at each RCPT, unless
// it expired in between, and a transaction of which nothing was judged at MAIL
// is judged at every RCPT.
//
// A nil sender is one that nothing is known of; like the null reverse-path and a
// domain literal it matches only rules without from_domains or with "*" there.
func (p *Policy) EnvelopeRule(c Connection, sender, recipient *Address, now time.Time) *Rule {
	if recipient != nil {
		return p.atRcpt.first(c, sender, recipient, now).rule()
	}
	if r := p.atMail.first(c, sender, nil, now); r != nil && len(r.ToDomains) == 0 {
		return &r.Rule
	}
	return nil
}

// rule gives what r was compiled of; nil for none.
func (r *compiled) rule() *Rule {
	if r == nil {
		return nil
	}
	return &r.Rule
}

// RequestsClientCertificate reports whether the client of c is to be asked for a
// certificate: whether its connection rule demands a verified one, or an envelope
// rule does that could bind by its networks.
func (p *Policy) RequestsClientCertificate(c Connection, now time.Time) bool {
	return p.ConnectionRule(c, now).ClientTLS == ClientVerified || p.ofIdentities.first(c, nil, nil, now) != nil
}

// HoldingFor gives the same policy with hold_for: networks whose clients are
// held after a handshake below the floor even where no rule demands TLS of them.
// The error is for networks that leave nobody out: that would demand TLS of
// everyone (RFC 3207 §4). Of no policy (nil) comes none.
func (p *Policy) HoldingFor(networks []netip.Prefix) (*Policy, error) {
	set := newNetworkSet(networks)
	if set.written && set.leavesNobodyOut() {
		return nil, errHoldForAll
	}
	if p == nil {
		return nil, nil
	}
	with := *p
	with.holdFor = set
	return &with, nil
}

var errHoldForAll = errors.New("everybody found, expected networks that leave somebody out: " + publicServer)

// HoldsFor reports whether c's client is held by hold_for.
func (p *Policy) HoldsFor(c Connection) bool { return p.holdFor.contains(c.Client) }

// MayHold reports whether a hold of c's client could ever matter: whether
// hold_for contains it, or a rule that could bind by its networks demands TLS of
// it. Nobody else is worth remembering.
func (p *Policy) MayHold(c Connection, now time.Time) bool {
	return p.HoldsFor(c) || p.ConnectionRule(c, now).ClientTLS != ClientAny || p.ofClients.first(c, nil, nil, now) != nil
}

// A Verification is what holds for all rules alike about what is published and
// remembered.
type Verification struct {
	Auto   Auto
	Relays []netip.Prefix // destinations that are smart hosts: Auto does not apply
	// LogDowngrade: TLS that is missing where it was before is logged and let pass.
	LogDowngrade bool
}

// Verifying gives the same policy with v. Of no policy (nil) comes none.
func (p *Policy) Verifying(v Verification) *Policy {
	if p == nil {
		return nil
	}
	with := *p
	with.verify, with.relays = v, newNetworkSet(v.Relays)
	return &with
}

// Auto gives what of a recipient domain's publications binds a connection where
// its rules do not say otherwise: nothing where it goes to a smart host, which is
// no MX host of that domain.
func (p *Policy) Auto(c Connection) Auto {
	if p.Relay(c) {
		return Auto{}
	}
	return p.verify.Auto
}

// Relay reports whether a connection goes to a smart host.
func (p *Policy) Relay(c Connection) bool { return p.relays.contains(c.Upstream) }

// LogDowngrade is that of its Verification.
func (p *Policy) LogDowngrade() bool { return p.verify.LogDowngrade }

// MXDomains gives the domains named in to_mx_of, each once, in the order of the
// file. They must not be changed.
func (p *Policy) MXDomains() []string { return p.mxOf }

// Expired gives the rules that no longer match because their day has passed, in
// the order of the file.
func (p *Policy) Expired(now time.Time) []*Rule {
	var past []*Rule
	for _, r := range p.rules {
		if r.expired(now) {
			past = append(past, &r.Rule)
		}
	}
	return past
}
