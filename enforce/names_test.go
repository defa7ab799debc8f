package enforce

import (
	"strings"
	"testing"
)

func TestANameSatisfiesAPatternByWholeLabels(t *testing.T) {
	for _, c := range []struct {
		san, pattern string
		want         bool
	}{
		{"mx.example.com", "mx.example.com", true},
		{"MX.Example.COM", "mx.example.com", true},
		{"mx.example.com", "MX.example.com", true},
		{"mx2.example.com", "mx.example.com", false},
		{"example.com", "mx.example.com", false},
		{"mx.example.com", "example.com", false},
		{"xmx.example.com", "mx.example.com", false},

		// A wildcard in the certificate.
		{"*.example.com", "mx.example.com", true},
		{"*.example.com", "example.com", false},
		{"*.example.com", "a.mx.example.com", false},
		{"*.com", "example.com", true},
		{"*.example.com", "xn--bcher-kva.example.com", true},
		{"m*.example.com", "mx.example.com", false},
		{"*x.example.com", "mx.example.com", false},
		{"mx.*.com", "mx.example.com", false},
		{"*.*.com", "mx.example.com", false},
		{"**.example.com", "mx.example.com", false},
		{"*", "example", false},
		{"*", "mx.example.com", false},

		// A wildcard in the pattern: exactly one label.
		{"contoso-com.mail.protection.outlook.com", "*.mail.protection.outlook.com", true},
		{"mail.protection.outlook.com", "*.mail.protection.outlook.com", false},
		{"a.b.mail.protection.outlook.com", "*.mail.protection.outlook.com", false},
		{"*.mail.protection.outlook.com", "*.mail.protection.outlook.com", true},
		{"*.protection.outlook.com", "*.mail.protection.outlook.com", false},
		{"*.a.example.com", "*.example.com", false},
		{"f*.example.com", "*.example.com", false},
		{"mx.example.com", "*", false},
		{"*", "*", false},

		// What is no host name is nothing.
		{"", "", false},
		{"mx.example.com.", "mx.example.com.", false},
		{"mx..com", "mx..com", false},
		{"mx\x00.example.com", "*.example.com", false},
		{"\u212a.example.com", "k.example.com", false},
		{"bücher.example.com", "*.example.com", false},
		{".example.com", "*.example.com", false},
		{"mail_1.example.com", "*.example.com", true},
		{strings.Repeat("a", 64) + ".example.com", "*.example.com", false},
		{"localhost", "localhost", true},
	} {
		if got := MatchNames([]string{c.san}, []string{c.pattern}); got != c.want {
			t.Errorf("name %q, pattern %q: %v, want %v", c.san, c.pattern, got, c.want)
		}
	}
}

func TestAnyNameMaySatisfyAnyPatternAndNoneSatisfiesNone(t *testing.T) {
	if !MatchNames([]string{"a.example", "b.example"}, []string{"x.example", "b.example"}) {
		t.Error("the second of both agree and do not match")
	}
	if MatchNames(nil, []string{"a.example"}) || MatchNames([]string{"a.example"}, nil) || MatchNames(nil, nil) {
		t.Error("nothing matches")
	}
}

func FuzzMatchNamesIsNeverWiderThanOneLabel(f *testing.F) {
	f.Add("*.example.com", "mx.example.com")
	f.Add("a.b", "*.b")
	f.Add("*.b", "*.b")
	f.Fuzz(func(t *testing.T, name, pattern string) {
		if !MatchNames([]string{name}, []string{pattern}) {
			return
		}
		n, p := strings.Map(lowerASCII, name), strings.Map(lowerASCII, pattern)
		if strings.Count(n, ".") != strings.Count(p, ".") {
			t.Fatalf("%q matches %q with another number of labels", name, pattern)
		}
		_, nr, _ := strings.Cut(n, ".")
		_, pr, _ := strings.Cut(p, ".")
		if nr != pr {
			t.Fatalf("%q matches %q beyond the first label", name, pattern)
		}
	})
}
