package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"postern/cmd/internal/config"
)

var block = regexp.MustCompile("(?s)```toml\n(.*?)```")

func TestTheConfigurationsInTheREADMEAreSound(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	found := block.FindAllStringSubmatch(string(text), -1)
	if len(found) < 2 {
		t.Fatalf("%d configurations found", len(found))
	}
	for _, b := range found {
		if _, err := config.Parse("README.md", []byte(b[1])); err != nil {
			t.Errorf("%v in\n%s", err, b[1])
		}
	}
}

var command = regexp.MustCompile(`(?m)^    (postern [^#\n]*)`)

func TestWhatTheREADMEExplainsIsAllowedByItsFirstConfiguration(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	path := write(t, block.FindAllStringSubmatch(string(text), -1)[0][1])
	explained := 0
	for _, c := range command.FindAllStringSubmatch(string(text), -1) {
		args := strings.Fields(c[1])[1:]
		if args[0] != "explain" {
			continue
		}
		explained++
		if got := postern(t, append(args, "--config", path)...); got.code != exitFine || !strings.Contains(got.stdout, "contoso") {
			t.Errorf("%s: %+v", c[1], got)
		}
	}
	if explained == 0 {
		t.Error("nothing is explained")
	}
}

// The commands that the README shows have to be there with the flags it gives
// them; what they do is tested elsewhere.
func TestTheCommandsInTheREADMEExist(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	found := command.FindAllStringSubmatch(string(text), -1)
	if len(found) < 4 {
		t.Fatalf("%d commands found", len(found))
	}
	for _, c := range found {
		args := strings.Fields(c[1])[1:]
		cmd, rest, err := newRoot().Find(args)
		if err != nil || !cmd.Runnable() || cmd.Name() == "postern" {
			t.Errorf("%s: %v", c[1], err)
			continue
		}
		if err := cmd.ParseFlags(rest); err != nil {
			t.Errorf("%s: %v", c[1], err)
		}
	}
}
