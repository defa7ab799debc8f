package replay

import (
	"slices"
	"strings"
	"time"

	"postern/cmd/internal/recorded"
	"postern/enforce"
)

// A Judge judges by one policy.
type Judge struct {
	Policy *enforce.Policy
	// Forgetful: [memory] downgrade = "off", nothing is remembered.
	Forgetful bool
	// Now is when rules are taken to be asked: those that expired before are not.
	Now time.Time

	names *recorded.Names
}

// NewJudge makes a Judge.
func NewJudge(p *enforce.Policy, forgetful bool, now time.Time) *Judge {
	return &Judge{Policy: p, Forgetful: forgetful, Now: now, names: recorded.NewNames()}
}

// An Outcome is a verdict, or why there is none.
type Outcome struct {
	Unknown string // what is missing for it; "" where nothing is
	Refused bool
	Reason  enforce.Reason // of the refusal; "" where that is one of several
}

// A Unit is one thing that is refused or not.
type Unit struct {
	Recipient   bool   // a recipient's domain in one transaction; else the whole connection
	Destination string // the domain, or the server's address
	Was, Is     Outcome
}

// Session judges the connection and each recipient's domain of a record. It gives
// none where the session did not come so far that there was anything to judge.
func (j *Judge) Session(r *recorded.Record) []Unit {
	conn, ok := r.Connection()
	if !ok || unsettled(r) {
		return nil
	}
	c := &session{Judge: j, rec: r, candidates: j.candidates(conn)}
	is := c.outcome(func(v *view) enforce.Verdict { return v.connection() })
	units := []Unit{{Destination: conn.Upstream.String(), Was: wasConnection(r), Is: is}}
	for _, t := range r.Transactions {
		for _, domain := range recipients(t) {
			u := Unit{Recipient: true, Destination: domain, Was: c.wasRecipient(t, domain)}
			u.Is = c.outcome(func(v *view) enforce.Verdict {
				if refused := v.connection(); refused.Refused() {
					return refused
				}
				return v.recipient(t, domain)
			})
			units = append(units, u)
		}
		if !ofSender(r, t) {
			continue
		}
		u := Unit{Recipient: true, Destination: conn.Upstream.String(), Was: refusedFor(t.Refused[0].Reason)}
		u.Is = c.outcome(func(v *view) enforce.Verdict {
			if refused := v.connection(); refused.Refused() {
				return refused
			}
			return v.mail(t)
		})
		units = append(units, u)
	}
	return units
}

// unsettled reports whether the way to the server was never settled: the outcome in
// tls is then the policy alone ("may"), and nothing was judged.
func unsettled(r *recorded.Record) bool {
	switch r.UpstreamTLS.StateOf() {
	case enforce.StateUnknown:
		return true
	case enforce.StateNone:
		return slices.Contains([]string{"", "may", "none", "encrypt", "verify", "secure", "fingerprint", "dane-only", "mta-sts"}, r.TLS)
	}
	return false
}

// A session is one that is judged.
type session struct {
	*Judge
	rec        *recorded.Record
	candidates []candidate // one but for to_mx_of
}

// A candidate is a connection as it may have been, and its rule.
type candidate struct {
	conn enforce.Connection
	rule *enforce.Rule
}

// mostCandidates bounds how many domains in to_mx_of are tried for one session
// where rules of the envelope have some, which cannot be told apart beforehand.
const mostCandidates = 100

// candidates gives what a connection may have been: of which domains the server was
// an MX host then, no record says.
func (j *Judge) candidates(c enforce.Connection) []candidate {
	all := []candidate{{c, j.Policy.ConnectionRule(c, j.Now)}}
	each := slices.ContainsFunc(j.Policy.Rules(), func(r *enforce.Rule) bool { return r.Envelope() && len(r.ToMXOf) > 0 })
	for _, domain := range j.Policy.MXDomains() {
		c.MXOf = []string{domain}
		r := j.Policy.ConnectionRule(c, j.Now)
		if each && len(all) < mostCandidates || !slices.ContainsFunc(all, func(have candidate) bool { return have.rule == r }) {
			all = append(all, candidate{c, r})
		}
	}
	return all
}

// outcome asks for a verdict with all that may have been.
func (c *session) outcome(ask func(*view) enforce.Verdict) Outcome {
	var first Outcome
	var missing string
	agree := true
	for i, one := range c.candidates {
		best, worst := &view{session: c, candidate: one, best: true}, &view{session: c, candidate: one}
		good, bad := ask(best), ask(worst)
		if good.Refused() != bad.Refused() {
			agree = false
			missing = or(missing, c.decisive(one, slices.Concat(best.missing, worst.missing), ask))
		}
		v := Outcome{Refused: good.Refused(), Reason: reasonOf(good)}
		if reasonOf(bad) != v.Reason {
			v.Reason = ""
		}
		switch {
		case i == 0:
			first = v
		case v.Refused != first.Refused:
			agree = false
			missing = or(missing, "whether the server was an MX host of a domain in to_mx_of")
		case v.Reason != first.Reason:
			first.Reason = ""
		}
	}
	if !agree {
		return Outcome{Unknown: or(missing, "what the session would have come to")}
	}
	return first
}

// decisive gives the one thing missing that turns the verdict by itself, or the
// first where it takes several.
func (c *session) decisive(one candidate, missing []string, ask func(*view) enforce.Verdict) string {
	for _, what := range missing {
		if ask(&view{session: c, candidate: one, best: true, except: what}).Refused() {
			return what
		}
	}
	return strings.Join(missing[:min(1, len(missing))], "")
}

func reasonOf(v enforce.Verdict) enforce.Reason {
	if v.Refused() {
		return v.Reason
	}
	return ""
}

func refusedFor(reason enforce.Reason) Outcome { return Outcome{Refused: reason != "", Reason: reason} }

func or(a, b string) string {
	if a == "" {
		return b
	}
	return a
}
