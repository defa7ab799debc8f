package mtasts

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestATXTRecordIsReadByTheGrammar(t *testing.T) {
	const long = "12345678901234567890123456789012"
	for _, c := range []struct {
		name    string
		records []string
		want    string
	}{
		{"the example of RFC 8461 §3.1", []string{"v=STSv1; id=20160831085700Z;"}, "20160831085700Z"},
		{"without the last semicolon", []string{"v=STSv1; id=20160831085700Z"}, "20160831085700Z"},
		{"without space", []string{"v=STSv1;id=a"}, "a"},
		{"with space and tabs around semicolons", []string{"v=STSv1;\t id=a \t; \t"}, "a"},
		{"an extension before the id", []string{"v=STSv1; x_-.9=a+b/c; id=a;"}, "a"},
		{"an extension behind it", []string{"v=STSv1; id=a; future=yes"}, "a"},
		{"the first of two ids", []string{"v=STSv1; id=a; id=b"}, "a"},
		{"v again, which then is an extension", []string{"v=STSv1; v=STSv2; id=a"}, "a"},
		{"an id of 32", []string{"v=STSv1; id=" + long}, long},
		{"others beside it", []string{"v=spf1 -all", "v=STSv1; id=a", "", "v=STSv10; id=b", "STSv1"}, "a"},

		{"none", nil, ""},
		{"two", []string{"v=STSv1; id=a", "v=STSv1; id=a"}, ""},
		{"two, of which one is broken", []string{"v=STSv1; id=a", "v=STSv1; no"}, ""},
		{"an id of 33", []string{"v=STSv1; id=" + long + "3"}, ""},
		{"no id", []string{"v=STSv1;"}, ""},
		{"an empty id", []string{"v=STSv1; id=;"}, ""},
		{"an id with a hyphen", []string{"v=STSv1; id=2016-08"}, ""},
		{"a broken id before a good one", []string{"v=STSv1; id=2016-08; id=a"}, ""},
		{"an id in quotes", []string{`v=STSv1; id="a";`}, ""},
		{"ID in capitals", []string{"v=STSv1; ID=a"}, ""},
		{"the version in small letters", []string{"v=stsv1; id=a"}, ""},
		{"another version", []string{"v=STSv2; id=a"}, ""},
		{"space before the version", []string{" v=STSv1; id=a"}, ""},
		{"space before the first semicolon", []string{"v=STSv1 ; id=a"}, ""}, // §3.1 discards what does not begin with v=STSv1;
		{"space inside", []string{"v=STSv1; id = a"}, ""},
		{"space at the end", []string{"v=STSv1; id=a "}, ""},
		{"an empty field", []string{"v=STSv1;; id=a"}, ""},
		{"a field without a value", []string{"v=STSv1; id=a; x"}, ""},
		{"an equals sign too many", []string{"v=STSv1; id=a; x=b=c"}, ""},
		{"a name too long", []string{"v=STSv1; id=a; " + long + "3=b"}, ""},
		{"a name that begins with a hyphen", []string{"v=STSv1; id=a; -x=b"}, ""},
		{"not ASCII", []string{"v=STSv1; id=a; x=é"}, ""},
		{"NUL", []string{"v=STSv1; id=a\x00"}, ""},
		{"newline", []string{"v=STSv1; id=a\n"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := parseTXT(c.records); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// The policies that RFC 8461 shows: §3.2 and appendix A.
const (
	policyOfSection3 = "version: STSv1\nmode: enforce\nmx: mail.example.com\nmx: *.example.net\nmx: backupmx.example.com\nmax_age: 604800\n"
	policyOfAppendix = "version: STSv1\nmode: testing\nmx: mx1.example.com\nmx: mx2.example.com\nmx: mx.backup-example.com\nmax_age: 1296000\n"
)

func TestAPolicyIsReadByTheGrammar(t *testing.T) {
	const base = "version: STSv1\nmode: enforce\nmx: mx.example.com\nmax_age: 86400\n"
	mx := []string{"mx.example.com"}
	day := document{ModeEnforce, mx, 24 * time.Hour}
	crlf := func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }
	long := strings.Repeat("a", 32)
	for _, c := range []struct {
		name, body string
		want       document // the zero one: refused
	}{
		{"the example of §3.2", policyOfSection3, document{ModeEnforce, []string{"mail.example.com", "*.example.net", "backupmx.example.com"}, 7 * 24 * time.Hour}},
		{"the example of appendix A", crlf(policyOfAppendix), document{ModeTesting, []string{"mx1.example.com", "mx2.example.com", "mx.backup-example.com"}, 15 * 24 * time.Hour}},
		{"CRLF", crlf(base), day},
		{"LF and CRLF", "version: STSv1\r\nmode: enforce\nmx: mx.example.com\r\nmax_age: 86400", day},
		{"no end of the last line", strings.TrimSuffix(base, "\n"), day},
		{"empty lines at the end", base + "\r\n\n\r\n", day},
		{"any order", "max_age: 86400\nmx: mx.example.com\nmode: enforce\nversion: STSv1\n", day},
		{"no space, or much", "version:STSv1\nmode: \t enforce \t \nmx:mx.example.com\nmax_age:86400 \n", day},
		{"mx in capitals", strings.Replace(base, "mx.example.com", "MX.Example.COM", 1), day},
		{"a wildcard", strings.Replace(base, "mx.", "*.", 1), document{ModeEnforce, []string{"*.example.com"}, day.maxAge}},
		{"an A-label", strings.Replace(base, "mx.", "xn--bcher-kva.", 1), document{ModeEnforce, []string{"xn--bcher-kva.example.com"}, day.maxAge}},
		{"mode none without mx", "version: STSv1\nmode: none\nmax_age: 86400\n", document{ModeNone, nil, day.maxAge}},
		{"mode none with mx", strings.Replace(base, "enforce", "none", 1), document{ModeNone, mx, day.maxAge}},
		{"max_age nought", strings.Replace(base, "86400", "0", 1), document{ModeEnforce, mx, 0}},
		{"max_age as long as can be", strings.Replace(base, "86400", "31557600", 1), document{ModeEnforce, mx, MostAge}},
		{"max_age beyond that", strings.Replace(base, "86400", "9999999999", 1), document{ModeEnforce, mx, MostAge}},
		{"unknown keys", base + "a.b_c-d: x=y; z: \u00fc\n" + long + ": 1\n", day},
		{"keys of another case are unknown", "Version: 2\n" + base + "MODE: none\nMX: *\n", day},
		{"the first of two counts", base + "mode: none\nmax_age: x\nversion: 2\n", day},
		{"as many mx as there may be", base + strings.Repeat("mx: mx.example.com\n", MostMX-1), document{ModeEnforce, slices.Repeat(mx, MostMX), day.maxAge}},

		{"nothing", "", document{}},
		{"empty lines", "\n\r\n", document{}},
		{"HTML", "<!DOCTYPE html>\n<html></html>", document{}},
		{"no version", strings.Replace(base, "version: STSv1\n", "", 1), document{}},
		{"another version", strings.Replace(base, "STSv1", "STSv2", 1), document{}},
		{"a version of another case", strings.Replace(base, "STSv1", "stsv1", 1), document{}},
		{"no mode", strings.Replace(base, "mode: enforce\n", "", 1), document{}},
		{"an unknown mode", strings.Replace(base, "enforce", "report", 1), document{}},
		{"a mode of another case", strings.Replace(base, "enforce", "Enforce", 1), document{}},
		{"an empty mode", strings.Replace(base, "enforce", "", 1), document{}},
		{"no mx", strings.Replace(base, "mx: mx.example.com\n", "", 1), document{}},
		{"no max_age", strings.Replace(base, "max_age: 86400\n", "", 1), document{}},
		{"the first of two is broken", "max_age: x\n" + base, document{}},
		{"max_age below nought", strings.Replace(base, "86400", "-1", 1), document{}},
		{"max_age with a sign", strings.Replace(base, "86400", "+1", 1), document{}},
		{"max_age with a fraction", strings.Replace(base, "86400", "1.5", 1), document{}},
		{"max_age with an underscore", strings.Replace(base, "86400", "86_400", 1), document{}},
		{"max_age of eleven digits", strings.Replace(base, "86400", "00000086400", 1), document{}},
		{"an empty line inside", "version: STSv1\n\n" + base, document{}},
		{"space in front", " " + base, document{}},
		{"space before the colon", strings.Replace(base, "mode:", "mode :", 1), document{}},
		{"a comment", "# ours\n" + base, document{}},
		{"a byte order mark", "\ufeff" + base, document{}},
		{"lines that end in CR", strings.ReplaceAll(base, "\n", "\r"), document{}},
		{"a CR at the end alone", strings.TrimSuffix(base, "\n") + "\r", document{}},
		{"NUL", base + "x: a\x00b\n", document{}},
		{"not UTF-8", base + "x: \xff\n", document{}},
		{"an unknown key without a value", base + "x:\n", document{}},
		{"a key too long", base + long + "a: 1\n", document{}},
		{"several mx in one line", strings.Replace(base, "mx.example.com", "a.example.com, b.example.com", 1), document{}},
		{"a star", strings.Replace(base, "mx.example.com", "*", 1), document{}},
		{"a star and a dot", strings.Replace(base, "mx.example.com", "*.", 1), document{}},
		{"a wildcard inside", strings.Replace(base, "mx.", "mx.*.", 1), document{}},
		{"half a wildcard", strings.Replace(base, "mx.", "mx*.", 1), document{}},
		{"two wildcards", strings.Replace(base, "mx.", "*.*.", 1), document{}},
		{"a dot at the end", strings.Replace(base, "mx.example.com", "mx.example.com.", 1), document{}},
		{"a dot in front", strings.Replace(base, "mx.example.com", ".example.com", 1), document{}},
		{"a U-label", strings.Replace(base, "mx.", "bücher.", 1), document{}},
		{"the Kelvin sign", strings.Replace(base, "mx.", "\u212a.", 1), document{}},
		{"one bad mx among good ones", base + "mx: -a.example.com\n", document{}},
		{"a label too long", strings.Replace(base, "mx.", strings.Repeat("a", 64)+".", 1), document{}},
		{"a name too long", strings.Replace(base, "mx.", strings.Repeat("aaa.", 64), 1), document{}},
		{"too many mx", base + strings.Repeat("mx: mx.example.com\n", MostMX), document{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parsePolicy(c.body)
			if got.mode != c.want.mode || !slices.Equal(got.mx, c.want.mx) || got.maxAge != c.want.maxAge {
				t.Errorf("%+v, want %+v (%v)", got, c.want, err)
			}
			if (err != nil) != (c.want.mode == "") {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestADomainIsLowerCaseLabelsAndNeverAPath(t *testing.T) {
	label := strings.Repeat("a", 63)
	for s, want := range map[string]bool{
		"example.com": true, "xn--bcher-kva.example": true, "a_b.example": true, "localhost": true, "1.example": true,
		label + "." + label + "." + label + "." + strings.Repeat("a", 52): true,
		label + "." + label + "." + label + "." + strings.Repeat("a", 53): false, // no room for _mta-sts.
		"": false, ".": false, "..": false, "../x": false, "a/b": false, "/": false, ".hidden": false, "a..b": false, "example.com.": false,
		"Example.com": false, "bücher.example": false, "a b": false, "a\x00": false, "-a.example": false, "a-.example": false, "*.example": false,
		"192.0.2.1": false, "[192.0.2.1]": false, "a:443": false, "a@b": false, label + "a.example": false, "a%2f": false, "a\\b": false,
	} {
		if got := isDomain(s); got != want {
			t.Errorf("%q: %v", s, got)
		}
	}
}

func TestAHostAndACertificateAreHeldAgainstThePatterns(t *testing.T) {
	p := Policy{MX: []string{"mail.example.com", "*.example.net"}}
	for host, want := range map[string]bool{
		"mail.example.com": true, "MAIL.example.com": true, "mail.example.com.": true, "a.example.net": true,
		"example.com": false, "x.mail.example.com": false, "example.net": false, "a.b.example.net": false, "": false, ".": false,
		"*.example.net": false, "*.example.com": false, "mail.example.com..": false, "amail.example.com": false,
	} {
		if got := p.MatchMX(host); got != want {
			t.Errorf("host %q: %v", host, got)
		}
	}
	for _, c := range []struct {
		names []string
		want  bool
	}{
		{[]string{"mail.example.com"}, true},
		{[]string{"other.example", "b.example.net"}, true},
		{[]string{"*.example.com"}, true}, // it covers mail.example.com
		{[]string{"*.example.net"}, true},
		{[]string{"*.a.example.net"}, false},
		{[]string{"example.com"}, false},
		{nil, false},
	} {
		if got := p.MatchCertificate(c.names); got != c.want {
			t.Errorf("names %q: %v", c.names, got)
		}
	}
	if (Policy{}).MatchMX("mail.example.com") || (Policy{}).MatchCertificate([]string{"mail.example.com"}) {
		t.Error("the empty policy allows")
	}
	// §4.1's own example.
	p = Policy{MX: []string{"*.example.com"}}
	if !p.MatchMX("mail.example.com") || p.MatchMX("example.com") || p.MatchMX("foo.bar.example.com") {
		t.Error("not as RFC 8461 §4.1 says")
	}
}

func TestAFailureIsShortAndPrintable(t *testing.T) {
	cause := errors.New("a\r\nb\x1b[31m\u202e" + strings.Repeat("x", 1000))
	got := failed(ErrFetch, cause, cause)
	if !strings.HasPrefix(got.Error(), "mta-sts: policy fetch: a??b?[31m?xxx") || len(got.Error()) > mostDetail || !errors.Is(got, cause) || !errors.Is(got, ErrFetch) {
		t.Errorf("%q", got)
	}
	if got := failed(ErrFetch, cause, nil); errors.Is(got, cause) || !errors.Is(got, ErrFetch) {
		t.Errorf("%q", got)
	}
}

func FuzzTXTIsNoneOrAnID(f *testing.F) {
	for _, s := range []string{"v=STSv1; id=20160831085700Z;", "v=STSv1;id=a;;", "v=STSv1; x=1; id=a ;", "v=STSv1;", "v=STSv1;=;id", ""} {
		f.Add(s, "v=spf1 -all")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		id := parseTXT([]string{a, b})
		if id != "" && (!isID(id) || !strings.Contains(a+b, "id="+id)) {
			t.Errorf("%q of %q, %q", id, a, b)
		}
		if parseTXT([]string{b, a}) != id {
			t.Error("the order of records matters")
		}
		if id != "" && parseTXT([]string{a, b, "v=STSv1; id=other"}) != "" {
			t.Error("one of several was taken")
		}
	})
}

// What is read can be written down again and be read as the same, and what is on
// disk after it would be believed.
func FuzzAPolicyIsNoneOrWithinBounds(f *testing.F) {
	for _, s := range []string{policyOfSection3, policyOfAppendix, "version: STSv1\r\nmode: none\r\nmax_age: 0\r\n", "mx: *.a\nmx:b", "version:STSv1\nmode:none\nmax_age:9999999999\n\n\r\n", ":", "\r"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		d, err := parsePolicy(body)
		if err != nil {
			if len(err.Error()) > mostDetail {
				t.Error("a long complaint")
			}
			return
		}
		again := fmt.Sprintf("max_age: %d\nversion: STSv1\nmode: %s\n", d.maxAge/time.Second, d.mode)
		for _, mx := range d.mx {
			again += "mx: " + mx + "\n"
		}
		back, err := parsePolicy(again)
		if err != nil || back.mode != d.mode || back.maxAge != d.maxAge || !slices.Equal(back.mx, d.mx) {
			t.Errorf("%+v became %+v, %v", d, back, err)
		}
		if !d.mode.known() || d.maxAge < 0 || d.maxAge > MostAge || len(d.mx) > MostMX || len(d.mx) == 0 && d.mode != ModeNone {
			t.Errorf("%+v", d)
		}
		now := time.Now()
		text := encode(newPolicy("example.com", "a", d, now), now)
		if _, _, err := readStored(text, "example.com", now); err != nil {
			t.Errorf("stored: %v", err)
		}
	})
}

func FuzzAStoredPolicyIsRefusedOrOneThatCouldHaveBeenFetched(f *testing.F) {
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	d, err := parsePolicy(policyOfSection3)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encode(newPolicy("example.com", "a", d, now), now))
	f.Add([]byte(`{"domain":"example.com","id":"a","mode":"none","max_age":0,"fetched":"2026-03-02T12:00:00Z","expires":"2026-03-02T12:05:00Z"}`))
	f.Add([]byte(`{}`))
	f.Add(encode(newPolicy("example.com", "a", d, now.Add(-d.maxAge)), now)) // run out just now
	f.Fuzz(func(t *testing.T, text []byte) {
		p, asked, err := readStored(text, "example.com", now)
		if err != nil {
			return
		}
		if p.Domain != "example.com" || !now.Before(p.Expires) || p.Fetched.After(now.Add(clockSlack)) || asked.After(now) ||
			p.Expires.Sub(now) > MostAge+clockSlack || !p.Mode.known() || !isID(p.ID) || len(p.MX) == 0 && p.Mode != ModeNone {
			t.Errorf("%+v", p)
		}
	})
}
