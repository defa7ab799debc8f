package main

import (
	"os"
	"strings"
	"testing"
)

func TestExplainSaysWhatBecomesOfTLSThatIsWatched(t *testing.T) {
	doc, err := os.ReadFile(policyFile)
	if err != nil {
		t.Fatal(err)
	}
	path := write(t, string(doc)+`
[[rule]]
name = "exchange"
to_networks = ["198.51.100.25"]
inspect = "watch"
min_version = "1.3"
owner = "it-sec"
expires = 2099-12-31
`)
	for _, tc := range []struct {
		name, args string
		code       int
		says       string
	}{
		{"passes through", "--tls 1.3 --client-tls 1.3 --from hospital.example --to secret.example", exitFine, "passes through; nothing inside it is seen"},
		{"falls short", "--tls 1.3 --client-tls 1.2", exitFinding, "TLS 1.2 is below TLS 1.3"},
		{"is cut", "--tls 1.2 --client-tls 1.3", exitFinding, "no reply: both connections are cut"},
		{"fails", "--tls failed --client-tls 1.3", exitFinding, "tls-handshake-failed"},
		{"is not asked for", "--tls 1.3 --from a.example", exitFine, "secured in its place"},
		{"is not there", "--starttls no --client-tls 1.3", exitFine, "the mail leaves in clear"},
	} {
		got := postern(t, append([]string{"explain", "--config", path, "--upstream", "198.51.100.25"}, strings.Fields(tc.args)...)...)
		if words := strings.Join(strings.Fields(got.stdout), " "); got.code != tc.code || !strings.Contains(words, tc.says) {
			t.Errorf("%s: exit %d, want %d and %q\n%s%s", tc.name, got.code, tc.code, tc.says, got.stdout, got.stderr)
		}
	}
}
