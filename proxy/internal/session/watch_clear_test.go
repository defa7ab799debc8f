package session

import (
	"crypto/tls"
	"testing"

	"postern/enforce"
)

// upgraded has the server go into TLS with Postern itself.
func (b *bench) upgraded(up *peer, capabilities ...string) {
	b.t.Helper()
	up.hears("STARTTLS")
	up.say("220 go\n")
	if err := up.acceptTLS(nil); err != nil {
		b.t.Fatal(err)
	}
	up.hears("EHLO client.example")
	up.say(ehloReply(append([]string{"mx.example.net hello"}, capabilities...)))
}

func TestAClientThatSaysMAILInClearIsUpgradedAfterAll(t *testing.T) {
	b := newBench(t, options{rules: watchingRule(), edit: func(s *Snapshot) { s.Certificate = nil }})
	up := b.inClear("SIZE 1000", "AUTH PLAIN", "PIPELINING")
	b.client.say("NOOP\nMAIL FROM:<a@x.example> SIZE=10\nRCPT TO:<b@x.example>\nDATA\n")
	up.hears("NOOP")
	up.say("250 noop\n")
	b.upgraded(up, "SIZE 1000", "PIPELINING")
	up.hears("MAIL FROM:<a@x.example> SIZE=10", "RCPT TO:<b@x.example>", "DATA")
	up.say("250 ok\n250 ok\n354 go\n")
	b.client.hears("250 noop", "250 ok", "250 ok", "354 go")
	b.client.say("x\n.\nSTARTTLS\n")
	up.octets("x\r\n.\r\n")
	up.say("250 queued\n")
	b.client.hears("250 queued", "502 5.5.1 not offered here")
	b.client.say("EHLO client.example\nQUIT\n")
	up.hears("QUIT")
	up.say("221 bye\n")
	b.client.hears("250-mx.example.net hello", "250-SIZE 1000", "250 PIPELINING", "221 bye")
	wantFields(t, b.record(), map[string]string{"verdict": "allow", "client_tls.state": "none", "upstream_tls.state": "ok", "tls": "may:TLSv1.3", "end": "quit"})
}

func TestAParameterInUseThatIsGoneInsideTLSIsRefusedForNow(t *testing.T) {
	for _, tc := range []struct{ name, offered, says, hears string }{
		{"SIZE", "SIZE 1000", "MAIL FROM:<a@x.example> SIZE=10", "451 4.5.4 parameter not offered any more: SIZE"},
		{"8BITMIME", "8BITMIME", "MAIL FROM:<a@x.example> BODY=8BITMIME", "451 4.5.4 parameter not offered any more: BODY"},
		{"SMTPUTF8", "SMTPUTF8", "MAIL FROM:<a@x.example> SMTPUTF8", "451 4.5.4 parameter not offered any more: SMTPUTF8"},
		{"one that never was", "SIZE 1000", "MAIL FROM:<a@x.example> RET=FULL", "555 5.5.4 parameter not offered: RET"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, options{rules: watchingRule()})
			up := b.inClear(tc.offered)
			b.client.say(tc.says + "\n")
			b.upgraded(up)
			b.client.hears(tc.hears)
			b.client.say("MAIL FROM:<a@x.example>\n") // without it all is well
			up.hears("MAIL FROM:<a@x.example>")
			up.say("250 ok\n")
			b.client.hears("250 ok")
		})
	}
	t.Run("of a recipient, and BDAT", func(t *testing.T) {
		b := newBench(t, options{rules: watchingRule()})
		up := b.inClear("DSN", "CHUNKING")
		b.client.say("MAIL FROM:<a@x.example>\n")
		b.upgraded(up)
		up.hears("MAIL FROM:<a@x.example>")
		up.say("250 ok\n")
		b.client.say("RCPT TO:<b@x.example> NOTIFY=NEVER\nBDAT 3 LAST\nabcEHLO client.example\n")
		b.client.hears("250 ok", "451 4.5.4 parameter not offered any more: NOTIFY", "451 4.5.4 not offered any more")
		up.hears("EHLO client.example")
		up.say("250 hi\n")
		b.client.hears("250 hi")
		b.client.say("BDAT 3 LAST\nabc")
		b.client.hears("502 5.5.1 not offered here")
	})
}

func TestAnUpgradeThatFallsShortIsRefusedAsEHLOWouldBe(t *testing.T) {
	for _, tc := range []struct {
		name, says string
		rule       func(*enforce.Rule)
		hears      string
	}{
		{"MAIL", "MAIL FROM:<a@x.example>", func(*enforce.Rule) {}, "421 4.7.5 mx.example.net: TLS 1.2 and later was refused (alert protocol_version) (tls-version-too-low) […"},
		{"VRFY", "VRFY a", func(*enforce.Rule) {}, "421 4.7.5 …"},
		{"for good", "MAIL FROM:<a@x.example>", func(r *enforce.Rule) { r.OnViolation = enforce.OnViolationReject }, "554 5.7.5 mx.example.net: TLS 1.2 and later was refused (alert protocol_version) (tls-version-too-low) […"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, options{rules: watchingRule(tc.rule)})
			up := b.inClear()
			b.client.say(tc.says + "\n")
			up.hears("STARTTLS")
			up.say("220 go\n")
			up.acceptTLS(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10})
			b.client.hears(tc.hears)
			b.client.raw.Close()
			wantFields(t, b.record(), map[string]string{"reason": "tls-version-too-low", "upstream_tls.state": "failed", "tls": "may!version", "end": "refused"})
		})
	}
}

func TestACommandThatNeedsNoTLSDoesNotBringItAbout(t *testing.T) {
	b := newBench(t, options{rules: watchingRule()})
	up := b.inClear("AUTH PLAIN", "VRFY")
	b.client.say("AUTH PLAIN AGEAYg==\nRCPT TO:<b@x.example>\nRSET\nHELO client.example\nEHLO other.example\n")
	up.hears("RSET")
	up.say("250 reset\n")
	up.hears("EHLO client.example")
	up.say("250-mx.example.net hello\n250 STARTTLS\n")
	up.hears("EHLO other.example")
	up.say("250 mx.example.net\n")
	b.client.hears("538 5.7.11 AUTH needs TLS on the whole way", "503 5.5.1 MAIL first", "250 reset", "250 mx.example.net hello", "250 mx.example.net")
	b.client.say("QUIT\n")
	up.hears("QUIT")
	up.say("221 bye\n")
	b.client.hears("221 bye")
	wantFields(t, b.record(), map[string]string{"tls": "may:none", "verdict": "allow"})
}

func TestAServerWithoutSTARTTLSIsJudgedAsEver(t *testing.T) {
	b := newBench(t, options{rules: watchingRule(func(r *enforce.Rule) { r.TLS = enforce.Forced })})
	up := b.server()
	up.say("220 mx.example.net\n")
	b.client.hears("220 mx.example.net")
	b.client.say("EHLO a\n")
	up.hears("EHLO a")
	up.say("250 mx.example.net\n")
	b.client.hears("421 4.7.4 mx.example.net: STARTTLS is not offered (starttls-not-offered) […")
	b.client.raw.Close()
	wantFields(t, b.record(), map[string]string{"tls": "encrypt!nostarttls"})
}

func TestAPipelinedClientAndOneThatSaysHELOAreUpgradedToo(t *testing.T) {
	for name, hello := range map[string]string{"EHLO": "EHLO client.example", "HELO": "HELO client.example"} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, options{rules: watchingRule()})
			up := b.server()
			up.say("220 mx.example.net\n")
			b.client.hears("220 mx.example.net")
			b.client.say(hello + "\nMAIL FROM:<a@x.example>\nRCPT TO:<b@x.example>\n")
			up.hears("EHLO client.example")
			up.say("250-mx.example.net hello\n250 STARTTLS\n")
			b.upgraded(up)
			up.hears("MAIL FROM:<a@x.example>", "RCPT TO:<b@x.example>")
			up.say("250 ok\n250 ok\n")
			b.client.reply()
			b.client.hears("250 ok", "250 ok")
		})
	}
}

func TestARefusedSTARTTLSIsPassedOnAndTheSessionGoesOn(t *testing.T) {
	b := newBench(t, options{rules: watchingRule()})
	up := b.inClear()
	b.client.say("STARTTLS\n")
	up.hears("STARTTLS")
	up.say("454-not\n454 now\n")
	b.client.hears("454-not", "454 now")
	b.client.say("NOOP\n")
	up.hears("NOOP")
	up.say("250 noop\n")
	b.client.hears("250 noop")
	b.client.say("MAIL FROM:<a@x.example>\n")
	b.upgraded(up)
	up.hears("MAIL FROM:<a@x.example>")
	up.say("250 ok\n")
	b.client.hears("250 ok")
	b.client.raw.Close()
	wantFields(t, b.record(), map[string]string{"verdict": "allow", "reason": "starttls-refused", "detail": "STARTTLS was answered 454", "tls": "may:TLSv1.3"})
}

func TestObservingPassesThroughAnUpgradeThatFails(t *testing.T) {
	b := newBench(t, options{rules: watchingRule(), edit: func(s *Snapshot) { s.Observe = true }})
	up := b.inClear("SIZE 1000")
	b.client.say("MAIL FROM:<a@x.example> SIZE=10\nRCPT TO:<b@x.example>\n")
	up.hears("STARTTLS")
	up.say("220 go\n")
	up.acceptTLS(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10})
	again := b.server()
	again.say("220 mx.example.net ESMTP\n")
	again.hears("EHLO client.example")
	again.say("250-mx.example.net\n250 STARTTLS\n")
	again.hears("MAIL FROM:<a@x.example> SIZE=10", "RCPT TO:<b@x.example>")
	again.say("250 ok\n250 ok\n")
	b.client.hears("250 ok", "250 ok")
	again.conn.Close()
	b.client.hearsEnd()
	wantFields(t, b.record(), map[string]string{"mode": "observe", "reason": "tls-version-too-low", "end": "passed through"})
}
