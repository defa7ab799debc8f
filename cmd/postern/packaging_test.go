package main

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"

	"postern/cmd/internal/config"
)

// shipped gives the configuration that a package installs, cut before its
// examples.
func shipped(t *testing.T) (settings, examples string) {
	t.Helper()
	doc, err := os.ReadFile("../../packaging/postern.toml")
	if err != nil {
		t.Fatal(err)
	}
	settings, examples, ok := strings.Cut(string(doc), "\n# Examples ---")
	if !ok {
		t.Fatal("no examples")
	}
	return settings, "# Examples ---" + examples
}

var commented = regexp.MustCompile(`(?m)^#([a-z_]+ = |\[)`)

// uncomment takes the # from lines that hold a key or a table.
func uncomment(doc string) string { return commented.ReplaceAllString(doc, "$1") }

// edited makes the one edit without which nothing goes.
func edited(doc string) string {
	return strings.Replace(doc, "\ninterfaces = []\n", "\ninterfaces = [\"lan0\"]\n", 1)
}

func TestTheShippedConfigurationAsksForTheInterfacesAndForNothingElse(t *testing.T) {
	settings, examples := shipped(t)
	path := write(t, settings+"\n"+examples)
	got := postern(t, "check", "--config", path)
	if got.code != exitUsage || strings.Count(got.stderr, "\n") != 1 || !strings.Contains(got.stderr, ": intercept.interfaces: none found") {
		t.Errorf("%+v", got)
	}
	path = write(t, edited(settings+"\n"+examples))
	got = postern(t, "check", "--config", path)
	if got.code != exitFine || got.stderr != "" || !strings.HasPrefix(got.stdout, path+" is sound.\n\n") {
		t.Errorf("exit %d\n%s%s", got.code, got.stdout, got.stderr)
	}
}

func TestTheDefaultsThatAreShownAreThoseInForce(t *testing.T) {
	settings, _ := shipped(t)
	shown := regexp.MustCompile(`(?m)^sources = .*\n`).ReplaceAllString(uncomment(edited(settings)), "") // an example: everybody cannot be written
	if shown == edited(settings) {
		t.Fatal("nothing is shown")
	}
	with, err := config.Parse("with", []byte(shown))
	if err != nil {
		t.Fatal(err)
	}
	without, err := config.Parse("without", []byte(`intercept.interfaces = ["lan0"]`))
	if err != nil {
		t.Fatal(err)
	}
	a, b := printed(t, with.Proxy), printed(t, without.Proxy)
	if diff := cmp.Diff(strings.ReplaceAll(b, "[]", "null"), strings.ReplaceAll(a, "[]", "null")); diff != "" {
		t.Error(diff)
	}
	if with.Notes != nil {
		t.Errorf("%v", with.Notes)
	}
}

// printed makes two configurations comparable, addresses and all.
func printed(t *testing.T, v any) string {
	t.Helper()
	var b bytes.Buffer
	if err := printJSON(&b, v); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestTheExamplesAreSound(t *testing.T) {
	settings, examples := shipped(t)
	synctest.Test(t, func(t *testing.T) { // the clock stands before the days in the examples
		doc := edited(settings) + "\n" + uncomment(examples)
		doc = strings.NewReplacer("/etc/postern/tls/cert.pem", "DIR/edge.pem", "/etc/postern/tls/key.pem", "DIR/edge.key",
			"/etc/postern/tls/ca.pem", "DIR/ca.pem", "/etc/postern/tls/ca.key", "DIR/ca.key").Replace(doc)
		path, _ := certified(t, doc, edge)
		got := postern(t, "check", "--config", path)
		if got.code != exitFine || got.stderr != "" || !strings.HasPrefix(got.stdout, path+" is sound.\n\n") {
			t.Errorf("exit %d\n%s%s", got.code, got.stdout, got.stderr)
		}
		if n := strings.Count(got.stdout, " rule, line "); n != 5 {
			t.Errorf("%d rules\n%s", n, got.stdout)
		}
	})
}

func TestEveryKeyIsShown(t *testing.T) {
	settings, examples := shipped(t)
	var reference, shown map[string]any
	if _, err := toml.DecodeFile("../internal/config/testdata/reference.toml", &reference); err != nil {
		t.Fatal(err)
	}
	if _, err := toml.Decode(uncomment(settings+"\n"+examples), &shown); err != nil {
		t.Fatal(err)
	}
	for name, v := range reference {
		if name == "rule" {
			for _, r := range v.([]map[string]any) {
				for key := range r {
					if !regexp.MustCompile(`(?m)^#( .*)?\b` + key + `\b`).MatchString(examples) {
						t.Errorf("rule: %s is not shown", key)
					}
				}
			}
			continue
		}
		table, _ := v.(map[string]any)
		there, _ := shown[name].(map[string]any)
		if _, ok := shown[name]; !ok {
			t.Errorf("%s is not shown", name)
		}
		for key := range table {
			if _, ok := there[key]; !ok {
				t.Errorf("%s.%s is not shown", name, key)
			}
		}
	}
}
