package mtasts

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// The bounds of a policy.
const (
	MostAge  = 31557600 * time.Second // RFC 8461 §3.2: a year; more counts as this
	MostMX   = 100                    // patterns; thousands would fit, and ten thousand domains are kept
	mostBody = 64 << 10               // bytes, §3.3
)

// A document is what a policy's text says.
type document struct {
	mode   Mode
	mx     []string
	maxAge time.Duration
}

// parsePolicy reads a policy by the grammar of RFC 8461 §3.2. Names and values are
// told apart by case; a key that is not known is ignored; of a key that stands
// twice the first counts, mx apart. Lines end in CRLF or LF. Beyond the grammar
// only empty lines at the end are let pass: editors leave them, and to refuse them
// would take the protection from the domain.
func parsePolicy(body string) (document, error) {
	var d document
	seen := map[string]bool{}
	lines, err := splitLines(body)
	if err != nil {
		return document{}, err
	}
	for i, line := range lines {
		name, value, err := splitField(line)
		if err == nil && (!seen[name] || name == "mx") {
			err = d.set(name, value)
		}
		if err != nil {
			return document{}, fmt.Errorf("line %d: %w", i+1, err)
		}
		switch name {
		case "version", "mode", "max_age":
			seen[name] = true // no others: there may be thousands
		}
	}
	for _, name := range []string{"version", "mode", "max_age"} {
		if !seen[name] {
			return document{}, fmt.Errorf("no %s", name)
		}
	}
	if len(d.mx) == 0 && d.mode != ModeNone {
		return document{}, errors.New("no mx")
	}
	return d, nil
}

func splitLines(body string) ([]string, error) {
	lines := strings.Split(body, "\n")
	last := len(lines) - 1
	for i, line := range lines[:last] {
		lines[i] = strings.TrimSuffix(line, "\r")
	}
	for last >= 0 && lines[last] == "" {
		last--
	}
	if last < 0 {
		return nil, errors.New("empty")
	}
	return lines[:last+1], nil
}

// splitField reads name ":" *WSP value *WSP. The value has a character, is UTF-8
// and has no control characters.
func splitField(line string) (name, value string, err error) {
	name, value, ok := strings.Cut(line, ":")
	if !ok || !isName(name) {
		return "", "", errors.New("not a key and a value")
	}
	value = strings.Trim(value, wsp)
	if value == "" || !utf8.ValidString(value) || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", "", errors.New("not a value")
	}
	return name, value, nil
}

func (d *document) set(name, value string) error {
	switch name {
	case "version":
		if value != "STSv1" {
			return errors.New("not version STSv1")
		}
	case "mode":
		d.mode = Mode(value)
		if !d.mode.known() {
			return errors.New("mode is none of enforce, testing and none")
		}
	case "max_age":
		var ok bool
		if d.maxAge, ok = parseAge(value); !ok {
			return errors.New("max_age is not a number of at most ten digits")
		}
	case "mx":
		if len(d.mx) == MostMX {
			return fmt.Errorf("more than %d mx", MostMX)
		}
		pattern := strings.Clone(strings.Map(lowerASCII, value)) // or one name keeps the whole text
		if !isPattern(pattern) {
			return errors.New("mx is not a host name or *. and one")
		}
		d.mx = append(d.mx, pattern)
	}
	return nil
}

func (m Mode) known() bool { return m == ModeNone || m == ModeTesting || m == ModeEnforce }

// parseAge reads 1*10DIGIT seconds.
func parseAge(s string) (time.Duration, bool) {
	const mostDigits = 10
	n, err := strconv.ParseUint(s, 10, 64) // takes no sign
	if err != nil || len(s) > mostDigits {
		return 0, false
	}
	return time.Duration(min(n, uint64(MostAge/time.Second))) * time.Second, true // ten digits would overflow
}

func isPattern(s string) bool {
	s = strings.TrimPrefix(s, "*.")
	return len(s) <= mostDomain && isHost(s, false)
}

// mostDomain is the longest domain name in bytes as text (RFC 1035 §3.1).
const mostDomain = 253

// isDomain reports whether s can be a policy domain: lower-case A-labels, with room
// for the names below it, and no address. Such a name is also a file's name: it has
// no slash and does not begin with a dot.
func isDomain(s string) bool {
	return len(s) <= mostDomain-len(recordPrefix) && isHost(s, true) && !isNumber(s[strings.LastIndexByte(s, '.')+1:])
}

// isHost reports whether s is lower-case labels of letters, digits and hyphens
// inside (RFC 5321 §4.1.2). The underscore is no part of it; domains that work have
// it.
func isHost(s string, underscore bool) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			switch c := label[i]; {
			case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_' && underscore:
			default:
				return false
			}
		}
	}
	return true
}

func isNumber(s string) bool {
	return strings.Trim(s, "0123456789") == ""
}

// lowerASCII folds the letters that DNS folds and no other (RFC 4343 §3).
func lowerASCII(r rune) rune {
	if 'A' <= r && r <= 'Z' {
		return r + 'a' - 'A'
	}
	return r
}
