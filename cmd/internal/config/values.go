package config

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"postern/enforce"
)

// A parse makes a value of a string, or says in words what was expected.
type parse[T any] func(string) (value T, expected string)

// read sets into to the string under key, if it was written.
func read[T any](t *table, key string, into *T, p parse[T]) {
	v, ok := t.value(key)
	if !ok {
		return
	}
	s, ok := v.(string)
	if !ok {
		_, expected := p(describe(v))
		t.fail(key, "%s found, expected %s", describe(v), cmp.Or(expected, "a string"))
		return
	}
	value, expected := p(s)
	if expected != "" {
		t.fail(key, "%s found, expected %s", quote(s), expected)
		return
	}
	*into = value
}

// list sets into to the strings under key, if they were written. What is found
// twice is a fault: it is idle, and probably was to be something else.
func list[T comparable](t *table, key string, into *[]T, p parse[T]) {
	v, ok := t.value(key)
	if !ok {
		return
	}
	entries, ok := v.([]any)
	if !ok {
		t.fail(key, "%s found, expected a list of strings", describe(v))
		return
	}
	values := make([]T, 0, len(entries))
	for i, e := range entries {
		s, ok := e.(string)
		if !ok {
			t.failEntry(key, i, "%s found, expected a string", describe(e))
			continue
		}
		value, expected := p(s)
		switch {
		case expected != "":
			t.failEntry(key, i, "%s found, expected %s", quote(s), expected)
		case slices.Contains(values, value):
			t.failEntry(key, i, "%s found again, expected each entry once", quote(s))
		default:
			values = append(values, value)
		}
	}
	*into = values
}

func number(t *table, key string, into *int, least, most int) {
	v, ok := t.value(key)
	if !ok {
		return
	}
	n, ok := v.(int64)
	if !ok || n < int64(least) || n > int64(most) {
		t.fail(key, "%s found, expected a number from %d to %d", describe(v), least, most)
		return
	}
	*into = int(n)
}

func boolean(t *table, key string, into *bool) {
	v, ok := t.value(key)
	if !ok {
		return
	}
	b, ok := v.(bool)
	if !ok {
		t.fail(key, "%s found, expected true or false", describe(v))
		return
	}
	*into = b
}

// ports reads a list of port numbers.
func ports(t *table, key string, into *[]uint16) {
	v, ok := t.value(key)
	if !ok {
		return
	}
	entries, isList := v.([]any)
	if !isList || len(entries) == 0 {
		t.fail(key, "%s found, expected a list of ports such as [25]", orEmpty(v))
		return
	}
	found := make([]uint16, 0, len(entries))
	for i, e := range entries {
		n, ok := e.(int64)
		switch {
		case !ok || n < 1 || n > 65535:
			t.failEntry(key, i, "%s found, expected a port from 1 to 65535", describe(e))
		case slices.Contains(found, uint16(n)):
			t.failEntry(key, i, "%d found again, expected each port once", n)
		default:
			found = append(found, uint16(n))
		}
	}
	*into = found
}

func orEmpty(v any) string {
	if l, ok := v.([]any); ok && len(l) == 0 {
		return "an empty list"
	}
	return describe(v)
}

// A word is one of the strings that a key may hold.
type word[T any] struct {
	text  string
	value T
}

// oneOf is a parse of words.
func oneOf[T any](words ...word[T]) parse[T] {
	return func(s string) (T, string) {
		var none T
		var allowed []string
		for _, w := range words {
			if w.text == s {
				return w.value, ""
			}
			allowed = append(allowed, strconv.Quote(w.text))
		}
		return none, alternatives(allowed)
	}
}

func alternatives(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// emptyOnly accepts a list that switches off what this release does not do.
func emptyOnly(t *table, key, what string) {
	v, ok := t.value(key)
	if !ok {
		return
	}
	if l, isList := v.([]any); !isList || len(l) > 0 {
		t.fail(key, "%s found, expected []: this release does not %s yet", describe(v), what)
	}
}

// within gives a parse of durations from least to most.
func within(least, most time.Duration) parse[time.Duration] {
	return func(s string) (time.Duration, string) {
		d, err := time.ParseDuration(s)
		if err != nil || d < least || d > most {
			return 0, fmt.Sprintf("a duration such as \"30s\" or \"5m\", from %s to %s", Short(least), Short(most))
		}
		return d, ""
	}
}

// Short writes a duration without the zeroes that String ends it with.
func Short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// network reads a prefix, or an address alone as the prefix of its full length.
func network(s string) (netip.Prefix, string) {
	const example = `a network such as "192.0.2.0/24" or "2001:db8::/32"`
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return whole(a.Unmap()), ""
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return p, example
	case p.Addr().Is4In6():
		// Connections are compared as IPv4; a mapped prefix would never match.
		return p, example + ", IPv4 as IPv4"
	case p != p.Masked():
		return p, fmt.Sprintf("%q or %q: the address has bits beyond the /%d", p.Masked(), whole(p.Addr()), p.Bits())
	}
	return p, ""
}

func whole(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func addrPort(s string) (netip.AddrPort, string) {
	a, err := netip.ParseAddrPort(s)
	if err != nil || a.Port() == 0 || a.Addr().Is4In6() {
		return a, `an address and a port such as "127.0.0.1:2525" or "[::1]:2525"`
	}
	return a, ""
}

// hostPort reads a server: a domain or an address, and a port.
func hostPort(s string) (string, string) {
	const expected = `host and port such as "mail.example.com:25" or "[2001:db8::1]:25"`
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", expected
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", expected
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return s, ""
	}
	host, problem := aLabels(host)
	if problem != "" {
		return "", expected
	}
	return net.JoinHostPort(host, port), ""
}

// matcher reads a domain of to_domains or from_domains.
func matcher(s string) (string, string) {
	if s == "*" {
		return s, ""
	}
	domain, expected := namePattern(s)
	if expected == aPattern {
		expected += `, or "*"`
	}
	return domain, expected
}

const aPattern = aDomain + `, or "*." before one`

// namePattern reads a domain, or "*." and a domain.
func namePattern(s string) (string, string) {
	parent, wild := strings.CutPrefix(s, "*.")
	domain, expected := aLabels(parent)
	switch {
	case expected == aDomain:
		return "", aPattern
	case expected != "":
		return "", expected
	case wild:
		return "*." + domain, ""
	}
	return domain, ""
}

// file reads the path of a file. It must be absolute, for nobody knows from
// which directory the service and the one who checks its configuration start.
func file(s string) (string, string) {
	if !filepath.IsAbs(s) || strings.ContainsRune(s, 0) {
		return "", "an absolute path"
	}
	return filepath.Clean(s), ""
}

// optional accepts "" for what was not written.
func optional(p parse[string]) parse[string] {
	return func(s string) (string, string) {
		if s == "" {
			return "", ""
		}
		return p(s)
	}
}

// or accepts words before what p accepts.
func or(p parse[string], words ...string) parse[string] {
	return func(s string) (string, string) {
		if slices.Contains(words, s) {
			return s, ""
		}
		v, expected := p(s)
		if expected != "" {
			var quoted []string
			for _, w := range words {
				quoted = append(quoted, strconv.Quote(w))
			}
			expected = alternatives(append(quoted, expected))
		}
		return v, expected
	}
}

// title reads a name that people give: it stands in log lines and errors.
func title(s string) (string, string) {
	const most = 64
	if s == "" || len(s) > most || strings.TrimSpace(s) != s || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return "", fmt.Sprintf("a name of 1 to %d printable octets", most)
	}
	return s, ""
}

// fingerprint reads "sha256:HEX" and "spki-sha256:HEX", with or without colons
// between the octets, as openssl and browsers print them.
func fingerprint(s string) (enforce.Fingerprint, string) {
	var f enforce.Fingerprint
	kind, digits, _ := strings.Cut(s, ":")
	f.SPKI = kind == "spki-sha256"
	raw, err := hex.DecodeString(strings.ReplaceAll(digits, ":", ""))
	if err != nil || len(raw) != len(f.SHA256) || !f.SPKI && kind != "sha256" {
		return f, fmt.Sprintf(`"sha256:" or "spki-sha256:" and %d hexadecimal digits`, 2*len(f.SHA256))
	}
	copy(f.SHA256[:], raw)
	return f, ""
}

// Fingerprint reads "sha256:…" and "spki-sha256:…" as the file's are read.
func Fingerprint(s string) (enforce.Fingerprint, error) {
	f, expected := fingerprint(s)
	if expected != "" {
		return f, fmt.Errorf("%s found, expected %s", quote(s), expected)
	}
	return f, nil
}
