package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const two = `# Changelog

## Unreleased

- ` + "`postern init`" + ` writes a configuration.
- A line that is long, so long indeed that it does not fit into one of Debian's changelog, which
  lintian minds.

## 1.0.0 (2026-12-24)

First version.
`

func changelog(t *testing.T, text string, args ...string) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "CHANGELOG.md")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	err := run(append(args, "-maintainer", "A <a@b.c>", path), "1800000000", &b)
	return b.String(), err
}

func TestWhatIsUnreleasedIsTheVersionThatIsPackaged(t *testing.T) {
	got, err := changelog(t, two, "-version", "1.1.0~dev.3")
	if err != nil {
		t.Fatal(err)
	}
	want := `postern (1.1.0~dev.3) unstable; urgency=medium

  * postern init writes a configuration.
  * A line that is long, so long indeed that it does not fit into one of
    Debian's changelog, which lintian minds.

 -- A <a@b.c>  Fri, 15 Jan 2027 08:00:00 +0000

postern (1.0.0) unstable; urgency=medium

  * First version.

 -- A <a@b.c>  Thu, 24 Dec 2026 00:00:00 +0000
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTheFirstVersionIsAlwaysTheOneThatIsPackaged(t *testing.T) {
	for _, c := range []struct{ text, version, first string }{
		{two, "2", "* postern init"},
		{"## Unreleased\n\n## 1.0 (2026-01-01)\n- x\n", "1.0", "* x"},
		{"## 1.0 (2026-01-01)\n- x\n", "1.0", "* x"},
		{"## 1.0 (2026-01-01)\n- x\n", "1.1", "* Built from"},
		{"## Unreleased\n\n## 1.0 (2026-01-01)\n- x\n", "1.1", "* Built from"},
		{"", "1.1", "* Built from"},
	} {
		got, err := changelog(t, c.text, "-version", c.version)
		if err != nil || !strings.HasPrefix(got, "postern ("+c.version+") unstable; urgency=medium\n\n  "+c.first) {
			t.Errorf("%q, %s: %v\n%s", c.text, c.version, err, got)
		}
	}
}

func TestRPMGetsTheSameVersionsWithItsRelease(t *testing.T) {
	got, err := changelog(t, two, "-version", "1.1.0", "-format", "rpm")
	if err != nil {
		t.Fatal(err)
	}
	var list []entry
	if err := json.Unmarshal([]byte(got), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || list[0].Semver != "1.1.0-1" || len(list[0].Changes) != 2 || list[1].Date.Unix() != 1798070400 {
		t.Errorf("%+v", list)
	}
}

func TestAHeadingThatIsNoVersionIsAnErrorWithItsLine(t *testing.T) {
	for _, bad := range []string{"## Version 2\n", "## 1.0\n", "## 1.0 (2026-13-01)\n", "## 1-0 (2026-01-01)\n"} {
		if got, err := changelog(t, bad, "-version", "1"); err == nil || !strings.Contains(err.Error(), "line 1: ") {
			t.Errorf("%q: %v\n%s", bad, err, got)
		}
	}
}

func TestTheProjectsOwnChangelogCanBeRead(t *testing.T) {
	text, err := os.ReadFile("../../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := changelog(t, string(text), "-version", "1"); err != nil || strings.Contains(got, "Built from") {
		t.Errorf("%v\n%s", err, got)
	}
}
