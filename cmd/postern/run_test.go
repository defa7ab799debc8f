package main

import (
	"strings"
	"testing"
)

func TestRunSaysWhichPrivilegeIsMissing(t *testing.T) {
	path := write(t, `intercept.interfaces = ["lan0"]`)
	got := withoutCapability(func() said { return postern(t, "run", "--config", path) })
	if got.code != exitFinding || !strings.Contains(got.stderr, "need CAP_NET_RAW (CAP_NET_ADMIN works too)") {
		t.Errorf("%+v", got)
	}
}

func TestRunDoesNotStartWithAConfigurationThatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		`mode = "strict"`: "postern.toml:1: mode:",
		"[intercept]\nmethod = \"none\"\n[listen]\nupstream = \"127.0.0.1:1\"\naddresses = [\"127.0.0.1:2599\"]\n[[tls.certificate]]\nname = \"x\"\ncert = \"/nonexistent/c\"\nkey = \"/nonexistent/k\"": "postern.toml:8: tls.certificate \"x\": cert:",
	} {
		got := postern(t, "run", "--config", write(t, text))
		if got.code != exitUsage || !strings.Contains(got.stderr, want) {
			t.Errorf("%+v, want %s", got, want)
		}
	}
}
