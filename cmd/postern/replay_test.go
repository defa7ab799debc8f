package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/cmd/internal/config"
	"postern/cmd/internal/recorded"
	"postern/cmd/internal/replay"
	"postern/enforce"
)

// policies that sessions are recorded under, and replayed under.
var policies = map[string]string{
	"built in":        "",
	"forced":          "[[rule]]\nname = 'r'\ntls = 'forced'\n",
	"a chain":         "[[rule]]\nname = 'r'\ntls = 'forced'\nverify = 'ca'\non_violation = 'reject'\n",
	"a name":          "[[rule]]\nname = 'r'\nto_domains = ['partner.example']\ntls = 'forced'\nverify = 'name'\nnames = ['mx.partner.example']\n",
	"another name":    "[[rule]]\nname = 'n'\ntls = 'forced'\nverify = 'name'\nnames = ['mail.partner.example']\n",
	"off":             "[[rule]]\nname = 'o'\ntls = 'off'\n",
	"cleartext":       "[[rule]]\nname = 'c'\non_handshake_failure = 'cleartext'\n",
	"only logged":     "[[rule]]\nname = 'r'\ntls = 'forced'\nverify = 'ca'\non_violation = 'log'\n",
	"forward secrecy": "[[rule]]\nname = 's'\nto_domains = ['partner.example']\nforward_secrecy = true\nmin_version = '1.3'\n",
	"TLS 1.3":         "[[rule]]\nname = 'v'\nmin_version = '1.3'\n",
	"a floor of 1.3":  "tls.min_version = '1.3'\n",
	"client TLS":      "[[rule]]\nname = 't'\nfrom_networks = ['127.0.0.0/8']\nclient_tls = 'required'\n",
	"a sender":        "[[rule]]\nname = 'f'\nfrom_domains = ['hospital.example']\nclient_tls = 'required'\n",
	"watched":         "[[rule]]\nname = 'w'\ninspect = 'watch'\nowner = 'it'\nexpires = 2099-01-01\n",
	"MX hosts":        "[[rule]]\nname = 'm'\nto_mx_of = ['partner.example']\ntls = 'forced'\nverify = 'ca'\n",
}

// policyOf compiles a policy of the table as recordings have it.
func policyOf(t *testing.T, doc string) *config.File {
	t.Helper()
	head, rules, _ := strings.Cut(doc, "[[rule]]")
	if rules != "" {
		rules = "[[rule]]" + rules
	}
	file, err := config.Parse("new.toml", []byte(`intercept.method = "none"
listen.upstream = "mail.example:25"
verify.auto = []
memory.downgrade = "off"
`+head+"[[tls.certificate]]\nname = \"edge\"\ncert = \"/edge.pem\"\nkey = \"/edge.key\"\n"+rules))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// judged replays a log under a policy and gives the units of each session, by the
// client that made it.
func judged(t *testing.T, log string, judge *replay.Judge) map[string][]replay.Unit {
	t.Helper()
	sessions := map[string][]replay.Unit{}
	for r := recorded.NewReader(strings.NewReader(log)); ; {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return sessions
		}
		if err != nil {
			t.Fatal(err)
		}
		kind := "clear"
		if rec.ClientTLS.State != "none" {
			kind = "TLS"
		}
		sessions[kind] = judge.Session(rec)
	}
}

// What replay says of a policy is what the program does under it: real sessions are
// recorded under each policy, with each kind of server, and replayed under every
// other. Where it cannot tell it has to say so.
func TestAReplayComesToWhatRealSessionsComeTo(t *testing.T) {
	told, untold := 0, 0
	judges := map[string]*replay.Judge{}
	for name, doc := range policies {
		judges[name] = replay.NewJudge(policyOf(t, doc).Policy, true, time.Now())
	}
	for _, temper := range []string{"modern", "tls12", "tls10", "tls10-alert", "no-starttls", "expired", "self-signed", "starttls-refused", "helo-only"} {
		logs := map[string]string{}
		for name, doc := range policies {
			logs[name] = read(t, record(t, temper, doc, sends("a@hospital.example", "b@partner.example", "c@other.example"),
				sendsInTLSWhereOffered("a@hospital.example", "b@partner.example")))
		}
		for was := range policies {
			for is, judge := range judges {
				if was == "a floor of 1.3" && is != was {
					continue // a lower one, which the help says is not looked at
				}
				replayed, real := judged(t, logs[was], judge), judged(t, logs[is], judge)
				for kind, units := range replayed {
					if _, ok := real[kind]; !ok {
						continue // whoever was not offered TLS came in clear, the last of them
					}
					n, u := agreed(t, fmt.Sprintf("%s, recorded under %q, replayed under %q, client in %s", temper, was, is, kind), units, real[kind])
					told, untold = told+n, untold+u
				}
			}
		}
	}
	if told < 2000 || untold == 0 || untold > told/3 {
		t.Errorf("%d told and %d not", told, untold)
	}
}

// agreed holds what was foretold of a session against what became of one.
func agreed(t *testing.T, what string, foretold, real []replay.Unit) (told, untold int) {
	t.Helper()
	var connection replay.Outcome
	became := map[string]replay.Outcome{}
	for _, u := range real {
		if !u.Recipient {
			connection = u.Was
		}
		became[fmt.Sprint(u.Recipient, u.Destination)] = u.Was
	}
	for _, u := range foretold {
		if u.Is.Unknown != "" {
			untold++
			continue
		}
		want, ok := became[fmt.Sprint(u.Recipient, u.Destination)]
		switch {
		case !ok && connection.Refused:
			want = connection
		case !ok: // the sender was refused before the recipients, or TLS was not offered
			continue
		}
		told++
		several := u.Is.Refused && want.Refused && u.Is.Reason == ""
		if u.Is != want && !several && !(u.Is.Refused && want.Refused && ofHandshake(u.Is.Reason) && ofHandshake(want.Reason)) {
			t.Errorf("%s: %s (recipient %v) was foretold %+v and became %+v", what, u.Destination, u.Recipient, u.Is, want)
		}
	}
	return told, untold
}

// ofHandshake: how a server refuses what it is offered depends on the offer.
func ofHandshake(reason enforce.Reason) bool {
	return reason == enforce.TLSVersionTooLow || reason == enforce.TLSHandshakeFailed
}

// Under the policy that they were recorded under, all sessions are the same.
func TestAReplayUnderTheSamePolicyChangesNothing(t *testing.T) {
	for _, temper := range []string{"modern", "tls10", "no-starttls", "self-signed"} {
		for name, doc := range policies {
			if name == "MX hosts" { // no record says of whom a server is an MX host
				continue
			}
			log := read(t, record(t, temper, doc, sends("a@hospital.example", "b@partner.example", "c@other.example")))
			for _, u := range slices.Concat(slices.Collect(maps.Values(judged(t, log, replay.NewJudge(policyOf(t, doc).Policy, true, time.Now()))))...) {
				if change, why := u.Changed(); change != replay.Same {
					t.Errorf("%s under %q: %s, %s: %+v", temper, name, change, why, u)
				}
			}
		}
	}
}

func TestReplayPrintsWhatWouldChange(t *testing.T) {
	log := record(t, "self-signed", "", sends("a@hospital.example", "b@partner.example", "c@other.example"), sends("a@hospital.example", "b@partner.example"))
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("{\nno record\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "new.toml")
	doc := func(rule string) string {
		return "intercept.interfaces = ['lan0']\nverify.auto = []\n" + rule
	}
	for _, c := range []struct {
		name, rule string
		code       int
	}{
		{"nothing", "", exitFine},
		{"refused", policies["a chain"], exitFinding},
		{"recipients", policies["a name"], exitFinding},
		{"untold", "[[rule]]\nname = 'k'\ntls = 'forced'\nverify = 'ca'\nca = '/other.pem'\n", exitFine},
	} {
		if err := os.WriteFile(path, []byte(doc(c.rule)), 0o600); err != nil {
			t.Fatal(err)
		}
		got := postern(t, "replay", "--config", path, log, bad)
		if got.code != c.code || got.stderr != bad+":1: no JSON object found, expected one log line in JSON\n"+bad+":2: no JSON object found, expected one log line in JSON\n" {
			t.Errorf("%s: %+v", c.name, got)
		}
		golden(t, "replay/"+c.name, strings.ReplaceAll(got.stdout, path, "new.toml"))
		got = postern(t, "replay", "--config", path, "--format", "json", log)
		var r replayResult
		if err := json.Unmarshal([]byte(got.stdout), &r); err != nil || got.code != c.code || r.Records != 2 || (c.name == "nothing") != (len(r.Changes) == 0) {
			t.Errorf("%s: %v %+v", c.name, err, r)
		}
	}
}

func TestWhatCannotBeReplayedExits2(t *testing.T) {
	path := write(t, "intercept.interfaces = ['lan0']")
	empty := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, says string }{
		{"", "requires at least 1 arg"},
		{"/nonexistent/log", "no such file"},
		{empty, "no record found in " + empty},
		{empty + " --format yaml", `--format "yaml" found`},
		{empty + " --config /nonexistent.toml", "no such file"},
	} {
		got := postern(t, append([]string{"replay", "--config", path}, strings.Fields(c.args)...)...)
		if got.code != exitUsage || got.stdout != "" || !strings.Contains(got.stderr, c.says) {
			t.Errorf("replay %s: %+v", c.args, got)
		}
	}
}
