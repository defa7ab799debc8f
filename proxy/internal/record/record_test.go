package record

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"postern/enforce"
)

func full() *Record {
	day := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	return &Record{
		Session: "7KQ2M4XA", Start: day, Mode: "enforce", Generation: 3,
		Client:    Peer{Address: netip.MustParseAddrPort("10.1.0.2:40000"), Helo: "printer"},
		Upstream:  Peer{Address: netip.MustParseAddrPort("[2001:db8::25]:25"), Banner: "mx.example.net ESMTP"},
		Interface: "lan0", Rule: "contoso", Verdict: enforce.Defer, Reason: enforce.CertNameMismatch, Detail: "the certificate is for x",
		Stage: enforce.AtRcpt, TLS: "secure!cert",
		Failures:  []enforce.Failure{{Reason: enforce.CertNameMismatch, Rule: "contoso"}, {Reason: enforce.TLSNoForwardSecrecy, Rule: "c", Logged: true}},
		ClientTLS: Leg{State: enforce.StateNone},
		UpstreamTLS: Leg{State: enforce.StateOK, Version: tls.VersionTLS12, Cipher: tls.TLS_RSA_WITH_AES_128_CBC_SHA, Group: uint16(tls.X25519MLKEM768), SNI: "mx.example.net",
			Verified: true, Certificate: &Certificate{Subject: "CN=x", Issuer: "CN=y", Names: []string{"x"}, NotBefore: day, NotAfter: day, Key: "RSA 2048"}},
		Transactions: []*Transaction{{MailDomain: "a.example", RcptDomains: []string{"b.example"}, Accepted: 2, Bytes: 10, Reply: "250 ok",
			Refused: []Refused{{Domain: "c.example", Rule: "contoso", Reason: enforce.CertNameMismatch}, {Domain: "d.example", Reply: "550 5.1.1"}}}},
		In: 1, Out: 2, Duration: 1500 * time.Microsecond, End: "quit",
	}
}

func emitted(t *testing.T, r *Record) map[string]any {
	t.Helper()
	var b bytes.Buffer
	r.Emit(zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(encoding), zapcore.AddSync(&b), zapcore.InfoLevel)))
	var got map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatalf("%v: %s", err, b.String())
	}
	return got
}

func TestTheKeysOfTheRecordAreThePromisedOnes(t *testing.T) {
	got := emitted(t, full())
	if _, err := time.Parse(time.RFC3339Nano, got["time"].(string)); err != nil {
		t.Error(err)
	}
	delete(got, "time")
	zeros := strings.Repeat("0", 64)
	var want map[string]any
	if err := json.Unmarshal([]byte(`{"level":"info","msg":"session","session":"7KQ2M4XA","mode":"enforce","generation":3,
		"client":{"address":"10.1.0.2","port":40000,"helo":"printer"},
		"upstream":{"address":"2001:db8::25","port":25,"banner":"mx.example.net ESMTP"},
		"interface":"lan0","rule":"contoso","verdict":"defer","reason":"cert-name-mismatch","detail":"the certificate is for x","stage":"rcpt","tls":"secure!cert",
		"failures":[{"reason":"cert-name-mismatch","rule":"contoso"},{"reason":"tls-no-forward-secrecy","rule":"c","logged":true}],
		"client_tls":{"state":"none"},
		"upstream_tls":{"state":"ok","version":"TLS 1.2","cipher":"TLS_RSA_WITH_AES_128_CBC_SHA","group":"X25519MLKEM768","sni":"mx.example.net","resumed":false,"forward_secrecy":false,
			"certificate":{"subject":"CN=x","issuer":"CN=y","names":["x"],"sha256":"`+zeros+`","spki_sha256":"`+zeros+`","not_before":"2026-11-24T00:00:00Z","not_after":"2026-11-24T00:00:00Z","key":"RSA 2048"},"verified":true},
		"transactions":[{"mail_domain":"a.example","rcpt_domains":["b.example"],"accepted":2,"refused":[{"domain":"c.example","rule":"contoso","reason":"cert-name-mismatch"},{"domain":"d.example","reply":"550 5.1.1"}],"bytes":10,"reply":"250 ok"}],
		"bytes":{"in":1,"out":2},"duration_ms":1.5,"end":"quit"}`), &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		a, _ := json.MarshalIndent(got, "", " ")
		b, _ := json.MarshalIndent(want, "", " ")
		t.Errorf("got %s\nwant %s", a, b)
	}
}

func TestTheZeroRecordIsStillARecord(t *testing.T) {
	got := emitted(t, new(Record))
	if got["verdict"] != "defer" || got["msg"] != "session" {
		t.Errorf("%v", got)
	}
}

func TestTheJournalHasEachFieldAsOneOfItsOwn(t *testing.T) {
	var message string
	var vars map[string]string
	core := newJournalCore(zapcore.InfoLevel, func(m string, p journal.Priority, v map[string]string) error {
		if p != journal.PriInfo {
			t.Errorf("priority %d", p)
		}
		message, vars = m, v
		return nil
	})
	full().Emit(zap.New(core))
	core.Sync()
	for key, want := range map[string]string{
		"POSTERN_REASON": "cert-name-mismatch", "POSTERN_SESSION": "7KQ2M4XA", "POSTERN_UPSTREAM_TLS_VERSION": "TLS 1.2",
		"POSTERN_CLIENT_ADDRESS": "10.1.0.2", "POSTERN_TRANSACTIONS_0_RCPT_DOMAINS": "b.example", "POSTERN_GENERATION": "3",
	} {
		if vars[key] != want {
			t.Errorf("%s is %q, want %q", key, vars[key], want)
		}
	}
	for key := range vars {
		if strings.Trim(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789") != "" || len(key) > 64 {
			t.Errorf("%q is no name of a journal field", key)
		}
	}
	if !strings.Contains(message, "7KQ2M4XA") || strings.Contains(message, "\n") {
		t.Errorf("%q", message)
	}
}

func TestWhatAPeerSaidCanNeitherEndALineNorSpeakToATerminal(t *testing.T) {
	for said, want := range map[string]string{
		"mx.example.net ESMTP": "mx.example.net ESMTP",
		"a\r\nfake line":       `a\r\nfake line`,
		"\x1b[2Jgone":          `\x1b[2Jgone`,
		"bad \xff utf8":        `bad \xff utf8`,
		"b\u00fccher \u202e":   `b` + "\u00fc" + `cher \u202e`,
		`with "quotes"`:        `with "quotes"`,
	} {
		if got := Quote(said, 100); got != want {
			t.Errorf("%q: %q, want %q", said, got, want)
		}
	}
	if got := Quote(strings.Repeat("\u00fc", 100), 11); got != strings.Repeat("\u00fc", 5)+"\u2026" {
		t.Errorf("%q", got)
	}
}

func TestOfAnAddressOnlyTheDomainIsKept(t *testing.T) {
	for said, want := range map[string]string{
		"550 <jane.doe@x.example>: unknown":  "550 <\u2026@x.example>: unknown",
		"550 jane@x.example unknown":         "550 \u2026@x.example unknown",
		`550 <"jane doe"@x.example> unknown`: "550 <\u2026@x.example> unknown",
		`550 "a b c"@x.example`:              "550 \u2026@x.example",
		"to=<a@x.example>,<b@y.example>":     "to=<\u2026@x.example>,<\u2026@y.example>",
		"250 ok":                             "250 ok",
		"@x.example":                         "\u2026@x.example",
		"a@b@x.example":                      "\u2026@x.example",
	} {
		if got := Redact(said, 200); got != want {
			t.Errorf("%q: %q, want %q", said, got, want)
		}
	}
}

func FuzzQuote(f *testing.F) {
	f.Add("a\r\n\x1b@x.example", 5)
	f.Fuzz(func(t *testing.T, said string, limit int) {
		if limit < 0 || limit > 1000 || len(said) > 10000 {
			return
		}
		for _, got := range []string{Quote(said, limit), Redact(said, limit)} {
			if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) && r != ' ' }) {
				t.Fatalf("%q became %q", said, got)
			}
			if len(got) > 10*limit+3 {
				t.Fatalf("%d octets became %d", min(limit, len(said)), len(got))
			}
		}
	})
}

func TestALogFileIsOpenedAnew(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	l, err := NewLog("json", name, "info")
	if err != nil {
		t.Fatal(err)
	}
	l.Info("one")
	if err := os.Rename(name, name+".1"); err != nil {
		t.Fatal(err)
	}
	l.Info("two")
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	l.Info("three")
	l.Sync()
	for file, want := range map[string]int{name + ".1": 2, name: 1} {
		text, err := os.ReadFile(file)
		if n := strings.Count(string(text), "\n"); err != nil || n != want {
			t.Errorf("%s: %d lines, %v", file, n, err)
		}
	}
}

func TestTheConsoleShowsASessionInALineForPeople(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	l, err := NewLog("console", name, "info")
	if err != nil {
		t.Fatal(err)
	}
	full().Emit(l.Logger)
	l.Warn("other", zap.String("why", "because"))
	l.Sync()
	text, _ := os.ReadFile(name)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "session 7KQ2M4XA 10.1.0.2:40000 -> [2001:db8::25]:25 helo printer: defer (cert-name-mismatch") || strings.Contains(lines[0], "{") {
		t.Errorf("%s", text)
	}
}

func TestALogThatCannotBeIsSaid(t *testing.T) {
	for _, tc := range [][3]string{{"xml", "stderr", "info"}, {"json", "/nonexistent/log", "info"}, {"json", "stderr", "loud"}} {
		if _, err := NewLog(tc[0], tc[1], tc[2]); err == nil {
			t.Errorf("%q is taken", tc)
		}
	}
}
