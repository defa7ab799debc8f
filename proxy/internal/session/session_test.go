package session

import (
	"crypto/tls"
	"slices"
	"strings"
	"testing"

	"postern/enforce"
)

func TestAClientInClearIsUpgradedBeforeItIsAnswered(t *testing.T) {
	b := newBench(t, options{})
	up := b.greeted(true, "PIPELINING", "8BITMIME", "XCLIENT NAME", "AUTH PLAIN", "X-UNHEARD-OF")
	b.client.say("MAIL FROM:<a@hospital.example>\nRCPT TO:<b@partner.example>\nDATA\n")
	up.hears("MAIL FROM:<a@hospital.example>", "RCPT TO:<b@partner.example>", "DATA")
	up.say("250 ok\n250 ok\n354 go\n")
	b.client.hears("250 ok", "250 ok", "354 go")
	b.client.say("Subject: x\n\n..dot\nlast\n.\n")
	up.octets("Subject: x\r\n\r\n..dot\r\nlast\r\n.\r\n")
	up.say("250 2.0.0 queued as 4Xq\n")
	b.client.hears("250 2.0.0 queued as 4Xq")
	b.client.say("QUIT\n")
	up.hears("QUIT")
	up.say("221 bye\n")
	b.client.hears("221 bye")
	b.client.hearsEnd()
	r := b.record()
	wantFields(t, r, map[string]string{
		"verdict": "allow", "reason": "", "rule": "default", "tls": "may:TLSv1.3", "end": "quit", "generation": "7",
		"client.address": "10.1.0.2", "client.port": "40000", "client.helo": "client.example",
		"upstream.address": "203.0.113.5", "upstream.port": "25", "upstream.banner": "mx.example.net ESMTP",
		"client_tls.state": "none", "upstream_tls.state": "ok", "upstream_tls.version": "TLS 1.3",
		"upstream_tls.cipher": "TLS_AES_128_GCM_SHA256", "upstream_tls.group": "X25519MLKEM768",
		"upstream_tls.sni": "mx.example.net", "upstream_tls.verified": "true", "upstream_tls.forward_secrecy": "true",
		"upstream_tls.certificate.names": `["mx.example.net"]`,
		"transactions":                   `[{"accepted":1,"bytes":30,"mail_domain":"hospital.example","rcpt_domains":["partner.example"],"reply":"250 2.0.0 queued as 4Xq"}]`,
	})
}

func TestTheClientIsOfferedWhatTheUpstreamOffersInsideTLSAndCanBeFollowed(t *testing.T) {
	b := newBench(t, options{edit: func(s *Snapshot) { s.Extensions = map[string]bool{"X-LOCAL": true} }})
	up := b.server()
	up.say("220 mx.example.net ESMTP\n")
	b.client.hears("220 mx.example.net ESMTP")
	b.client.say("EHLO client.example\n")
	up.hears("EHLO client.example")
	up.say("250-mx.example.net\n250-ONLY-IN-CLEAR\n250 STARTTLS\n")
	up.hears("STARTTLS")
	up.say("220 go\n")
	if err := up.acceptTLS(nil); err != nil {
		t.Fatal(err)
	}
	up.hears("EHLO client.example")
	up.say("250-mx.example.net hello\n250-SIZE 1000\n250-AUTH PLAIN\n250-REQUIRETLS\n250-XCLIENT NAME\n250-XFORWARD\n250-STARTTLS\n250-X-LOCAL\n250-CHUNKING\n250 DSN\n")
	want := []string{"250-mx.example.net hello", "250-SIZE 1000", "250-X-LOCAL", "250-CHUNKING", "250-DSN", "250 STARTTLS"}
	if got := b.client.reply(); !slices.Equal(got, want) {
		t.Errorf("in clear the client hears %q, want %q", got, want)
	}
	b.client.say("AUTH PLAIN AGEAYg==\nMAIL FROM:<a@x.example> REQUIRETLS\nSTARTTLS now\n")
	b.client.hears("538 5.7.11 …", "550 5.7.30 …", "501 5.5.4 …")
	b.client.say("STARTTLS\n")
	b.client.hears("220 2.0.0 …")
	if err := b.client.startTLS(nil); err != nil {
		t.Fatal(err)
	}
	b.client.say("MAIL FROM:<a@x.example>\n")
	b.client.hears("503 5.5.1 …")
	b.client.say("EHLO client.example\n") // answered from what is known
	want = []string{"250-mx.example.net hello", "250-SIZE 1000", "250-AUTH PLAIN", "250-REQUIRETLS", "250-X-LOCAL", "250-CHUNKING", "250 DSN"}
	if got := b.client.reply(); !slices.Equal(got, want) {
		t.Errorf("inside TLS the client hears %q, want %q", got, want)
	}
	b.client.say("AUTH PLAIN\n")
	up.hears("AUTH PLAIN")
	up.say("334 \n")
	b.client.hears("334 ")
	b.client.say("AGEAYg==\n")
	up.hears("AGEAYg==")
	up.say("235 2.7.0 ok\n")
	b.client.hears("235 2.7.0 ok")
	b.client.say("STARTTLS\nMAIL FROM:<a@x.example> REQUIRETLS\n")
	b.client.hears("503 5.5.1 …")
	up.hears("MAIL FROM:<a@x.example> REQUIRETLS")
	up.say("250 ok\n")
	b.client.hears("250 ok")
	b.client.say("EHLO other.example\n")
	up.hears("EHLO other.example")
	up.say("250 mx.example.net\n")
	b.client.hears("250 mx.example.net")
	b.client.conn.Close()
	wantFields(t, b.record(), map[string]string{"client_tls.state": "ok", "client_tls.version": "TLS 1.3", "end": "client closed"})
}

func TestAHELOClientIsSecuredAndAnsweredInOneLine(t *testing.T) {
	b := newBench(t, options{})
	up := b.server()
	up.say("220 mx.example.net ESMTP\n")
	b.client.hears("220 mx.example.net ESMTP")
	b.client.say("MAIL FROM:<>\nHELO printer\n")
	b.client.hears("503 5.5.1 …")
	up.hears("EHLO printer")
	up.say("250-mx.example.net\n250 STARTTLS\n")
	up.hears("STARTTLS")
	up.say("220 go\n")
	if err := up.acceptTLS(nil); err != nil {
		t.Fatal(err)
	}
	up.hears("EHLO printer")
	up.say("250-mx.example.net hello printer\n250 SIZE\n")
	b.client.hears("250 mx.example.net hello printer")
	b.client.conn.Close()
	wantFields(t, b.record(), map[string]string{"upstream_tls.state": "ok", "client.helo": "printer"})
}

func TestAnUpstreamThatRefusesEHLOGetsHELO(t *testing.T) {
	for _, tc := range []struct {
		name  string
		rules []enforce.Rule
		reply string
		want  map[string]string
	}{
		{"opportunistic", nil, "250 old.example", map[string]string{"verdict": "allow", "tls": "may:none"}},
		{"forced", []enforce.Rule{{Name: "all", TLS: enforce.Forced}}, "421 4.7.4 old.example: STARTTLS is not offered (starttls-not-offered) […",
			map[string]string{"verdict": "defer", "reason": "starttls-not-offered", "tls": "encrypt!nostarttls", "stage": "ehlo"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, options{rules: tc.rules})
			up := b.server()
			up.say("220 old.example\n")
			b.client.hears("220 old.example")
			b.client.say("EHLO client.example\n")
			up.hears("EHLO client.example")
			up.say("502 what\n")
			up.hears("HELO client.example")
			up.say("250 old.example\n")
			b.client.hears(tc.reply)
			b.client.conn.Close()
			wantFields(t, b.record(), tc.want)
		})
	}
}

// settle brings an upstream to where STARTTLS has been answered 220.
func upToHandshake(b *bench) *peer {
	up := b.server()
	up.say("220 mx.example.net ESMTP\n")
	b.client.hears("220 mx.example.net ESMTP")
	b.client.say("EHLO client.example\n")
	up.hears("EHLO client.example")
	up.say("250-mx.example.net\n250 STARTTLS\n")
	up.hears("STARTTLS")
	return up
}

func TestAServerBelowTheFloorIsNamedByWhatItChose(t *testing.T) {
	b := newBench(t, options{})
	up := upToHandshake(b)
	up.say("220 go\n")
	up.octets("\x16")
	// A server from before supported_versions: TLS 1.0, TLS_RSA_WITH_AES_128_CBC_SHA.
	up.raws("\x16\x03\x01\x00\x2a\x02\x00\x00\x26\x03\x01" + strings.Repeat("r", 32) + "\x00\x00\x2f\x00")
	b.client.hears("421 4.7.5 mx.example.net: TLS 1.0 is below TLS 1.2 (tls-version-too-low) [" + b.session.rec.Session + "]")
	b.client.hearsEnd()
	wantFields(t, b.record(), map[string]string{"verdict": "defer", "reason": "tls-version-too-low", "stage": "upstream-tls", "tls": "may!version",
		"upstream_tls.state": "failed", "upstream_tls.version": "TLS 1.0", "upstream_tls.cipher": "TLS_RSA_WITH_AES_128_CBC_SHA", "end": "refused"})
}

func TestAServerThatRefusesTheVersionByAlertIsTooLow(t *testing.T) {
	b := newBench(t, options{})
	up := upToHandshake(b)
	up.say("220 go\n")
	hello := make([]byte, 5)
	if _, err := up.raw.Read(hello); err != nil {
		t.Fatal(err)
	}
	up.raws("\x15\x03\x01\x00\x02\x02\x46")
	b.client.hears("421 4.7.5 mx.example.net: TLS 1.2 and later was refused (alert protocol_version) (tls-version-too-low) […")
	wantFields(t, b.record(), map[string]string{"reason": "tls-version-too-low", "upstream_tls.version": ""})
}

func TestRejectIsSaidToEverythingButQUIT(t *testing.T) {
	b := newBench(t, options{rules: []enforce.Rule{{Name: "all", TLS: enforce.Forced, OnViolation: enforce.OnViolationReject}}})
	up := b.server()
	up.say("220 mx.example.net\n")
	b.client.hears("220 mx.example.net")
	b.client.say("EHLO a\n")
	up.hears("EHLO a")
	up.say("250 mx.example.net\n")
	const want = "554 5.7.4 mx.example.net: STARTTLS is not offered (starttls-not-offered) […"
	b.client.hears(want)
	b.client.say("HELO a\nMAIL FROM:<>\nQUIT\n")
	b.client.hears(want, want, "221 2.0.0 bye")
	b.client.hearsEnd()
	wantFields(t, b.record(), map[string]string{"verdict": "reject", "reason": "starttls-not-offered"})
}

func TestBytesBehindThe220OfSTARTTLSAreNeverRead(t *testing.T) {
	b := newBench(t, options{rules: []enforce.Rule{{Name: "all", OnHandshakeFailure: enforce.Cleartext}}})
	up := upToHandshake(b)
	up.say("220 go\n250 mx.example.net\n")
	b.client.hears("421 4.5.2 mx.example.net: octets in clear behind the reply to STARTTLS (starttls-injection) […")
	b.client.hearsEnd()
	wantFields(t, b.record(), map[string]string{"reason": "starttls-injection", "upstream_tls.state": "failed"})
}

func TestBytesBehindTheClientsSTARTTLSAreNeverRead(t *testing.T) {
	b := newBench(t, options{})
	up := b.greeted(true)
	b.client.say("STARTTLS\nMAIL FROM:<evil@x.example>\n")
	b.client.hears("554 5.5.2 mx.example.net: octets in clear behind STARTTLS (starttls-injection) […")
	b.client.hearsEnd()
	up.hears("QUIT")
	wantFields(t, b.record(), map[string]string{"verdict": "reject", "reason": "starttls-injection"})
}

func TestAClientHandshakeThatFailsLeavesNoWordInClear(t *testing.T) {
	for _, tc := range []struct {
		name   string
		config *tls.Config
		raw    string
		want   map[string]string
	}{
		{name: "below the floor", config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11},
			want: map[string]string{"reason": "client-tls-too-low", "client_tls.state": "failed", "client_tls.offered_versions": `["TLS 1.1","TLS 1.0"]`}},
		{name: "certificate refused in TLS 1.2", config: &tls.Config{ServerName: "mx.example.net", MaxVersion: tls.VersionTLS12},
			want: map[string]string{"reason": "client-refused-certificate", "client_tls.state": "failed"}},
		{name: "certificate refused in TLS 1.3", config: &tls.Config{ServerName: "mx.example.net"},
			want: map[string]string{"reason": "client-refused-certificate", "client_tls.state": "failed", "client_tls.version": "TLS 1.3"}},
		{name: "plaintext", raw: "EHLO again\r\n",
			want: map[string]string{"reason": "starttls-injection", "client_tls.state": "failed"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, options{})
			b.greeted(true)
			b.client.say("STARTTLS\n")
			b.client.hears("220 2.0.0 …")
			if tc.raw != "" {
				b.client.raws(tc.raw)
			} else if err := b.client.startTLS(tc.config); err == nil {
				t.Fatal("the handshake succeeded")
			}
			wantFields(t, b.record(), tc.want)
		})
	}
}

func TestARecipientWhoseRuleDoesNotHoldIsRefusedAlone(t *testing.T) {
	b := newBench(t, options{noVerify: true, rules: []enforce.Rule{
		{Name: "partner", ToDomains: []string{"partner.example"}, TLS: enforce.Forced, Verify: enforce.VerifyName, Names: []string{"mx.partner.example"}},
	}})
	up := b.greeted(true)
	b.client.say("MAIL FROM:<a@x.example>\nRCPT TO:<b@Partner.Example.>\nRCPT TO:<@r.example:c@other.example>\nDATA\n")
	up.hears("MAIL FROM:<a@x.example>", "RCPT TO:<@r.example:c@other.example>", "DATA")
	up.say("250 ok\n250 ok\n354 go\n")
	b.client.hears("250 ok", "451 4.7.5 mx.example.net: unknown authority (cert-not-trusted) […", "250 ok", "354 go")
	b.client.say("x\n.\n")
	up.octets("x\r\n.\r\n")
	up.say("250 ok\n")
	b.client.hears("250 ok")
	b.client.conn.Close()
	wantFields(t, b.record(), map[string]string{"verdict": "defer", "reason": "cert-not-trusted", "stage": "rcpt",
		"transactions": `[{"accepted":1,"bytes":6,"mail_domain":"x.example","rcpt_domains":["other.example"],"refused":[{"domain":"partner.example","reason":"cert-not-trusted","rule":"partner"}],"reply":"250 ok"}]`})
}

func TestAMAILRefusedHereMakesWhatFollowsIt503Here(t *testing.T) {
	b := newBench(t, options{rules: []enforce.Rule{{Name: "ours", FromDomains: []string{"ours.example"}, ClientTLS: enforce.ClientRequired, OnViolation: enforce.OnViolationReject}}})
	up := b.greeted(true, "CHUNKING", "PIPELINING")
	b.client.say("MAIL FROM:<a@ours.example>\nRCPT TO:<b@x.example>\nDATA\nBDAT 14 LAST\nMAIL FROM:<>\n.\nNOOP\n")
	up.hears("NOOP")
	up.say("250 noop\n")
	b.client.hears("530 5.7.0 mx.example.net: TLS is required here (client-tls-required) […", "503 5.5.1 …", "503 5.5.1 …", "503 5.5.1 …", "500 5.5.2 …", "250 noop")
	b.client.conn.Close()
	b.record()
}

func TestALostUpstreamIsSaidAndNeverTakenForAcceptance(t *testing.T) {
	b := newBench(t, options{})
	up := b.greeted(true)
	inData(b, up)
	b.client.say("x\n.\n")
	up.octets("x\r\n.\r\n")
	up.raw.Close()
	b.client.hears("421 4.4.2 mx.example.net: the connection to the server was lost (upstream-lost) […")
	b.client.hearsEnd()
	wantFields(t, b.record(), map[string]string{"verdict": "defer", "reason": "upstream-lost"})
}

func TestAMessageThatBreaksOffIsNeverEnded(t *testing.T) {
	b := newBench(t, options{})
	up := b.greeted(true)
	inData(b, up)
	b.client.raws("half\r\n.\r")
	up.octets("half\r\n")
	b.client.raw.Close()
	up.hearsEnd()
	wantFields(t, b.record(), map[string]string{"end": "client closed within a message"})
}

func TestAnUpstreamThatCannotBeReachedIsSaid(t *testing.T) {
	b := newBench(t, options{dial: failingDial})
	b.client.hears("421 4.4.1 [203.0.113.5]: the server cannot be reached (upstream-unreachable) […")
	b.client.hearsEnd()
	wantFields(t, b.record(), map[string]string{"verdict": "defer", "reason": "upstream-unreachable", "rule": "default"})
}

func TestADrainWaitsForTheMessageAndThenSays421(t *testing.T) {
	b := newBench(t, options{})
	up := b.greeted(true)
	inData(b, up)
	b.session.Drain()
	b.client.say("x\n.\n")
	up.octets("x\r\n.\r\n")
	b.session.Abort() // the limit has passed: the reply is waited for all the same
	up.say("250 ok\n")
	b.client.hears("250 ok", "421 4.3.2 …")
	b.client.hearsEnd()
	r := b.record()
	wantFields(t, r, map[string]string{"verdict": "allow"})
	if end := field(r, "end"); end != "stopped" && end != "drained" { // whichever came first
		t.Errorf("end %q", end)
	}
}

func TestADrainLetsAMessageInChunksFinish(t *testing.T) {
	b := newBench(t, options{})
	up := b.greeted(true, "CHUNKING")
	b.client.say("MAIL FROM:<a@x.example>\nRCPT TO:<b@x.example>\n")
	up.hears("MAIL FROM:<a@x.example>", "RCPT TO:<b@x.example>")
	up.say("250 ok\n250 ok\n")
	b.client.hears("250 ok", "250 ok")
	b.client.raws("BDAT 4\r\nhalf")
	up.hears("BDAT 4")
	up.octets("half")
	up.say("250 ok\n")
	b.client.hears("250 ok")
	b.session.Drain()
	b.client.raws("BDAT 4 LAST\r\nhalf")
	up.hears("BDAT 4 LAST")
	up.octets("half")
	up.say("250 ok\n")
	b.client.hears("250 ok", "421 4.3.2 …")
	wantFields(t, b.record(), map[string]string{"verdict": "allow", "end": "drained"})
}

func TestADrainEndsAnIdleDialogueAtOnce(t *testing.T) {
	b := newBench(t, options{})
	b.greeted(true)
	b.session.Drain()
	b.client.hears("421 4.3.2 …")
	b.client.hearsEnd()
	b.record()
}

func TestFallingBackToClearNeedsANewConnection(t *testing.T) {
	rule := []enforce.Rule{{Name: "old", OnHandshakeFailure: enforce.Cleartext}}
	b := newBench(t, options{rules: rule})
	up := upToHandshake(b)
	up.say("454 4.7.0 not now\n")
	again := b.server()
	up.hearsEnd()
	again.say("220 mx.example.net ESMTP\n")
	again.hears("EHLO client.example")
	again.say("250-mx.example.net\n250 STARTTLS\n")
	b.client.hears("250 mx.example.net")
	b.client.conn.Close()
	wantFields(t, b.record(), map[string]string{"verdict": "allow", "tls": "may:none", "upstream_tls.state": "none"})
}

func TestAPeerThatSpeaksAnotherProtocolIsHungUpOn(t *testing.T) {
	for name, said := range map[string]string{"HTTP": "GET / HTTP/1.1\r\n", "TLS": "\x16\x03\x01\x02\x00\x01\x00"} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, options{})
			b.server().say("220 mx.example.net\n")
			b.client.hears("220 mx.example.net")
			b.client.raws(said)
			b.client.hearsEnd()
			wantFields(t, b.record(), map[string]string{"reason": "protocol-error", "end": "not SMTP"})
		})
	}
}
