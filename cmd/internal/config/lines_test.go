package config

import (
	"os"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

func TestEveryKeyAndEntryHasItsLine(t *testing.T) {
	doc := strings.Join([]string{
		/*  1 */ "\ufeffmode = 1 # = [x]",
		/*  2 */ "a.b . \"c d\".'e' = '''",
		/*  3 */ "[not.a.table]",
		/*  4 */ "''''' # two quotation marks of its own",
		/*  5 */ `s = """one \""" two`,
		/*  6 */ `x = 1"""`,
		/*  7 */ "\t[ t . u ] # head",
		/*  8 */ "list = [ # comment ]",
		/*  9 */ `  "a,]", 'b#',`,
		/* 10 */ "",
		/* 11 */ "  [1, 2], {k = 3, l.m = [",
		/* 12 */ "     4]},",
		/* 13 */ "]",
		/* 14 */ "date = 1979-05-27 07:32:00",
		/* 15 */ "[[rule]]",
		/* 16 */ "name = \"a\"\r",
		/* 17 */ "[rule.sub]",
		/* 18 */ "[[rule.inner]]",
		/* 19 */ "z = inf",
		/* 20 */ "[[rule]] # the second",
		/* 21 */ "name = \"b\"",
		/* 22 */ "[[rule.inner]]",
		/* 23 */ "[[rule.inner]]",
		/* 24 */ `"\"q" = true`,
		/* 25 */ "[t]",
		/* 26 */ "v = -1",
	}, "\n")
	var values map[string]any
	if _, err := toml.Decode(doc, &values); err != nil {
		t.Fatal("the document itself: ", err)
	}
	lines, fault, _ := scanLines(doc)
	if fault != "" {
		t.Fatal(fault)
	}
	want := map[string]int{
		"mode": 1, "a": 2, "a.b": 2, `a.b."c d"`: 2, `a.b."c d".e`: 2, "s": 5,
		"t.u": 7, "t.u.list": 8, "t.u.list[0]": 9, "t.u.list[1]": 9, "t.u.list[2]": 11, "t.u.list[2][0]": 11, "t.u.list[2][1]": 11,
		"t.u.list[3]": 11, "t.u.list[3].k": 11, "t.u.list[3].l": 11, "t.u.list[3].l.m": 11, "t.u.list[3].l.m[0]": 12, "t.u.date": 14,
		"rule": 15, "rule[0]": 15, "rule[0].name": 16, "rule[0].sub": 17, "rule[0].inner": 18, "rule[0].inner[0]": 18, "rule[0].inner[0].z": 19,
		"rule[1]": 20, "rule[1].name": 21, "rule[1].inner": 22, "rule[1].inner[0]": 22, "rule[1].inner[1]": 23, `rule[1].inner[1]."\"q"`: 24,
		"t": 25, "t.v": 26,
	}
	for path, line := range want {
		if lines[path] != line {
			t.Errorf("%s: line %d, want %d", path, lines[path], line)
		}
	}
	for path, line := range lines {
		if want[path] == 0 {
			t.Errorf("%s: line %d, want none", path, line)
		}
	}
}

func TestWhatWasNotWrittenHasTheLineOfWhatIsAroundIt(t *testing.T) {
	p := &positions{lines: map[string]int{"rule[1]": 7, "tls": 3}}
	for path, want := range map[string]int{"rule[1].names[2]": 7, "tls.trust.ca": 3, "log.level": 1, "": 1, `"odd.".[`: 1} {
		if got := p.line(path); got != want {
			t.Errorf("%s: line %d, want %d", path, got, want)
		}
	}
}

// Whatever the library makes of a document, the scanner must have seen the same:
// a fault without its line would be pinned to another place.
func FuzzEveryKeyOfAnyDocumentHasItsLine(f *testing.F) {
	reference, err := os.ReadFile("testdata/reference.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(reference))
	f.Fuzz(func(t *testing.T, doc string) {
		values, lines, fault := decode("f", []byte(doc))
		if fault != nil {
			return
		}
		last := strings.Count(doc, "\n") + 1
		walk(values, "", func(path string) {
			if n := lines[path]; n < 1 || n > last {
				t.Fatalf("%s: line %d of %d", path, n, last)
			}
		})
	})
}

func walk(v any, path string, see func(string)) {
	if path != "" {
		see(path)
	}
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			walk(e, join(path, k), see)
		}
	case []map[string]any:
		for i, e := range v {
			walk(e, element(path, i), see)
		}
	case []any:
		for i, e := range v {
			walk(e, element(path, i), see)
		}
	}
}
