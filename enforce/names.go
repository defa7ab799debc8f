package enforce

import "strings"

// MatchNames reports whether a certificate with the subject alternative names
// dnsNames (type dNSName, as they stand in it, wildcards included) satisfies one
// of patterns.
//
// A pattern is a domain, or "*.x", which stands for exactly one label before x.
// A name satisfies a pattern when both are the same; when the pattern is a
// wildcard and the name has one ordinary label in its place; or when the name is
// a wildcard that covers the pattern. A wildcard in a certificate counts only as
// the whole leftmost label and covers exactly one label (RFC 9525 §6.3, RFC 6125
// §6.4.3); one anywhere else matches nothing. Comparison ignores ASCII case and
// is by A-labels. The common name is never looked at (RFC 9525 §2), and no name
// or no pattern is no match.
func MatchNames(dnsNames, patterns []string) bool {
	for _, p := range patterns {
		for _, n := range dnsNames {
			if matchName(strings.Map(lowerASCII, n), strings.Map(lowerASCII, p)) {
				return true
			}
		}
	}
	return false
}

// lowerASCII folds the letters that DNS folds and no other: unicode has the
// Kelvin sign become a k (RFC 4343 §3).
func lowerASCII(r rune) rune {
	if 'A' <= r && r <= 'Z' {
		return r + 'a' - 'A'
	}
	return r
}

func matchName(name, pattern string) bool {
	nameFirst, nameRest, ok := splitName(name)
	if !ok {
		return false
	}
	patternFirst, patternRest, ok := splitName(pattern)
	if !ok || nameRest != patternRest {
		return false
	}
	if nameFirst == patternFirst {
		return true
	}
	// Two different first labels agree only if one of them is the wildcard. A
	// single label has nothing after it that a wildcard could hang on: "*" alone
	// is no name and no pattern.
	return nameRest != "" && (nameFirst == "*" || patternFirst == "*")
}

// splitName cuts name behind its first label. It refuses what is not a host name:
// an empty label (a trailing dot, too), an octet that no A-label has, a wildcard
// that is not the whole first label, and a wildcard with nothing below it.
func splitName(name string) (first, rest string, ok bool) {
	first, rest, _ = strings.Cut(name, ".")
	if first == "*" && len(name) > len(first) {
		name = rest
	}
	for label := range strings.SplitSeq(name, ".") {
		if !hostLabel(label) {
			return "", "", false
		}
	}
	return first, rest, true
}

// hostLabel reports whether l is a lower-case label of letters, digits and
// hyphens. The underscore is let pass: it stands in names that work.
func hostLabel(l string) bool {
	if l == "" || len(l) > 63 {
		return false
	}
	for i := range len(l) {
		switch c := l[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}
