package enforce

import "fmt"

// togetherForEveryone refuses rule i if it and those before it demand TLS of every
// client between them, although each leaves somebody out: a demand that was split
// in two halves is the same demand.
func togetherForEveryone(rules []*compiled, i int) []RuleError {
	if !demandsOfClients(rules[i]) || meantForEveryone(&rules[i].Rule) {
		return nil
	}
	for _, by := range []struct{ split, rest func(*compiled) networkSet }{
		{(*compiled).clients, (*compiled).servers},
		{(*compiled).servers, (*compiled).clients},
	} {
		if first := completes(rules, i, by.split, by.rest); first >= 0 {
			return []RuleError{{Rule: i, Key: "client_tls", Other: first,
				Msg: fmt.Sprintf("a demand of every client found, together with %q, expected one that leaves somebody out: %s", rules[first].Name, publicServer)}}
		}
	}
	return nil
}

func (r *compiled) clients() networkSet { return r.from }
func (r *compiled) servers() networkSet { return r.to }

// completes gives the first of the rules before i whose networks leave nobody out
// together with those of i, -1 when they do not. Only rules count that nothing else
// narrows.
func completes(rules []*compiled, i int, split, rest func(*compiled) networkSet) int {
	var before, all networkSet
	first := -1
	for j, r := range rules[:i+1] {
		if !demandsOfClients(r) || meantForEveryone(&r.Rule) || !rest(r).leavesNobodyOut() || !forAllDomains(&r.Rule) {
			if j == i {
				return -1
			}
			continue
		}
		if first < 0 && j < i {
			first = j
		}
		if j < i {
			before = append(before, split(r)...)
		}
		all = append(all, split(r)...)
	}
	if first < 0 || before.leavesNobodyOut() || !all.leavesNobodyOut() {
		return -1
	}
	return first
}

func demandsOfClients(r *compiled) bool { return r.ClientTLS != ClientAny }
