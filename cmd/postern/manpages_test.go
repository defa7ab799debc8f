package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"

	"postern/packaging/manual"
)

var sometime = manual.Release{Version: "1.2.3~dev.4.gabc", Date: time.Unix(1e9, 0)}

// pages are all pages, by name.
func pages(t *testing.T) map[string]string {
	t.Helper()
	settings, err := os.ReadFile("../../packaging/postern.toml")
	if err != nil {
		t.Fatal(err)
	}
	page, err := manual.Settings(string(settings), sometime)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{page.Name: page.Text}
	for _, p := range manual.Commands(newRoot(), sometime) {
		all[p.Name] = p.Text
	}
	return all
}

func TestEveryCommandHasAManualPage(t *testing.T) {
	all := pages(t)
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		page := all[strings.ReplaceAll(cmd.CommandPath(), " ", "-")+".8"]
		for _, section := range []string{"NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "SEE ALSO"} {
			if !strings.Contains(page, ".SH "+section+"\n") {
				t.Errorf("%s: no %s", cmd.CommandPath(), section)
			}
		}
		if strings.Contains(cmd.Long, "Exit codes: ") != strings.Contains(page, "\n.SH EXIT STATUS\n.TP\n\\fB0\\fR\n") {
			t.Errorf("%s: exit codes\n%s", cmd.CommandPath(), page)
		}
		if strings.Contains(cmd.Long, "Signals:") != strings.Contains(page, ".SH SIGNALS\n") && cmd.HasParent() {
			t.Errorf("%s: signals", cmd.CommandPath())
		}
		for _, c := range cmd.Commands() {
			visit(c)
		}
	}
	visit(newRoot())
	for _, section := range []string{"COMMANDS", "SIGNALS", "EXIT STATUS", "FILES"} {
		if !strings.Contains(all["postern.8"], ".SH "+section+"\n") {
			t.Errorf("postern(8) has no %s", section)
		}
	}
}

func TestTheManualHasEveryKeyThatTheShippedConfigurationHas(t *testing.T) {
	settings, examples := shipped(t)
	page := pages(t)["postern.toml.5"]
	var shown map[string]any
	if _, err := toml.Decode(uncomment(settings+"\n"+examples), &shown); err != nil {
		t.Fatal(err)
	}
	keys := 0
	for name, v := range shown {
		table, ok := v.(map[string]any)
		if !ok {
			table = map[string]any{name: v}
		} else if !strings.Contains(page, ".SS ["+name+"]\n") && name != "tls" {
			t.Errorf("[%s] is not in the manual", name)
		}
		for key, value := range table {
			switch value.(type) {
			case map[string]any, []map[string]any: // tables of their own
				continue
			}
			keys++
			if !strings.Contains(page, "\n\\fB"+key+"\\fR = ") && name != "rule" {
				t.Errorf("%s of [%s] is not in the manual", key, name)
			}
		}
	}
	if keys < 25 {
		t.Errorf("only %d keys", keys)
	}
}

func TestALineThatTheManualCannotPlaceIsAnError(t *testing.T) {
	for _, file := range []string{"[tls]\nmin version\n", "#commented\n", "# Examples ---\nname = 1\n"} {
		if page, err := manual.Settings(file, sometime); err == nil {
			t.Errorf("%q became\n%s", file, page.Text)
		}
	}
}

// A request that came out of a text would vanish from the page, or worse.
var request = regexp.MustCompile(`(?m)^['.](\w*)`)

func TestNoTextBecomesARequest(t *testing.T) {
	root := &cobra.Command{Use: "hostile", Short: ".so /etc/passwd", Long: ".ab\n'ab\n\\fB\n\n  .ab", Run: func(*cobra.Command, []string) {}}
	all := pages(t)
	for _, p := range manual.Commands(root, sometime) {
		all[p.Name] = p.Text
	}
	known := map[string]bool{"TH": true, "SH": true, "SS": true, "TP": true, "TQ": true, "PP": true, "RS": true, "RE": true, "BR": true,
		"nf": true, "fi": true, "nh": true, "ad": true}
	for name, text := range all {
		for _, m := range request.FindAllStringSubmatch(text, -1) {
			if !known[m[1]] {
				t.Errorf("%s: request %q", name, m[0])
			}
		}
	}
	if !strings.Contains(all["hostile.8"], `\efB`) {
		t.Errorf("%s", all["hostile.8"])
	}
}

func TestManFormatsThePagesWithoutAWarning(t *testing.T) {
	if _, err := exec.LookPath("man"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	all := pages(t)
	all["broken.8"] = ".TH BROKEN 8\n.SH NAME\nbroken \\- the guard can fail\n.zz\n" // the guard is seen to fail
	for name, text := range all {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", path)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANROFFSEQ=", "MANWIDTH=80")
		var warnings strings.Builder
		cmd.Stderr = &warnings
		err := cmd.Run()
		if (err != nil || warnings.Len() > 0) != (name == "broken.8") {
			t.Errorf("%s: %v %s", name, err, warnings.String())
		}
	}
}
