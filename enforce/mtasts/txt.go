package mtasts

import "strings"

// The longest names and values of the two grammars (RFC 8461 §3.1, §3.2).
const (
	mostName = 32
	mostID   = 32
)

// parseTXT finds the policy's id in the TXT records of _mta-sts.<domain>, each the
// concatenation of its strings. It is "" where there is no usable record: none or
// several that begin with "v=STSv1;", or one that the grammar of RFC 8461 §3.1
// does not give.
func parseTXT(records []string) string {
	const version = "v=STSv1"
	found := ""
	for _, r := range records {
		if !strings.HasPrefix(r, version+";") {
			continue
		}
		if found != "" {
			return ""
		}
		found = r
	}
	return findID(strings.TrimPrefix(found, version))
}

// findID reads *(*WSP ";" *WSP field) [*WSP ";" *WSP], of which at least one field
// is an id. Of several the first counts (§3.2, of both documents).
func findID(rest string) (id string) {
	for rest != "" {
		after, ok := strings.CutPrefix(strings.TrimLeft(rest, wsp), ";")
		if !ok {
			return "" // space at the end, without a semicolon
		}
		after = strings.TrimLeft(after, wsp)
		if after == "" {
			return id
		}
		end := strings.IndexByte(after, ';')
		field := after
		if end >= 0 {
			field = strings.TrimRight(after[:end], wsp)
			rest = after[end:]
		} else {
			rest = ""
		}
		name, value, ok := strings.Cut(field, "=")
		if !ok || !isName(name) || !isTXTValue(value) {
			return ""
		}
		if name == "id" && id == "" {
			if !isID(value) {
				return ""
			}
			id = strings.Clone(value) // not the whole record
		}
	}
	return id
}

const wsp = " \t"

// isName is the grammar of an extension's name, which that of the fields we know
// satisfies.
func isName(s string) bool {
	if s == "" || len(s) > mostName || !isAlphanumeric(s[0]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isAlphanumeric(c) && c != '_' && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

func isTXTValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == '=' || c == ';' {
			return false
		}
	}
	return s != ""
}

func isID(s string) bool {
	for i := range len(s) {
		if !isAlphanumeric(s[i]) {
			return false
		}
	}
	return s != "" && len(s) <= mostID
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
