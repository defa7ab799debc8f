package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"postern/cmd/internal/config"
	"postern/cmd/internal/recorded"
	"postern/enforce"
)

// What a reason means is said for every one that there is, and a piece of
// configuration that is proposed is sound.
func TestEveryReasonHasAnAdviceThatHolds(t *testing.T) {
	r := &recorded.Record{Client: recorded.Peer{Address: "10.1.0.2"}, Upstream: recorded.Peer{Address: "2001:db8::25"}, UpstreamTLS: recorded.Leg{
		Version: "TLS 1.2", Certificate: &recorded.Certificate{Names: []string{"mx.partner.example", "*.partner.example", "bad name", "and 3 more"}, SPKISHA256: strings.Repeat("ab", 32)}}}
	for _, r := range []*recorded.Record{r, new(recorded.Record)} {
		for _, reason := range enforce.Reasons() {
			a := adviceFor(reason, r)
			if a.means == "" || a.there == "" || a.here == "" {
				t.Errorf("%s: %+v", reason, a)
			}
			if a.mend == nil {
				continue
			}
			for _, piece := range strings.Split(a.mend(r, dates{time.Now()}), "# or\n") {
				doc := piece
				if !strings.Contains(piece, "[intercept]") {
					doc = "intercept.interfaces = [\"lan0\"]\n" + piece
				} else {
					doc += "\ninterfaces = [\"lan0\"]"
				}
				if _, err := config.Parse("mend.toml", []byte(doc)); err != nil {
					t.Errorf("%s: %v in\n%s", reason, err, doc)
				}
			}
		}
	}
	if a := adviceFor("made-up", r); a.means != "" {
		t.Errorf("%+v", a)
	}
}

// Nothing of a record that was tampered with comes into a piece of configuration.
func TestAMendTakesNothingFromARecordButWhatItIsItself(t *testing.T) {
	evil := "x\"]\ntls = \"off\"\n#"
	r := &recorded.Record{Client: recorded.Peer{Address: evil}, Upstream: recorded.Peer{Address: evil}, UpstreamTLS: recorded.Leg{Version: evil,
		Certificate: &recorded.Certificate{Names: []string{evil}, SPKISHA256: evil}}}
	for _, reason := range enforce.Reasons() {
		if a := adviceFor(reason, r); a.mend != nil && strings.Contains(a.mend(r, dates{time.Now()}), "off") {
			t.Errorf("%s: %s", reason, a.mend(r, dates{time.Now()}))
		}
	}
}

// changing is what differs from one run to the next.
var changing = regexp.MustCompile(`2\d{3}-\d\d-\d\d(T[0-9:.]+Z)?|127\.0\.0\.1:\d+|^session +\w+|[0-9a-f]{64}`)

func steady(text string) string {
	var out []string
	for _, line := range strings.Split(text, "\n") {
		out = append(out, changing.ReplaceAllStringFunc(line, func(s string) string {
			switch {
			case strings.HasPrefix(s, "session"):
				return "session       7KQ2M4XA"
			case strings.HasPrefix(s, "127"):
				return "127.0.0.1:25"
			case strings.HasPrefix(s, "2"):
				return "DAY"
			}
			return "HEX"
		}))
	}
	return strings.Join(out, "\n")
}

func TestARecordOfARealSessionIsExplained(t *testing.T) {
	const partner = `[[rule]]
name = "partner"
to_domains = ["partner.example"]
tls = "forced"
verify = "name"
names = ["mail.partner.example"]
`
	for _, c := range []struct {
		name, temper, doc string
		client            func(*recording)
		code              int
	}{
		{"allowed", "modern", "", sends("a@hospital.example", "b@partner.example"), exitFine},
		{"too-low", "tls10", "", sends("a@hospital.example", "b@partner.example"), exitFinding},
		{"no-starttls", "no-starttls", "[[rule]]\nname = 'all'\ntls = 'forced'\n", sends("a@hospital.example", "b@partner.example"), exitFinding},
		{"name", "modern", partner, sends("a@hospital.example", "b@partner.example", "c@other.example"), exitFinding},
		{"only-logged", "self-signed", "[[rule]]\nname = 'all'\ntls = 'forced'\nverify = 'ca'\non_violation = 'log'\n", sends("a@hospital.example", "b@partner.example"), exitFine},
		{"refused-certificate", "modern", "", sendsInTLS(false, ""), exitFinding},
		{"tls-1.3", "tls12", "[[rule]]\nname = 'new'\nmin_version = '1.3'\n", sends("a@hospital.example", "b@partner.example"), exitFinding},
	} {
		log := record(t, c.temper, c.doc, c.client)
		got := postern(t, "explain", "--record", log)
		if got.code != c.code || got.stderr != "" {
			t.Errorf("%s: exit %d\n%s%s", c.name, got.code, got.stderr, read(t, log))
		}
		golden(t, "explain/record-"+c.name, "$ postern explain --record FILE\n"+steady(got.stdout))

		var e recordExplanation
		got = postern(t, "explain", "--record", log, "--format", "json")
		if err := json.Unmarshal([]byte(got.stdout), &e); err != nil || got.code != c.code || (e.Reason != "") != (len(e.Findings) > 0) || e.Session == "" {
			t.Errorf("%s: %v, %+v", c.name, err, e)
		}
	}
}

func TestTheRecordOfASessionIsFoundById(t *testing.T) {
	log := record(t, "modern", "", sends("a@hospital.example", "b@one.example"), sends("a@hospital.example", "b@two.example"))
	// The record of the first may be written after that of the second.
	ids := map[string]string{} // by recipient
	var order []string
	for _, m := range regexp.MustCompile(`"session":"(\w+)".*"(\w+)\.example"\]`).FindAllStringSubmatch(read(t, log), -1) {
		ids[m[2]] = m[1]
		order = append(order, m[1])
	}
	if len(ids) != 2 {
		t.Fatalf("%q", ids)
	}
	got := postern(t, "explain", "--record", log, "--session", ids["two"])
	if got.code != exitFine || !strings.Contains(got.stdout, "two.example") || strings.Contains(got.stdout, "one.example") {
		t.Errorf("%+v", got)
	}
	got = postern(t, "explain", "--record", log)
	if want := "2 records found in " + log + ", expected --session and the id of one: " + strings.Join(order, ", "); got.code != exitUsage || !strings.Contains(got.stderr, want) {
		t.Errorf("%+v", got)
	}
	got = postern(t, "explain", "--record", log, "--session", "OTHER")
	if got.code != exitUsage || !strings.Contains(got.stderr, `--session "OTHER" found, expected one of those in `+log) {
		t.Errorf("%+v", got)
	}
	// Without a file it is the one that the configuration logs to.
	path := write(t, "intercept.interfaces = ['lan0']\nlog.output = '"+log+"'")
	if got := postern(t, "explain", "--config", path, "--session", ids["one"]); got.code != exitFine || !strings.Contains(got.stdout, "one.example") {
		t.Errorf("%+v", got)
	}
	path = write(t, "intercept.interfaces = ['lan0']")
	if got := postern(t, "explain", "--config", path, "--session", ids["one"]); got.code != exitUsage || !strings.Contains(got.stderr, "journalctl") {
		t.Errorf("%+v", got)
	}
}

func TestARecordFromStandardInputAndLinesThatAreBad(t *testing.T) {
	log := read(t, record(t, "modern", "", sends("a@hospital.example", "b@one.example")))
	root := newRoot()
	var stdout, stderr bytes.Buffer
	root.SetArgs([]string{"explain", "--record", "-"})
	root.SetIn(strings.NewReader(strings.Repeat("no\n", 12) + log))
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	err := root.Execute()
	if err != nil || !strings.Contains(stdout.String(), "one.example") || !strings.HasPrefix(stderr.String(), "-:1: no JSON object found") ||
		!strings.Contains(stderr.String(), "-: and 2 more lines that cannot be read") {
		t.Errorf("%v\n%s%s", err, stdout.String(), stderr.String())
	}
}

// What a terminal would act upon does not come to one.
func TestAHostileRecordIsShownHarmless(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	line, err := json.Marshal(map[string]any{"msg": "session", "session": "A\x1b[2J", "verdict": "defer", "reason": "made\x1bup", "end": "\x07",
		"client": map[string]any{"address": "\x1b]0;x", "helo": "\x1b"}, "upstream_tls": map[string]any{"state": "ok", "version": "\x1b", "verify_error": "\x1b"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, line, 0o600); err != nil {
		t.Fatal(err)
	}
	got := postern(t, "explain", "--record", path)
	if got.code != exitFinding || strings.ContainsAny(got.stdout+got.stderr, "\x1b\x07") || !strings.Contains(got.stdout, "does not know the reason") {
		t.Errorf("%+v", got)
	}
}

func TestWhatARecordCannotBeExplainedWithExits2(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(empty, []byte(`{"msg":"serving"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, says string }{
		{"--record x --to a.example", "--to has no effect beside --record and --session"},
		{"--session x --tls 1.2", "--tls has no effect"},
		{"--record /nonexistent/log", "no such file"},
		{"--record " + empty, fmt.Sprintf("no record found in %s, expected one", empty)},
	} {
		got := postern(t, append([]string{"explain", "--config", policyFile}, strings.Fields(c.args)...)...)
		if got.code != exitUsage || got.stdout != "" || !strings.Contains(got.stderr, c.says) {
			t.Errorf("explain %s: %+v", c.args, got)
		}
	}
}
