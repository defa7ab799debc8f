package enforce

import (
	"fmt"
	"net/netip"
	"sort"
)

// togetherForEveryone refuses each rule with which those before it demand TLS of
// every client between them, although each leaves somebody out: a demand that was
// split in two halves is the same demand. It gives the errors by the rule's number.
func togetherForEveryone(rules []*compiled) map[int][]RuleError {
	errs := map[int][]RuleError{}
	for _, by := range []struct{ split, rest func(*compiled) *networkSet }{
		{(*compiled).clients, (*compiled).servers},
		{(*compiled).servers, (*compiled).clients},
	} {
		first, i := completes(rules, by.split, by.rest)
		if first < 0 || errs[i] != nil {
			continue
		}
		errs[i] = []RuleError{{Rule: i, Key: "client_tls", Other: first,
			Msg: fmt.Sprintf("a demand of every client found, together with %q, expected one that leaves somebody out: %s", rules[first].Name, publicServer)}}
	}
	return errs
}

func (r *compiled) clients() *networkSet { return &r.from }
func (r *compiled) servers() *networkSet { return &r.to }

// completes gives the first of the rules whose networks leave nobody out together,
// and the one that completes them; -1 when none does. Only rules count that nothing
// else narrows.
func completes(rules []*compiled, split, rest func(*compiled) *networkSet) (first, last int) {
	var counted []int
	for i, r := range rules {
		if r.ClientTLS != ClientAny && !r.meantForEveryone() && rest(r).leavesNobodyOut() && forAllDomains(&r.Rule) {
			counted = append(counted, i)
		}
	}
	// More rules never leave out more.
	n := sort.Search(len(counted), func(n int) bool {
		var all []netip.Prefix
		for _, i := range counted[:n+1] {
			all = append(all, split(rules[i]).prefixes...)
		}
		together := newNetworkSet(all)
		return len(all) > 0 && together.leavesNobodyOut()
	})
	if n == len(counted) {
		return -1, -1
	}
	return counted[0], counted[n]
}
