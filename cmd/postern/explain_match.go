package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"postern/enforce"
)

// A lookup is one rule that was asked whether it binds, and its answer.
type lookup struct {
	Name  string `json:"name"`
	Kind  string `json:"kind"`
	Binds bool   `json:"binds"`
	Why   string `json:"why"`
}

// A matching asks rules about one connection and envelope. Whether a matcher
// holds is asked of package enforce, by a policy that has this one matcher and
// nothing else: there is no second opinion here on what matches.
type matching struct {
	connection enforce.Connection
	sender     *envelopeAddress // nil: nothing is known of it
	recipient  *envelopeAddress // nil: MAIL, or no envelope at all
	now        time.Time
}

// lookups asks the rules of a kind in order, up to the one that binds.
func (m *matching) lookups(rules []*enforce.Rule, envelope bool, binding *enforce.Rule) []lookup {
	var list []lookup
	for _, r := range rules {
		twin := envelope && !r.Envelope() && len(r.ToMXOf) > 0 && r.TLS != enforce.Off
		if r.Envelope() != envelope && !twin {
			continue
		}
		binds, why := m.ask(r, twin)
		bound := binding != nil && r.Name == binding.Name
		if binds && !bound && m.recipient == nil && (twin || len(r.ToDomains) > 0) {
			why += "; whether it is for the recipients shows at RCPT, and no rule behind it is judged before"
			return append(list, lookup{r.Name, kindOf(r), false, why})
		}
		list = append(list, lookup{r.Name, kindOf(r), bound, why})
		if bound {
			break
		}
	}
	return list
}

// ask says whether the matchers of a rule hold, and of the first that does not,
// or of all, what is in them. The recipients of a rule are left out at MAIL. The
// twin of a rule with to_mx_of is the same demand on recipients in those domains.
func (m *matching) ask(r *enforce.Rule, twin bool) (binds bool, why string) {
	if expired(r, m.now) {
		return false, "expired, its last day was " + lastDay(r)
	}
	var held []string
	for _, matcher := range m.matchers(r, twin) {
		if len(matcher.entries) == 0 {
			continue
		}
		entry := ""
		for _, e := range matcher.entries {
			if m.holds(e.rule) {
				entry = e.text
				break
			}
		}
		if entry == "" {
			return false, fmt.Sprintf("%s is not in %s", matcher.subject, matcher.key)
		}
		held = append(held, fmt.Sprintf("%s is in %s %s", matcher.subject, matcher.key, entry))
	}
	switch {
	case len(held) == 0 && (twin || len(r.ToDomains) > 0):
		return true, "it is for all senders"
	case len(held) == 0:
		return true, "it is for all connections"
	}
	return true, strings.Join(held, "; ")
}

// A matcher is one key of a rule by which it matches.
type matcher struct {
	key     string
	subject string // what is held against it
	entries []entry
}

// An entry of a matcher, and a rule that has only this.
type entry struct {
	text string
	rule enforce.Rule
}

func (m *matching) matchers(r *enforce.Rule, twin bool) []matcher {
	all := []matcher{
		{"from_networks", "the client " + m.connection.Client.String(),
			entries(r.FromNetworks, netip.Prefix.String, func(e *enforce.Rule, list []netip.Prefix) { e.FromNetworks = list })},
		{"from_domains", m.senderWords(),
			entries(r.FromDomains, strings.Clone, func(e *enforce.Rule, list []string) { e.FromDomains = list })},
	}
	toDomains := func(e *enforce.Rule, list []string) { e.ToDomains = list }
	if !twin {
		all = slices.Insert(all, 1, m.destinations(r))
	}
	switch {
	case m.recipient != nil && twin:
		all = append(all, matcher{"to_mx_of", "the recipient " + m.recipient.shown, entries(r.ToMXOf, strings.Clone, toDomains)})
	case m.recipient != nil:
		all = append(all, matcher{"to_domains", "the recipient " + m.recipient.shown, entries(r.ToDomains, strings.Clone, toDomains)})
	}
	return all
}

// destinations are the networks and the MX hosts of a rule, which are alternatives
// to each other.
func (m *matching) destinations(r *enforce.Rule) matcher {
	to := matcher{"to_networks", "the server " + m.connection.Upstream.String(),
		entries(r.ToNetworks, netip.Prefix.String, func(e *enforce.Rule, list []netip.Prefix) { e.ToNetworks = list })}
	if len(r.ToMXOf) == 0 {
		return to
	}
	if to.key = "to_mx_of"; len(r.ToNetworks) > 0 {
		to.key = "to_networks or to_mx_of"
	}
	to.entries = append(to.entries, entries(r.ToMXOf, strings.Clone, func(e *enforce.Rule, list []string) { e.ToMXOf = list })...)
	return to
}

func entries[T any](list []T, text func(T) string, set func(*enforce.Rule, []T)) []entry {
	var all []entry
	for _, one := range list {
		e := entry{text: text(one), rule: enforce.Rule{Name: "asked"}}
		set(&e.rule, []T{one})
		all = append(all, e)
	}
	return all
}

func (m *matching) senderWords() string {
	if m.sender == nil {
		return "the sender, who is not given,"
	}
	return "the sender " + m.sender.shown
}

// holds asks a rule of one matcher.
func (m *matching) holds(r enforce.Rule) bool {
	policy, errs := enforce.Compile([]enforce.Rule{r}, 0)
	if len(errs) > 0 {
		return false
	}
	if !r.Envelope() {
		return policy.ConnectionRule(m.connection, m.now).Name == r.Name
	}
	return policy.EnvelopeRule(m.connection, m.sender.address(), m.recipient.address(), m.now) != nil
}

// address gives what policies are asked with; nil for what is not given.
func (a *envelopeAddress) address() *enforce.Address {
	if a == nil {
		return nil
	}
	return &a.Address
}
