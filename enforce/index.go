package enforce

import (
	"math"
	"net/netip"
	"strings"
	"time"
)

// An index finds the first of a list of rules that matches without asking them
// all. Each rule stands under the entries of one of its matchers, the one whose
// entries it shares with the fewest others, and is asked only where one of these
// is found to match: under an address those that name a network around it, under a
// domain those that name it or one above it. So what it costs to ask grows with
// the rules that speak of the same network or domain, and not with the others.
//
// Which matchers are asked at all is the index's own: those for networks always,
// those for senders and recipients where it says so.
type index struct {
	senders, recipients bool

	rules []*compiled
	from  prefixTable[[]int32]
	to    prefixTable[[]int32]
	mxOf  map[string][]int32 // rules of to, by the entries of to_mx_of
	// By the entries of from_domains and to_domains.
	fromDomains, toDomains domainTable
	// anywhere are rules that no matcher of theirs narrows, or all if they are few.
	anywhere []int32
}

// A domainTable has rules under entries of domain matchers.
type domainTable struct {
	exact map[string][]int32
	below map[string][]int32 // under x what is entered as "*.x"
}

// newIndex makes an index of rules, which must be in the order in which they are to
// be asked.
func newIndex(rules []*compiled, senders, recipients bool) *index {
	x := &index{rules: rules, senders: senders, recipients: recipients, mxOf: map[string][]int32{}}
	for _, t := range []*domainTable{&x.fromDomains, &x.toDomains} {
		t.exact, t.below = map[string][]int32{}, map[string][]int32{}
	}
	crowd := make(map[entry]int)
	if len(rules) > few {
		for _, r := range rules {
			for _, entries := range x.matchers(r) {
				for _, e := range entries {
					crowd[e]++
				}
			}
		}
	}
	for i, r := range rules {
		x.place(int32(i), x.narrowest(r, crowd))
	}
	return x
}

// An entry is one of a matcher: a network or a domain.
type entry struct {
	of      matcher
	network netip.Prefix
	domain  string
}

// A matcher is one that rules can have.
type matcher uint8

const (
	toDomains matcher = iota
	fromDomains
	toNetworks
	toMXOf
	fromNetworks
)

// matchers gives those of r that x asks and that leave anybody out, by their
// entries. to_networks and to_mx_of are one, for they are alternatives.
func (x *index) matchers(r *compiled) [][]entry {
	var all [][]entry
	domains := func(of matcher, list []string) (entries []entry) {
		for _, d := range list {
			entries = append(entries, entry{of: of, domain: d})
		}
		return entries
	}
	networks := func(of matcher, s networkSet) (entries []entry) {
		for _, p := range s.prefixes {
			entries = append(entries, entry{of: of, network: p})
		}
		return entries
	}
	if x.recipients && len(r.ToDomains) > 0 && !r.toDomains.any {
		all = append(all, domains(toDomains, r.ToDomains))
	}
	if x.senders && len(r.FromDomains) > 0 && !r.fromDomains.any {
		all = append(all, domains(fromDomains, r.FromDomains))
	}
	if r.to.written || len(r.ToMXOf) > 0 {
		all = append(all, append(networks(toNetworks, r.to), domains(toMXOf, r.ToMXOf)...))
	}
	if r.from.written {
		all = append(all, networks(fromNetworks, r.from))
	}
	return all
}

// narrowest gives the entries of the matcher of r that has the least of a crowd
// under any of them; nil to have r stand everywhere.
func (x *index) narrowest(r *compiled, crowd map[entry]int) []entry {
	if len(x.rules) <= few {
		return nil
	}
	var best []entry
	least := math.MaxInt
	for _, entries := range x.matchers(r) {
		most := 0
		for _, e := range entries {
			most = max(most, crowd[e])
		}
		if most < least {
			best, least = entries, most
		}
	}
	return best
}

// place enters rule i, which is behind all that were entered before.
func (x *index) place(i int32, entries []entry) {
	if entries == nil {
		x.anywhere = append(x.anywhere, i)
		return
	}
	domain := func(t *domainTable, e string) {
		under := t.exact
		if parent, ok := strings.CutPrefix(e, "*."); ok {
			under, e = t.below, parent
		}
		under[e] = append(under[e], i)
	}
	for _, e := range entries {
		switch e.of {
		case toDomains:
			domain(&x.toDomains, e.domain)
		case fromDomains:
			domain(&x.fromDomains, e.domain)
		case toNetworks:
			x.to.set(e.network, append(x.to.at[e.network], i))
		case toMXOf:
			x.mxOf[e.domain] = append(x.mxOf[e.domain], i)
		case fromNetworks:
			x.from.set(e.network, append(x.from.at[e.network], i))
		}
	}
}

// first gives the first rule in force that matches; nil when none does.
func (x *index) first(c Connection, sender, recipient *Address, now time.Time) *compiled {
	c.Client, c.Upstream = plain(c.Client), plain(c.Upstream)
	s := search{index: x, c: c, sender: sender, recipient: recipient, now: now, best: len(x.rules)}
	s.among(x.anywhere)
	if len(x.anywhere) == len(x.rules) {
		return s.found()
	}
	s.around(&x.from, c.Client)
	s.around(&x.to, c.Upstream)
	if len(x.mxOf) > 0 {
		for _, domain := range c.MXOf {
			s.among(x.mxOf[domain])
		}
	}
	s.at(&x.fromDomains, sender)
	s.at(&x.toDomains, recipient)
	return s.found()
}

// A search looks for the first rule that matches, in one list of candidates after
// the other. Each is in the order of the rules, and none is followed beyond what was
// found already.
type search struct {
	*index
	c                 Connection
	sender, recipient *Address
	now               time.Time
	best              int
}

// found gives the first that matches of all that was looked at.
func (s *search) found() *compiled {
	if s.best == len(s.rules) {
		return nil
	}
	return s.rules[s.best]
}

func (s *search) among(candidates []int32) {
	for _, i := range candidates {
		if int(i) >= s.best {
			return
		}
		if s.matches(s.rules[i]) {
			s.best = int(i)
			return
		}
	}
}

func (s *search) matches(r *compiled) bool {
	return r.matchesNetworks(&s.c, s.now) &&
		(!s.senders || len(r.FromDomains) == 0 || r.fromDomains.contains(s.sender)) &&
		(!s.recipients || len(r.ToDomains) == 0 || r.toDomains.contains(s.recipient))
}

// around looks among those that name a network around addr.
func (s *search) around(t *prefixTable[[]int32], addr netip.Addr) {
	if !addr.IsValid() {
		return
	}
	for _, bits := range t.lengths(addr) {
		s.among(t.at[netip.PrefixFrom(addr, bits).Masked()])
	}
}

// at looks among those that name the domain of a, or one above it.
func (s *search) at(t *domainTable, a *Address) {
	if len(t.exact)+len(t.below) == 0 || a == nil || a.Literal || a.Domain == "" {
		return
	}
	s.among(t.exact[a.Domain])
	if len(t.below) == 0 {
		return
	}
	for parent := range parents(a.Domain) {
		s.among(t.below[parent])
	}
}
