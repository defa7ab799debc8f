package session

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"postern/enforce"
)

// watching is a rule that watches all connections.
func watchingRule(edit ...func(*enforce.Rule)) []enforce.Rule {
	r := enforce.Rule{Name: "w", Inspect: enforce.Watch, Owner: "it", Expires: time.Now().Add(time.Hour)}
	for _, e := range edit {
		e(&r)
	}
	return []enforce.Rule{r}
}

// inClear brings a watched session to where the client's EHLO has been answered.
func (b *bench) inClear(capabilities ...string) *peer {
	b.t.Helper()
	up := b.server()
	up.say("220 mx.example.net ESMTP\n")
	b.client.hears("220 mx.example.net ESMTP")
	b.client.say("EHLO client.example\n")
	up.hears("EHLO client.example")
	up.say(ehloReply(append([]string{"mx.example.net hello", "STARTTLS"}, capabilities...)))
	if got := b.client.reply(); !strings.HasSuffix(got[len(got)-1], " STARTTLS") {
		b.t.Fatalf("the client is told %q", got)
	}
	return up
}

// asked is inClear and the client's STARTTLS, as far as its 220.
func (b *bench) asked(capabilities ...string) *peer {
	b.t.Helper()
	up := b.inClear(capabilities...)
	b.client.say("STARTTLS\n")
	up.hears("STARTTLS")
	up.say("220 2.0.0 go ahead, says the server\n")
	b.client.hears("220 2.0.0 go ahead, says the server")
	return up
}

// shakeHands runs both sides of a handshake.
func shakeHands(client, up *peer, c, s *tls.Config) (clientErr, serverErr error) {
	done := make(chan error, 1)
	go func() { done <- up.acceptTLS(s) }()
	clientErr = client.startTLS(c)
	if clientErr != nil {
		client.raw.Close()
	}
	return clientErr, <-done
}

func insecure(edit func(*tls.Config)) *tls.Config {
	c := &tls.Config{InsecureSkipVerify: true, ServerName: "mx.example.net"}
	edit(c)
	return c
}

// dribble writes in pieces of n octets.
type dribble struct {
	net.Conn
	n int
}

func (d *dribble) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		piece := p[:min(d.n, len(p))]
		w, err := d.Conn.Write(piece)
		if n += w; err != nil {
			return n, err
		}
		p = p[len(piece):]
	}
	return n, nil
}

func TestTLSPassesThroughAndIsReadOffTheWire(t *testing.T) {
	h13 := map[string]string{"upstream_tls.version": "TLS 1.3", "client_tls.version": "TLS 1.3", "tls": "may:TLSv1.3", "upstream_tls.forward_secrecy": "true"}
	for _, tc := range []struct {
		name           string
		client, server *tls.Config
		pieces         int
		want           map[string]string
	}{
		{"TLS 1.3", nil, nil, 0, h13},
		{"TLS 1.3, octet by octet", nil, nil, 1, h13},
		{"with a post-quantum key, in two segments", insecure(func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768} }), nil, 1000,
			map[string]string{"client_tls.group": "X25519MLKEM768", "upstream_tls.group": "X25519MLKEM768", "tls": "may:TLSv1.3"}},
		{"after a HelloRetryRequest", insecure(func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP384} }),
			&tls.Config{CurvePreferences: []tls.CurveID{tls.CurveP384}}, 0, map[string]string{"client_tls.group": "secp384r1", "tls": "may:TLSv1.3"}},
		{"after a HelloRetryRequest, octet by octet", insecure(func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP384} }),
			&tls.Config{CurvePreferences: []tls.CurveID{tls.CurveP384}}, 1, map[string]string{"client_tls.group": "secp384r1", "tls": "may:TLSv1.3"}},
		{"TLS 1.2", insecure(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), nil, 0, map[string]string{
			"client_tls.version": "TLS 1.2", "client_tls.offered_versions": `["TLS 1.2"]`, "upstream_tls.cipher": "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
			"upstream_tls.certificate.names": `["mx.example.net"]`, "upstream_tls.verified": "true", "upstream_tls.group": "x25519", "tls": "may:TLSv1.2", "upstream_tls.forward_secrecy": "true"}},
		{"TLS 1.2, octet by octet", insecure(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), nil, 1, map[string]string{"tls": "may:TLSv1.2"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, options{rules: watchingRule()})
			up := b.asked("SIZE 1000")
			if tc.pieces > 0 {
				b.client.raw, up.raw = &dribble{b.client.raw, tc.pieces}, &dribble{up.raw, tc.pieces}
			}
			config := tc.client
			if config == nil {
				config = insecure(func(*tls.Config) {})
			}
			if err := errors.Join(shakeHands(b.client, up, config, tc.server)); err != nil {
				t.Fatal(err)
			}
			if got := b.client.conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Raw; !bytes.Equal(got, testCertificate("mx.example.net").Certificate[0]) {
				t.Error("the client is shown another certificate than the server's")
			}
			b.client.say("EHLO client.example\nMAIL FROM:<a@x.example>\n")
			up.hears("EHLO client.example", "MAIL FROM:<a@x.example>")
			up.say("250-hi\n250 AUTH PLAIN\n250 ok\n")
			b.client.hears("250-hi", "250 AUTH PLAIN", "250 ok")
			b.client.say("QUIT\n")
			up.hears("QUIT")
			up.say("221 bye\n")
			up.conn.Close()
			b.client.hears("221 bye")
			b.client.conn.Close()
			record := b.record()
			wantFields(t, record, map[string]string{"verdict": "allow", "client_tls.state": "watched", "upstream_tls.state": "watched", "client_tls.sni": "mx.example.net"})
			wantFields(t, record, tc.want)
		})
	}
}

// asCut says of a session that is cut that neither side heard a word inside it.
func asCut(t *testing.T, b *bench, up *peer, c, s *tls.Config) map[string]any {
	t.Helper()
	b.client.raw, up.raw = &dribble{b.client.raw, 7}, &dribble{up.raw, 7}
	done := make(chan error, 1)
	go func() {
		err := up.acceptTLS(s)
		if err == nil {
			_, err = up.conn.Read(make([]byte, 1))
		}
		done <- err
	}()
	if b.client.startTLS(c) == nil {
		b.client.conn.Write([]byte("MAIL FROM:<a@x.example>\r\n"))
		if n, _ := b.client.conn.Read(make([]byte, 1)); n > 0 {
			t.Error("the client hears an octet inside TLS")
		}
	}
	b.client.raw.Close()
	if err := <-done; err == nil {
		t.Error("the server hears an octet of SMTP inside TLS")
	}
	return b.record()
}

func TestWhatFallsShortIsCutBeforeItCarriesMail(t *testing.T) {
	tls12 := func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }
	aes128 := []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
	for _, tc := range []struct {
		name           string
		rule           func(*enforce.Rule)
		client, server *tls.Config
		want           map[string]string
	}{
		{"a server below the floor", func(*enforce.Rule) {}, insecure(func(c *tls.Config) { c.MinVersion = tls.VersionTLS10 }),
			&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10},
			map[string]string{"reason": "tls-version-too-low", "detail": "TLS 1.0 is below TLS 1.2", "upstream_tls.version": "TLS 1.0", "tls": "may!version"}},
		{"a server below the floor, of which a rule would only log", func(r *enforce.Rule) { r.OnViolation = enforce.OnViolationLog }, insecure(func(c *tls.Config) { c.MinVersion = tls.VersionTLS10 }),
			&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11},
			map[string]string{"reason": "tls-version-too-low", "upstream_tls.version": "TLS 1.1", "tls": "may!version"}},
		{"a client below the floor", func(*enforce.Rule) {}, tooOld, &tls.Config{MinVersion: tls.VersionTLS10},
			map[string]string{"reason": "client-tls-too-low", "detail": "TLS 1.1 is below TLS 1.2", "client_tls.offered_versions": `["TLS 1.1","TLS 1.0"]`, "upstream_tls.state": "none", "tls": "may"}},
		{"a version below the rule's", func(r *enforce.Rule) { r.TLS, r.MinVersion = enforce.Forced, tls.VersionTLS13 }, insecure(tls12), nil,
			map[string]string{"reason": "tls-version-too-low", "detail": "TLS 1.2 is below TLS 1.3", "tls": "encrypt!version"}},
		{"a suite that the rule does not list", func(r *enforce.Rule) { r.Ciphers = []uint16{tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384} }, insecure(tls12),
			&tls.Config{CipherSuites: aes128}, map[string]string{"reason": "tls-cipher-not-allowed", "tls": "may!cipher", "upstream_tls.cipher": "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"}},
		{"no forward secrecy where it is asked for", func(r *enforce.Rule) { r.ForwardSecrecy = true },
			insecure(func(c *tls.Config) {
				c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}
			}), rsaOnly(t),
			map[string]string{"reason": "tls-no-forward-secrecy", "tls": "may!cipher"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, options{rules: watchingRule(tc.rule)})
			up := b.asked()
			record := asCut(t, b, up, tc.client, tc.server)
			wantFields(t, record, map[string]string{"verdict": "defer", "end": "cut", "client_tls.state": "failed"})
			wantFields(t, record, tc.want)
		})
	}
}

func TestWhatARuleOnlyLogsPassesAboveTheFloor(t *testing.T) {
	b := newBench(t, options{rules: watchingRule(func(r *enforce.Rule) {
		r.TLS, r.MinVersion, r.OnViolation = enforce.Forced, tls.VersionTLS13, enforce.OnViolationLog
	})})
	up := b.asked()
	if err := errors.Join(shakeHands(b.client, up, insecure(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), nil)); err != nil {
		t.Fatal(err)
	}
	b.client.conn.Close()
	wantFields(t, b.record(), map[string]string{"verdict": "allow", "reason": "tls-version-too-low", "client_tls.state": "watched", "tls": "encrypt!version"})
}

func TestObservingCutsNothingThatIsWatched(t *testing.T) {
	b := newBench(t, options{rules: watchingRule(), edit: func(s *Snapshot) { s.Observe = true }})
	up := b.asked()
	old := &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}
	if err := errors.Join(shakeHands(b.client, up, insecure(func(c *tls.Config) { c.MinVersion = tls.VersionTLS10 }), old)); err != nil {
		t.Fatal(err)
	}
	b.client.say("NOOP\n")
	up.hears("NOOP")
	b.client.conn.Close()
	wantFields(t, b.record(), map[string]string{"mode": "observe", "verdict": "defer", "reason": "tls-version-too-low", "client_tls.state": "watched",
		"client_tls.version": "TLS 1.0", "end": "client closed"})
}

func TestAWatchedClientBelowTheFloorIsHeldWhenItComesBackInClear(t *testing.T) {
	h := new(held)
	b := newBench(t, options{rules: watchingRule(), edit: remembering(t, h, benchNetwork)})
	asCut(t, b, b.asked(), tooOld, &tls.Config{MinVersion: tls.VersionTLS10})
	if hold := h.Find(benchConnection); hold == nil || hold.Offered != tls.VersionTLS11 {
		t.Fatalf("%+v", hold)
	}
	again := startBench(t, options{rules: watchingRule(), edit: remembering(t, h, benchNetwork)})
	up := again.inClear()
	again.client.say("MAIL FROM:<a@x.example>\n")
	again.upgraded(up)
	again.client.hears("451 4.7.5 mx.example.net: your last TLS handshake with this server offered TLS 1.1, which is below TLS 1.2 (client-tls-too-low) […")
	again.client.raw.Close()
	wantFields(t, again.record(), map[string]string{"reason": "client-tls-too-low", "client_tls.hold.refused": "1"})
	good := startBench(t, options{rules: watchingRule(), edit: remembering(t, h, benchNetwork)})
	if err := errors.Join(shakeHands(good.client, good.asked(), insecure(func(*tls.Config) {}), nil)); err != nil {
		t.Fatal(err)
	}
	good.client.conn.Close()
	good.record()
	if hold := h.Find(benchConnection); hold != nil {
		t.Errorf("TLS that is good enough does not end it: %+v", hold)
	}
}

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

func TestNothingBehindSTARTTLSOrIts220IsCarriedIntoTLS(t *testing.T) {
	t.Run("the client's", func(t *testing.T) {
		b := newBench(t, options{rules: watchingRule()})
		up := b.inClear()
		b.client.say("STARTTLS\nRSET\n")
		b.client.hears("554 5.5.2 mx.example.net: octets in clear behind STARTTLS (starttls-injection) […")
		up.hears("QUIT")
		up.hearsEnd()
		b.client.raw.Close()
		wantFields(t, b.record(), map[string]string{"reason": "starttls-injection"})
	})
	t.Run("the server's", func(t *testing.T) {
		b := newBench(t, options{rules: watchingRule()})
		up := b.inClear()
		b.client.say("STARTTLS\n")
		up.hears("STARTTLS")
		up.say("220 go\n250 injected\n")
		b.client.hears("421 4.5.2 mx.example.net: octets in clear behind the reply to STARTTLS (starttls-injection) […")
		b.client.raw.Close()
		wantFields(t, b.record(), map[string]string{"reason": "starttls-injection", "end": "refused", "upstream_tls.state": "failed"})
	})
	t.Run("nor what the client says in the place of TLS", func(t *testing.T) {
		b := newBench(t, options{rules: watchingRule()})
		up := b.asked()
		b.client.say("MAIL FROM:<a@x.example>\n")
		up.hearsEnd()
		b.client.hearsEnd()
		wantFields(t, b.record(), map[string]string{"reason": "starttls-injection", "end": "client handshake failed", "client_tls.state": "failed"})
	})
	t.Run("nor what the server does", func(t *testing.T) {
		b := newBench(t, options{rules: watchingRule()})
		up := b.asked()
		done := make(chan struct{})
		go func() { defer close(done); b.client.startTLS(nil) }()
		io.ReadFull(up.raw, make([]byte, 100))
		up.say("250 hello\n")
		<-done
		b.client.raw.Close()
		wantFields(t, b.record(), map[string]string{"reason": "tls-handshake-failed", "end": "upstream handshake failed",
			"detail": "the TLS handshake failed: the server sent what is not TLS"})
	})
}

// There are clients, and servers, that go on in clear when a handshake fails.
func TestNothingInClearPassesBehindAHandshake(t *testing.T) {
	for name, client := range map[string]bool{"the client's": true, "the server's": false} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, options{rules: watchingRule()})
			up := b.asked()
			if err := errors.Join(shakeHands(b.client, up, insecure(func(*tls.Config) {}), nil)); err != nil {
				t.Fatal(err)
			}
			b.client.conn.Write([]byte("NOOP\r\n"))
			up.hears("NOOP")
			up.conn.Write([]byte("250 noop\r\n"))
			b.client.hears("250 noop")
			from, to := b.client, up
			if !client {
				from, to = up, b.client
			}
			io.WriteString(from.raw, "MAIL FROM:<a@x.example>\r\n")
			if n, err := to.raw.Read(make([]byte, 100)); n > 0 {
				t.Errorf("%d octets pass (%v)", n, err)
			}
			b.client.raw.Close()
			wantFields(t, b.record(), map[string]string{"reason": "protocol-error", "detail": "octets in clear within TLS", "end": "cut", "client_tls.state": "watched"})
		})
	}
}

func TestAHandshakeThatFailsIsToldByWhomAsFarAsThatCanBeSeen(t *testing.T) {
	verifying := func(version uint16) *tls.Config { return &tls.Config{ServerName: "mx.example.net", MaxVersion: version} }
	for _, tc := range []struct {
		name           string
		client, server *tls.Config
		want           map[string]string
	}{
		{"a client that refuses the certificate", verifying(tls.VersionTLS12), nil, map[string]string{"reason": "client-refused-certificate", "end": "client handshake failed",
			"detail": "the TLS handshake failed: the client sent the alert bad_certificate", "upstream_tls.version": "TLS 1.2", "upstream_tls.certificate.names": `["mx.example.net"]`}},
		{"a client that refuses it where that is encrypted", verifying(tls.VersionTLS13), nil, map[string]string{"reason": "client-handshake-failed", "end": "client handshake failed",
			"detail": "the TLS handshake failed: the client sent an alert, encrypted"}},
		{"a server that has nothing in common", insecure(func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }), &tls.Config{MaxVersion: tls.VersionTLS12},
			map[string]string{"reason": "tls-handshake-failed", "end": "upstream handshake failed", "detail": "the TLS handshake failed: the server sent the alert protocol_version"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, options{rules: watchingRule()})
			up := b.asked()
			clientErr, _ := shakeHands(b.client, up, tc.client, tc.server)
			if clientErr == nil {
				t.Fatal("the handshake succeeded")
			}
			if op := new(net.OpError); tc.server != nil && (!errors.As(clientErr, &op) || op.Op != "remote error") {
				t.Errorf("the client does not hear why: %v", clientErr)
			}
			b.client.raw.Close()
			record := b.record()
			wantFields(t, record, map[string]string{"verdict": "defer", "client_tls.state": "failed", "upstream_tls.state": "failed", "tls": "may!handshake"})
			wantFields(t, record, tc.want)
		})
	}
}

func TestAWatchedHandshakeHasItsTime(t *testing.T) {
	b := newBench(t, options{rules: watchingRule(), edit: brief})
	b.asked()
	b.client.hearsEnd()
	wantFields(t, b.record(), map[string]string{"reason": "client-handshake-failed", "detail": "the TLS handshake failed: timeout", "upstream_tls.state": "none"})
}

func TestASilentWatchedSessionEndsAfterTheTimeOfAMessage(t *testing.T) {
	b := newBench(t, options{rules: watchingRule(), edit: func(s *Snapshot) { s.Timeouts.Final = 300 * time.Millisecond }})
	up := b.asked()
	if err := errors.Join(shakeHands(b.client, up, insecure(func(*tls.Config) {}), nil)); err != nil {
		t.Fatal(err)
	}
	b.client.hearsEnd()
	if got := field(b.record(), "end"); got != "client timeout" && got != "upstream timeout" {
		t.Error(got)
	}
}

func TestADrainLetsAWatchedSessionRunUntilTheLimit(t *testing.T) {
	b := newBench(t, options{rules: watchingRule()})
	up := b.asked()
	if err := errors.Join(shakeHands(b.client, up, insecure(func(*tls.Config) {}), nil)); err != nil {
		t.Fatal(err)
	}
	b.session.Drain()
	b.client.say("NOOP\n")
	up.hears("NOOP")
	up.say("250 noop\n")
	b.client.hears("250 noop")
	b.session.Abort()
	b.ended(3 * time.Second)
	wantFields(t, b.record(), map[string]string{"end": "stopped", "verdict": "allow", "client_tls.state": "watched"})
}

func TestAnAbortEndsAWatchedHandshake(t *testing.T) {
	b := newBench(t, options{rules: watchingRule()})
	up := b.asked()
	b.client.raws("\x16\x03\x01")
	b.session.Abort()
	b.ended(3 * time.Second)
	up.hearsEnd()
	wantFields(t, b.record(), map[string]string{"end": "stopped"})
}
