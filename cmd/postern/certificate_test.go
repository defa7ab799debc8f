package main

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/proxy"
	"postern/proxy/proxytest"
)

var hexes = regexp.MustCompile(`[0-9a-f]{64}`)

func TestTheSheetOfACertificateFitsIntoAnEMail(t *testing.T) {
	for _, c := range []struct {
		name  string
		leaf  func(proxytest.Leaf) proxytest.Leaf
		extra string
		code  int
	}{
		{"good", func(l proxytest.Leaf) proxytest.Leaf { return l }, "", exitFine},
		{"expired", func(l proxytest.Leaf) proxytest.Leaf { l.NotAfter = time.Now().Add(-36 * time.Hour); return l }, "", exitFinding},
		{"not-yet", func(l proxytest.Leaf) proxytest.Leaf { l.NotBefore = time.Now().Add(36 * time.Hour); return l }, "", exitFinding},
		{"one-day", func(l proxytest.Leaf) proxytest.Leaf { l.NotAfter = time.Now().Add(36 * time.Hour); return l }, "", exitFine},
		{"self-signed", func(l proxytest.Leaf) proxytest.Leaf {
			return proxytest.Leaf{CommonName: "box", SelfSigned: true, RSA: true}
		}, "", exitFine},
		{"two", func(l proxytest.Leaf) proxytest.Leaf { return l },
			"\n[[tls.certificate]]\nname = 'again'\ncert = 'DIR/edge.pem'\nkey = 'DIR/edge.key'\n", exitFine},
	} {
		synctest.Test(t, func(t *testing.T) { // the clock stands at 2000-01-01 00:00 UTC
			path, _ := certified(t, `intercept.interfaces = ["lan0"]`+edgeOnly+c.extra, c.leaf(edge))
			got := postern(t, "certificate", "--config", path)
			if got.code != c.code || got.stderr != "" {
				t.Errorf("%s: exit %d\n%s", c.name, got.code, got.stderr)
			}
			golden(t, "certificate/"+c.name+".txt", hexes.ReplaceAllString(got.stdout, "HEX"))
			for line := range strings.Lines(got.stdout) {
				if len(line) > width+1 {
					t.Errorf("%s: a line too long for an e-mail: %s", c.name, line)
				}
			}

			got = postern(t, "certificate", "--format", "json", "--config", path)
			if got.code != c.code || got.stderr != "" {
				t.Errorf("%s: exit %d\n%s", c.name, got.code, got.stderr)
			}
			golden(t, "certificate/"+c.name+".json", hexes.ReplaceAllString(got.stdout, "HEX"))
		})
	}
}

func TestNoCertificateIsAFinding(t *testing.T) {
	path := write(t, `intercept.interfaces = ["lan0"]`)
	if got := postern(t, "certificate", "--config", path); got.code != exitFinding || !strings.HasPrefix(got.stdout, "There is no [[tls.certificate]]") || got.stderr != "" {
		t.Errorf("%+v", got)
	}
	if got := postern(t, "certificate", "--format", "json", "--config", path); got.code != exitFinding || got.stdout != "[]\n" || got.stderr != "" {
		t.Errorf("%+v", got)
	}
}

func TestAFileThatCannotBeReadHasItsLine(t *testing.T) {
	path := write(t, strings.ReplaceAll(`intercept.interfaces = ["lan0"]`+edgeOnly, "DIR", "/nonexistent"))
	got := postern(t, "certificate", "--config", path)
	if got.code != exitUsage || got.stdout != "" || !strings.HasPrefix(got.stderr, path+`:4: tls.certificate "edge": cert: `) {
		t.Errorf("%+v", got)
	}
}

// What is printed for pinning is what a rule takes.
func TestTheFingerprintsAreThoseThatRulesTake(t *testing.T) {
	path, _ := certified(t, `intercept.interfaces = ["lan0"]`+edgeOnly, edge)
	got := postern(t, "certificate", "--config", path)
	pins := regexp.MustCompile(`(?m)^  ((?:spki-)?sha256:\S+)$`).FindAllStringSubmatch(got.stdout, -1)
	if len(pins) != 2 {
		t.Fatalf("%s", got.stdout)
	}
	list, err := json.Marshal([]string{pins[0][1], pins[1][1]})
	if err != nil {
		t.Fatal(err)
	}
	doc := `intercept.interfaces = ["lan0"]
[[rule]]
name = "us"
tls = "forced"
verify = "fingerprint"
fingerprints = ` + string(list)
	if got := postern(t, "check", "--config", write(t, doc)); got.code != exitFine {
		t.Errorf("%+v", got)
	}
}

func TestTheAuthorityHasASheetOfItsOwn(t *testing.T) {
	at := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	all := []sheet{sheetOf(proxy.Sheet{Authority: true, Subject: "CN=gateway authority,O=Klinikum Nord", Organisation: "Klinikum Nord",
		Issuer: "CN=root,O=Klinikum Nord", Root: "CN=root,O=Klinikum Nord", Key: "ECDSA P-256", KeyBits: 256,
		NotBefore: at.AddDate(-1, 0, 0), NotAfter: at.AddDate(1, 0, 0)}, at)}
	var text, machine strings.Builder
	if err := writeSheets(&text, all); err != nil {
		t.Fatal(err)
	}
	if err := printJSON(&machine, all); err != nil {
		t.Fatal(err)
	}
	golden(t, "certificate/authority.txt", hexes.ReplaceAllString(text.String(), "HEX"))
	golden(t, "certificate/authority.json", hexes.ReplaceAllString(machine.String(), "HEX"))
}
