package main

import (
	"fmt"
	"net/netip"
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
		if r.Envelope() != envelope {
			continue
		}
		binds, why := m.ask(r)
		if binds && r != binding && m.recipient == nil && len(r.ToDomains) > 0 {
			why += "; whether it is for the recipients shows at RCPT, and no rule behind it is judged before"
			return append(list, lookup{r.Name, kindOf(r), false, why})
		}
		list = append(list, lookup{r.Name, kindOf(r), r == binding, why})
		if r == binding {
			break
		}
	}
	return list
}

// ask says whether the matchers of a rule hold, and of the first that does not,
// or of all, what is in them. The recipients of a rule are left out at MAIL.
func (m *matching) ask(r *enforce.Rule) (binds bool, why string) {
	if expired(r, m.now) {
		return false, "expired, its last day was " + lastDay(r)
	}
	var held []string
	for _, matcher := range m.matchers(r) {
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
	case len(held) == 0 && len(r.ToDomains) > 0:
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

func (m *matching) matchers(r *enforce.Rule) []matcher {
	all := []matcher{
		{"from_networks", "the client " + m.connection.Client.String(),
			entries(r.FromNetworks, netip.Prefix.String, func(e *enforce.Rule, list []netip.Prefix) { e.FromNetworks = list })},
		m.destination(r),
		{"from_domains", m.senderWords(),
			entries(r.FromDomains, strings.Clone, func(e *enforce.Rule, list []string) { e.FromDomains = list })},
	}
	if m.recipient != nil {
		all = append(all, matcher{"to_domains", "the recipient " + m.recipient.shown,
			entries(r.ToDomains, strings.Clone, func(e *enforce.Rule, list []string) { e.ToDomains = list })})
	}
	return all
}

// destination is to_networks and to_mx_of, which are alternatives.
func (m *matching) destination(r *enforce.Rule) matcher {
	key := "to_networks"
	if len(r.ToMXOf) > 0 {
		key = "to_mx_of"
		if len(r.ToNetworks) > 0 {
			key = "to_networks or to_mx_of"
		}
	}
	return matcher{key, "the server " + m.connection.Upstream.String(), append(
		entries(r.ToNetworks, netip.Prefix.String, func(e *enforce.Rule, list []netip.Prefix) { e.ToNetworks = list }),
		entries(r.ToMXOf, strings.Clone, func(e *enforce.Rule, list []string) { e.ToMXOf = list })...)}
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
