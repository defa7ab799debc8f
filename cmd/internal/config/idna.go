package config

import "strings"

// aDomain is what was expected where something stands that is no domain.
const aDomain = `a domain such as "example.com"`

// aLabels gives a domain as the envelope is compared with: lower case, A-labels,
// without the trailing dot. A domain that is none yields what was expected
// instead, in words.
func aLabels(domain string) (string, string) {
	domain = strings.TrimSuffix(domain, ".")
	for i := range len(domain) {
		if domain[i] >= 0x80 {
			// To compare it as it stands would be to never match: RFC 5891 has
			// it mapped and normalised first.
			return "", `the domain in A-labels ("xn--…")`
		}
	}
	domain = strings.ToLower(domain)
	if problem := hostSyntax(domain); problem != "" {
		return "", problem
	}
	return domain, ""
}

// hostSyntax says what was expected of a domain that is not one (RFC 1123 §2.1,
// RFC 5321 §2.3.5). The underscore is let pass: names with it are in use.
func hostSyntax(domain string) string {
	if domain == "" || len(domain) > 253 {
		return aDomain
	}
	labels := strings.Split(domain, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
			return aDomain
		}
		for i := range len(l) {
			if c := l[i]; !bareKey(rune(c)) {
				return aDomain
			}
		}
	}
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" {
		return "a domain: addresses stand in to_networks and from_networks"
	}
	return ""
}
