package dane

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var names = []string{"mx.example.org", "example.org"}

func TestEveryUsableKindOfRecordMatchesWhatItIsOf(t *testing.T) {
	l, other := good(t), good(t)
	for _, usage := range []uint8{usageTA, usageEE} {
		for selector := range uint8(2) {
			for matching := range uint8(3) {
				t.Run(fmt.Sprint(usage, selector, matching), func(t *testing.T) {
					own, foreign := []*pair{l.leaf}, []*pair{l.middle, l.root, other.leaf}
					if usage == usageTA {
						own, foreign = []*pair{l.middle, l.root}, []*pair{l.leaf, other.middle, other.root}
					}
					for _, p := range own {
						r := record(usage, selector, matching, p)
						if ok, detail := Match([]Record{r}, l.chain(), names, noon); !ok || detail != of(r) {
							t.Errorf("of %s: %v, %s", p.Subject, ok, detail)
						}
					}
					for _, p := range foreign {
						if ok, detail := Match([]Record{record(usage, selector, matching, p)}, l.chain(), names, noon); ok || detail == "" {
							t.Errorf("of %s: %v, %s", p.Subject, ok, detail)
						}
					}
				})
			}
		}
	}
}

func TestUsage3KnowsNeitherDatesNorNamesNorIssuers(t *testing.T) {
	old := server("elsewhere.example")
	old.NotBefore, old.NotAfter = noon.Add(-3*day), noon.Add(-2*day)
	for name, p := range map[string]*pair{
		"expired, another name":    issue(t, old, issue(t, authority("root"), nil)),
		"self-signed, without one": issue(t, x509.Certificate{}, nil),
		"an authority":             issue(t, authority("root"), nil),
	} {
		t.Run(name, func(t *testing.T) {
			for selector := range uint8(2) {
				if ok, detail := Match([]Record{record(usageEE, selector, matchSHA256, p)}, shown(p), nil, noon); !ok {
					t.Error(detail)
				}
			}
		})
	}
}

func TestUsage2WantsAChainThatHoldsAndAName(t *testing.T) {
	alter := func(template x509.Certificate, how func(*x509.Certificate)) x509.Certificate {
		how(&template)
		return template
	}
	expired := func(c *x509.Certificate) { c.NotBefore, c.NotAfter = noon.Add(-3*day), noon.Add(-2*day) }
	root, middle, leaf := authority("root"), authority("middle"), server("mx.example.org")
	for name, tc := range map[string]struct {
		root, middle, leaf x509.Certificate
		want               string // empty: it matches
	}{
		"all is well":           {root, middle, leaf, ""},
		"the leaf expired":      {root, middle, alter(leaf, expired), "the certificate expired on "},
		"the leaf is not begun": {root, middle, alter(leaf, func(c *x509.Certificate) { c.NotBefore = noon.Add(day / 2) }), "the certificate is not valid before "},
		"an authority expired":  {root, alter(middle, expired), leaf, "an authority's certificate expired on "},
		"the root expired":      {alter(root, expired), middle, leaf, "an authority's certificate expired on "},
		"another name":          {root, middle, server("mx.example.net"), "the certificate is for mx.example.net and not for mx.example.org, example.org"},
		"the domain's name":     {root, middle, server("example.org"), ""},
		"in capitals":           {root, middle, server("MX.Example.ORG"), ""},
		"a wildcard":            {root, middle, server("*.example.org"), ""},
		"a wildcard too high":   {root, middle, server("*.org", "*.mx.example.org"), ""}, // *.org is example.org
		"a partial wildcard":    {root, middle, server("m*.example.org"), "the certificate is for m*.example.org and not"},
		"no name":               {root, middle, alter(server(), func(c *x509.Certificate) { c.Subject = pkix.Name{} }), "the certificate is for no name and not"},
		"a common name":         {root, middle, alter(server(), func(c *x509.Certificate) { c.Subject.CommonName = "mx.example.org" }), ""},
		"a common name beside": {root, middle, alter(server("other.example"), func(c *x509.Certificate) { c.Subject.CommonName = "mx.example.org" }),
			"the certificate is for other.example and not"},
		"no authority in between": {root, server("middle"), leaf, "does not verify"},
		"may not sign":            {root, alter(middle, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), leaf, "does not verify"},
		"too deep":                {alter(root, func(c *x509.Certificate) { c.MaxPathLenZero = true }), middle, leaf, "does not verify"},
		"for other names": {root, alter(middle, func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example.net"} }), leaf,
			"does not verify"},
		"for clients only": {root, middle, alter(leaf, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), "does not verify"},
	} {
		t.Run(name, func(t *testing.T) {
			l := climb(t, tc.root, tc.middle, tc.leaf)
			ok, detail := Match([]Record{record(usageTA, selectorSPKI, matchSHA256, l.root)}, l.chain(), names, noon)
			if ok != (tc.want == "") || !ok && !strings.Contains(detail, tc.want) {
				t.Errorf("%v, %s", ok, detail)
			}
		})
	}
}

func TestATrustAnchorThatIsNotShownHasToBeInItsRecord(t *testing.T) {
	l := good(t)
	other := good(t)
	for _, tc := range []struct {
		name   string
		record Record
		chain  []*x509.Certificate
		want   bool
	}{
		{"a digest, without the root", record(2, 0, 1, l.root), shown(l.leaf, l.middle), false},
		{"the root in the record", record(2, 0, 0, l.root), shown(l.leaf, l.middle), true},
		{"the root in the record, no authority between", record(2, 0, 0, l.root), shown(l.leaf), false},
		{"the authority in the record", record(2, 0, 0, l.middle), shown(l.leaf), true},
		{"the root's key in the record", record(2, 1, 0, l.root), shown(l.leaf, l.middle), true},
		{"the authority's key in the record", record(2, 1, 0, l.middle), shown(l.leaf), true},
		{"the root's key, no authority between", record(2, 1, 0, l.root), shown(l.leaf), false},
		{"another's key", record(2, 1, 0, other.root), shown(l.leaf, l.middle), false},
		{"another's root", record(2, 0, 0, other.root), shown(l.leaf, l.middle), false},
		{"the leaf's own certificate", record(2, 0, 0, l.leaf), shown(l.leaf), false},
		{"the leaf twice", record(2, 0, 1, l.leaf), shown(l.leaf, l.leaf), false},
		{"an authority that is shown and has signed nothing of it", record(2, 0, 1, other.root), shown(l.leaf, l.middle, other.root), false},
		{"in another order", record(2, 0, 1, l.root), shown(l.leaf, l.root, l.middle), true},
		{"behind too many", record(2, 0, 1, l.root), append(shown(l.leaf), append(slices.Repeat(shown(other.root), mostCertificates-1), l.middle.Certificate, l.root.Certificate)...), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if ok, detail := Match([]Record{tc.record}, tc.chain, names, noon); ok != tc.want {
				t.Error(detail)
			}
			later := noon.Add(2 * day)
			if ok, _ := Match([]Record{tc.record}, tc.chain, names, later); ok {
				t.Error("it matches when all has expired")
			}
		})
	}
}

func TestABareKeyWantsTheNameAndWhatItSignedToBeAnAuthority(t *testing.T) {
	l := climb(t, authority("root"), authority("middle"), server("mx.example.net"))
	if ok, _ := Match([]Record{record(2, 1, 0, l.middle)}, shown(l.leaf), names, noon); ok {
		t.Error("another name matched")
	}
	l = climb(t, authority("root"), server("middle"), server("mx.example.org"))
	if ok, _ := Match([]Record{record(2, 1, 0, l.root)}, shown(l.leaf, l.middle), names, noon); ok {
		t.Error("what is no authority signed the leaf")
	}
}

func TestRecordsThatCannotBeUsedArePassedOver(t *testing.T) {
	l := good(t)
	spki := record(3, 1, 1, l.leaf).Data
	for name, r := range map[string]Record{
		"usage 0":          raw(0, 1, 1, spki),
		"usage 1":          raw(1, 1, 1, spki),
		"usage 4":          raw(4, 1, 1, spki),
		"private usage":    raw(255, 1, 1, spki),
		"selector 2":       raw(3, 2, 1, spki),
		"matching type 3":  raw(3, 1, 3, spki),
		"no data":          raw(3, 1, 1, nil),
		"no data, in full": raw(3, 1, 0, nil),
		"too short":        raw(3, 1, 1, spki[:31]),
		"too long":         raw(3, 1, 1, append(slices.Clone(spki), 0)),
		"SHA-256 as 512":   raw(3, 1, 2, spki),
		"not DER":          raw(3, 1, 0, []byte("hello")),
		"DER and more":     raw(3, 1, 0, append(record(3, 1, 0, l.leaf).Data, 0)),
	} {
		t.Run(name, func(t *testing.T) {
			if ok, detail := Match([]Record{r}, l.chain(), names, noon); ok || detail != "none of the TLSA records can be used" {
				t.Errorf("%v, %s", ok, detail)
			}
			if ok, detail := Match([]Record{r, record(3, 1, 1, l.leaf)}, l.chain(), names, noon); !ok {
				t.Errorf("beside one that can be: %s", detail)
			}
		})
	}
	if ok, detail := Match(nil, l.chain(), names, noon); ok || detail == "" {
		t.Error("no records matched")
	}
	if ok, detail := Match([]Record{record(3, 1, 1, l.leaf)}, nil, names, noon); ok || detail != "no certificate shown" {
		t.Error("no chain matched")
	}
}

func TestAWeakerDigestDoesNotCountBesideAStrongerOne(t *testing.T) {
	l, other := good(t), good(t)
	wrong512 := record(3, 1, 2, other.leaf)
	for _, tc := range []struct {
		name    string
		records []Record
		want    bool
	}{
		{"the weaker matches", []Record{record(3, 1, 1, l.leaf), wrong512}, false},
		{"in the other order", []Record{wrong512, record(3, 1, 1, l.leaf)}, false},
		{"the stronger matches", []Record{record(3, 1, 1, other.leaf), record(3, 1, 2, l.leaf)}, true},
		{"another selector", []Record{record(3, 0, 1, l.leaf), wrong512}, true},
		{"another usage", []Record{record(2, 1, 1, l.middle), wrong512}, true},
		{"in full", []Record{record(3, 1, 0, l.leaf), wrong512}, true},
		{"a stronger one that cannot be used", []Record{record(3, 1, 1, l.leaf), raw(3, 1, 2, wrong512.Data[:32])}, true},
		{"a stronger one of a usage that cannot be", []Record{record(3, 1, 1, l.leaf), raw(1, 1, 2, wrong512.Data)}, true},
		{"two of the stronger", []Record{wrong512, record(3, 1, 2, l.leaf)}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if ok, detail := Match(tc.records, l.chain(), names, noon); ok != tc.want {
				t.Errorf("%v, %s", ok, detail)
			}
		})
	}
}

func TestNoWordOfAPeerIsQuotedRaw(t *testing.T) {
	leaf := server("evil\r\n250 ok.example", strings.Repeat("a", 1000), "b", "c", "d")
	l := climb(t, authority("ro\r\not"), authority("mid\x1bdle"), leaf)
	for _, rs := range [][]Record{{record(2, 0, 1, l.root)}, {record(2, 0, 1, l.leaf)}} {
		for _, at := range []time.Time{noon, noon.Add(-3 * day)} {
			ok, detail := Match(rs, l.chain(), names, at)
			if ok || len(detail) > 1200 || strings.ContainsFunc(detail, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("%v, %q", ok, detail)
			}
		}
	}
}

func TestMatchingIsBounded(t *testing.T) {
	l := good(t)
	many := slices.Repeat([]Record{record(3, 1, 1, l.middle)}, mostRecords)
	if ok, _ := Match(append(many, record(3, 1, 1, l.leaf)), l.chain(), names, noon); ok {
		t.Error("more records than the bound were looked at")
	}
	if ok, detail := Match(append(many[1:], record(3, 1, 1, l.leaf)), l.chain(), names, noon); !ok {
		t.Error(detail)
	}
}

// Whatever stands in records and names, Match neither panics nor lets anything
// pass that no record is of.
func FuzzMatch(f *testing.F) {
	l, other := good(f), good(f)
	f.Add(uint8(3), uint8(1), uint8(1), record(3, 1, 1, l.leaf).Data, "mx.example.org")
	f.Add(uint8(2), uint8(0), uint8(0), l.root.Raw, "mx.example.org")
	f.Add(uint8(2), uint8(1), uint8(0), other.root.RawSubjectPublicKeyInfo, "*")
	f.Fuzz(func(t *testing.T, usage, selector, matching uint8, data []byte, name string) {
		r := raw(usage, selector, matching, data)
		ok, detail := Match([]Record{r}, l.chain(), []string{name}, noon)
		genuine := slices.ContainsFunc([]*pair{l.leaf, l.middle, l.root}, func(p *pair) bool { return matches(r, p.Certificate) })
		if ok && !genuine || detail == "" || len(detail) > 2000 {
			t.Errorf("%v, %q", ok, detail)
		}
		if ok && usage != usageTA && usage != usageEE {
			t.Errorf("usage %d matches", usage)
		}
	})
}
