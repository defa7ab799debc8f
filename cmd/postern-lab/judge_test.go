package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"net"
	"net/netip"
	"strings"
	"testing"

	"postern/proxy/proxytest"
)

// judged is a conversation that went as wanted, with a change, and judged.
func judged(change func(*result)) []string {
	address := netip.MustParseAddr("10.1.0.21")
	there := site{name: "mx.partner.example", address: at("203.0.113.10")}
	content := []byte("hello\r\n")
	r := &result{
		conversation: conversation{from: sender{address: address}, to: there.name,
			want: outcome{delivered: true, verdict: "allow", rule: "default", client: "none", upstream: "TLS 1.3", verified: true}},
		token: "token-0", content: content,
		report: proxytest.Report{
			Outcomes:   []proxytest.Outcome{{End: proxytest.Reply{Code: 250}}},
			Transcript: []proxytest.Line{{From: 'S', Text: "250 ok"}},
		},
	}
	r.record = record{
		Mode: "enforce", Verdict: "allow", Rule: "default", Interface: "lan0", raw: "{}",
		Upstream:    peer{Address: there.address, Port: smtpPort},
		ClientTLS:   leg{State: "none"},
		UpstreamTLS: leg{State: "ok", Version: "TLS 1.3", Cipher: "TLS_AES_128_GCM_SHA256", Verified: true},
	}
	r.arrivals = []arrival{{site: there.name,
		session: proxytest.Session{Remote: &net.TCPAddr{IP: address.AsSlice(), Port: 40000},
			TLS: &tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256}},
		message: proxytest.Message{TLS: true, SHA256: sha256.Sum256(content)}}}
	change(r)
	r.judge(&lab{sites: map[string]site{there.name: there}})
	return r.faults
}

func TestWhateverGoesOtherwiseThanWantedIsAFault(t *testing.T) {
	if faults := judged(func(*result) {}); len(faults) > 0 {
		t.Fatalf("what went as wanted has faults: %q", faults)
	}
	for _, row := range []struct {
		change func(*result)
		fault  string
	}{
		{func(r *result) { r.record.Verdict = "defer" }, "verdict"},
		{func(r *result) { r.record.Reason = "overload" }, "reason"},
		{func(r *result) { r.record.Rule = "bank" }, "rule"},
		{func(r *result) { r.record.Mode = "observe" }, "mode"},
		{func(r *result) { r.record.Interface = "wan0" }, "interface"},
		{func(r *result) { r.record.Upstream.Port = 2525 }, "upstream"},
		{func(r *result) { r.record.UpstreamTLS.Version = "TLS 1.2" }, "upstream leg"},
		{func(r *result) { r.record.UpstreamTLS.Verified = false }, "verified"},
		{func(r *result) { r.record.UpstreamTLS.Cipher = "TLS_AES_256_GCM_SHA384" }, "upstream leg as the peer saw it"},
		{func(r *result) { r.arrivals[0].session.TLS = nil }, "upstream leg as the peer saw it"},
		{func(r *result) { r.report.TLS = r.arrivals[0].session.TLS }, "client leg as the peer saw it"},
		{func(r *result) { r.record.raw = `{"mail":"token-0"}` }, "local part"},
		{func(r *result) { r.content = []byte("hello \r\n") }, "SHA-256"},
		{func(r *result) { r.arrivals = nil }, "arrived 0 times"},
		{func(r *result) { r.arrivals = append(r.arrivals, r.arrivals[0]) }, "arrived 2 times"},
		{func(r *result) { r.arrivals[0].site = "mx.old.example" }, "reached"},
		{func(r *result) { r.arrivals[0].session.Violations = []string{"a bare LF"} }, "a bare LF"},
		{func(r *result) { r.arrivals[0].session.Remote = &net.TCPAddr{IP: net.IPv4(203, 0, 113, 1)} }, "saw the client as"},
		{func(r *result) { r.want.delivered = false }, "the message reached"},
		{func(r *result) { r.report.Outcomes[0].End.Code = 451 }, "told that the message is accepted: false"},
		{func(r *result) { r.report.Transcript[0].Text = "451 4.7.5 no" }, `saw "451 4.7.5 no"`},
		{func(r *result) { r.want.refusals = []string{"421 4.7.5"} }, `saw no reply "421 4.7.5"`},
		{func(r *result) { r.report.Err = net.ErrClosed }, "session ended with"},
		{func(r *result) { r.want.cut = true }, "session ended with"},
	} {
		faults := judged(row.change)
		if !strings.Contains(strings.Join(faults, "\n"), row.fault) {
			t.Errorf("no fault %q in %q", row.fault, faults)
		}
	}
}

func TestAMessageInClearIsHeldAgainstTheRecord(t *testing.T) {
	for _, row := range []struct {
		name             string
		side, state, end string
		seen, delivered  bool
		fault            bool
	}{
		{"in TLS, not seen", "outside", "ok", "quit", false, true, false},
		{"in TLS by the record, seen", "outside", "ok", "quit", true, true, true},
		{"in TLS by the record, seen inside", "inside", "ok", "quit", true, true, true},
		{"in clear, seen", "outside", "none", "quit", true, true, false},
		{"in clear, not seen: the search sees nothing", "outside", "none", "quit", false, true, true},
		{"refused, not seen", "outside", "failed", "refused", false, false, false},
		{"refused, seen outside", "outside", "none", "refused", true, false, true},
		{"refused, seen inside in clear", "inside", "none", "refused", true, false, false},
		{"passed through, in the ends' own TLS", "outside", "failed", "passed through", false, true, false},
		{"passed through, in clear", "inside", "none", "passed through", true, true, false},
	} {
		r := &result{conversation: conversation{want: outcome{delivered: row.delivered}}, record: record{End: row.end}}
		r.judgeClear(row.side, row.seen, row.state)
		if (len(r.faults) > 0) != row.fault {
			t.Errorf("%s: %q", row.name, r.faults)
		}
	}
}

func TestNotificationsAreUnderstoodByWholeAssignments(t *testing.T) {
	for text, want := range map[string]notification{
		"READY=1\nSTATUS=serving":                 {ready: true, status: "serving"},
		"RELOADING=1\nMONOTONIC_USEC=5\nSTATUS=x": {reloading: true, status: "x"},
		"STOPPING=1":        {stopping: true},
		"STATUS=READY=1":    {status: "READY=1"},
		"XREADY=1\nREADY=0": {},
		"":                  {},
	} {
		if got := parseNotification(text); got != want {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

func TestOnlyLinesOfSessionsAreRecords(t *testing.T) {
	for line, want := range map[string]bool{
		`{"msg":"session","session":"A","client":{"address":"10.1.0.2","port":4}}`: true,
		`{"msg":"started"}`: false,
		`{"msg":"session","client":{"address":"nowhere"}}`: false,
		`session`: false,
	} {
		if _, ok := parseRecord(line); ok != want {
			t.Errorf("%s: %v", line, ok)
		}
	}
}

func TestLongValuesAreWrappedBehindTheirLabel(t *testing.T) {
	var out bytes.Buffer
	newPage(&out).field("said", strings.Repeat("nineteen-characters ", 6)+strings.Repeat("x", 200))
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "    said     nineteen") || !strings.HasPrefix(lines[1], "             nineteen") {
		t.Errorf("%q", lines)
	}
	for _, line := range lines[:2] {
		if len(line) > width || strings.HasSuffix(line, " ") {
			t.Errorf("%q", line)
		}
	}
}
