package enforce

import (
	"iter"
	"strings"
)

// anyDomain is the matcher entry that every path matches, the null reverse-path
// and domain literals among them.
const anyDomain = "*"

// A domainSet is one list of domain matchers, ready to be asked. What it costs
// to ask depends on the labels of the domain and not on the length of the list.
type domainSet struct {
	any   bool
	exact map[string]struct{}
	below map[string]struct{} // x of each "*.x"
}

// newDomainSet takes entries as a Rule holds them: lower-case A-labels, "x",
// "*.x" or "*".
func newDomainSet(entries []string) domainSet {
	if len(entries) == 0 {
		return domainSet{}
	}
	s := domainSet{exact: map[string]struct{}{}, below: map[string]struct{}{}}
	for _, e := range entries {
		if e == anyDomain {
			s.any = true
		} else if parent, ok := strings.CutPrefix(e, "*."); ok {
			s.below[parent] = struct{}{}
		} else {
			s.exact[e] = struct{}{}
		}
	}
	return s
}

// contains reports whether any entry matches. An address that nothing is known
// of (nil), the null path and a domain literal have no domain to compare and
// match "*" alone.
func (s domainSet) contains(a *Address) bool {
	if s.any {
		return true
	}
	if a == nil || a.Literal || a.Domain == "" {
		return false
	}
	if _, ok := s.exact[a.Domain]; ok {
		return true
	}
	return s.hasParentOf(a.Domain)
}

// hasParentOf reports whether domain lies one or more labels below an entry.
func (s domainSet) hasParentOf(domain string) bool {
	if len(s.below) == 0 {
		return false
	}
	for parent := range parents(domain) {
		if _, ok := s.below[parent]; ok {
			return true
		}
	}
	return false
}

// parents gives the domains above domain, the nearest first.
func parents(domain string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for {
			_, parent, ok := strings.Cut(domain, ".")
			if !ok || !yield(parent) {
				return
			}
			domain = parent
		}
	}
}

// covers reports whether everything that entry matches is matched by s.
func (s domainSet) covers(entry string) bool {
	if s.any {
		return true
	}
	parent, wild := strings.CutPrefix(entry, "*.")
	if !wild {
		_, ok := s.exact[entry]
		return ok || entry != anyDomain && s.hasParentOf(entry)
	}
	// "*.x" lies within "*.x" and within "*.y" for every y above x; exact
	// entries, however many, never exhaust it.
	_, same := s.below[parent]
	return same || s.hasParentOf(parent)
}

// coversAll reports whether a matcher of which s was made from the entries mine,
// none meaning everything, matches all that a matcher with the entries theirs
// does.
func (s domainSet) coversAll(mine, theirs []string) bool {
	if len(mine) == 0 || s.any {
		return true
	}
	for _, e := range theirs {
		if !s.covers(e) {
			return false
		}
	}
	return len(theirs) > 0
}
