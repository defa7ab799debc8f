package config

import (
	"fmt"
	"strings"

	"golang.org/x/net/idna"
)

// aDomain is what was expected where something stands that is no domain.
const aDomain = `a domain such as "example.com"`

// envelope maps domains as sessions map those of the envelope, with the same
// options: a domain written here must match however it is spelt there.
var envelope = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false), idna.CheckHyphens(false))

// aLabels gives a domain as the envelope is compared with: lower case, A-labels
// (RFC 5890 §2.3.2.1), without the trailing dot. A domain that is none yields
// what was expected instead, in words.
func aLabels(domain string) (string, string) {
	a, err := envelope.ToASCII(strings.TrimSuffix(domain, "."))
	if err != nil {
		return "", aDomain
	}
	a = strings.ToLower(a)
	if problem := hostSyntax(a); problem != "" {
		return "", problem
	}
	return a, ""
}

// Domain reads a domain as the file's are read: the result is what rules compare,
// lower-case A-labels without the trailing dot. The error says what was expected.
func Domain(s string) (string, error) {
	a, expected := aLabels(s)
	if expected != "" {
		return "", fmt.Errorf("%s found, expected %s", quote(s), expected)
	}
	return a, nil
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
