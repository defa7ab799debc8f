package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestExplainSaysWhatComesOfWhatPartnersPublish(t *testing.T) {
	const policy = "testdata/explain/partners.toml"
	for _, c := range []struct {
		name, args string
		code       int
	}{
		{"mx-of", "--mx-of authority.example --names mx.authority.example --to authority.example", exitFine},
		{"mx-of-by-the-domain", "--to authority.example --names mx.elsewhere.example", exitFinding},
		{"mx-of-revoked", "--mx-of authority.example --names mx.authority.example --revocation revoked", exitFinding},
		{"mx-of-not-known-whether-revoked", "--upstream 203.0.113.3 --names mx.authority.example --revocation unknown", exitFinding},
		{"dane-required", "--to court.example", exitFinding},
		{"dane", "--to court.example --dane matched --verified no", exitFine},
		{"dane-of-anybody", "--to other.example --dane mismatch", exitFinding},
		{"dane-behind-a-smart-host", "--upstream 198.51.100.3 --to other.example --dane mismatch", exitFine},
		{"dane-bogus", "--to other.example --dane failed", exitFinding},
		{"mta-sts", "--to bank.example --mta-sts testing", exitFine},
		{"mta-sts-missing", "--to bank.example", exitFinding},
		{"mta-sts-wrong-host", "--to other.example --mta-sts wrong-mx", exitFinding},
		{"mta-sts-revoked", "--to bank.example --mta-sts enforce --revocation revoked", exitFinding},
		{"stripped", "--starttls no --remembered 1.3", exitFinding},
	} {
		got := postern(t, append([]string{"explain", "--config", policy}, strings.Fields(c.args)...)...)
		if got.code != c.code || got.stderr != "" {
			t.Errorf("explain %s: exit %d\n%s", c.args, got.code, got.stderr)
		}
		text := strings.ReplaceAll(got.stdout, time.Now().UTC().Format(time.DateOnly), "TODAY")
		golden(t, "explain/partners-"+c.name, "$ postern explain "+c.args+"\n"+text)
	}
	for _, args := range []string{"--dane yes", "--mta-sts yes", "--revocation soft", "--remembered 1.1", "--mx-of a..b"} {
		if got := postern(t, append([]string{"explain", "--config", policy}, strings.Fields(args)...)...); got.code != exitUsage {
			t.Errorf("explain %s: exit %d", args, got.code)
		}
	}
}

// What the daemon has seen of MX hosts is there for explain and check.
func TestWhatTheDaemonKnowsOfMXHostsIsTold(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "postern.toml")
	doc := fmt.Sprintf("intercept.interfaces = ['lan0']\nmemory.store = 'bolt://%s/memory.db'\n[[rule]]\nname = 'authority'\nto_mx_of = ['authority.example']\ntls = 'forced'\n", dir)
	now := time.Now()
	known, err := json.Marshal(map[string]any{"authority.example": map[string]any{
		"203.0.113.77": map[string]any{"host": "mx.authority.example", "seen": now.Add(-3 * time.Hour), "until": now.Add(100 * time.Hour)},
		"203.0.113.78": map[string]any{"host": "old.authority.example", "seen": now.Add(-300 * time.Hour), "until": now.Add(-time.Hour)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string][]byte{file: []byte(doc), filepath.Join(dir, "mx.json"): known} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := postern(t, "check", "--config", file); got.code != exitFine || !strings.Contains(strings.Join(strings.Fields(got.stdout), " "),
		`Of authority.example the daemon knows 203.0.113.77 ("mx.authority.example", last seen 3h ago).`) {
		t.Errorf("exit %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	for address, want := range map[string]int{"203.0.113.77": exitFinding, "203.0.113.78": exitFine} {
		if got := postern(t, "explain", "--config", file, "--upstream", address, "--starttls", "no"); got.code != want {
			t.Errorf("%s: exit %d\n%s", address, got.code, got.stdout)
		}
	}
}
