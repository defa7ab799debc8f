package session

import (
	"crypto/tls"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"postern/enforce"
)

// The upstream says 421 while the client's handshake runs; the handshake fails.
func TestNothingInClearBehindAFailedHandshakeWhenTheUpstreamCloses(t *testing.T) {
	b := newBench(t, options{})
	up := b.greeted(true)
	b.client.say("STARTTLS\n")
	b.client.hears("220 2.0.0 …")
	up.say("421 4.4.2 mx.example.net idle too long\n")
	time.Sleep(50 * time.Millisecond) // the reply is at the proxy
	b.client.raws("\x16\x03\x01\x00\x05garba")
	rest, _ := io.ReadAll(b.client.r)
	if strings.Contains(string(rest), "421") {
		t.Errorf("in clear behind a failed handshake: %q", rest)
	}
}

// The drain limit passes while the client's handshake runs.
func TestNothingInClearWhenAbortedWithinAHandshake(t *testing.T) {
	b := newBench(t, options{})
	b.greeted(true)
	b.client.say("STARTTLS\n")
	b.client.hears("220 2.0.0 …")
	b.client.raws("\x16\x03\x01")
	time.Sleep(20 * time.Millisecond)
	b.session.Abort()
	rest, _ := io.ReadAll(b.client.r)
	if strings.Contains(string(rest), "421") {
		t.Errorf("in clear within a failed handshake: %q", rest)
	}
}

// A broken line behind the end of data makes the reply to the message get lost.
func TestTheReplyToAMessageIsWaitedForWhateverFollowsIt(t *testing.T) {
	for _, behind := range []string{"QUIT\n", "GET / HTTP/1.0\r\n", "\xffquit\r\n", "BDAT x\r\n", strings.Repeat("x", 200000) + "\r\n"} {
		t.Run(fmt.Sprintf("%.8q", behind), func(t *testing.T) {
			b := newBench(t, options{})
			up := b.greeted(true, "CHUNKING", "PIPELINING")
			inData(b, up)
			b.client.raws("x\r\n.\r\n" + behind)
			up.octets("x\r\n.\r\n")
			time.Sleep(100 * time.Millisecond)
			io.WriteString(up.conn, "250 2.0.0 queued\r\n")
			got, err := b.client.r.ReadString('\n')
			if !strings.HasPrefix(got, "250 2.0.0 queued") {
				t.Errorf("the client hears %q (%v), the upstream accepted the message", got, err)
			}
		})
	}
}

// A banner that is 2yz but not 220 becomes the answer to everything.
func TestABannerOf250IsNotTheAnswerToEverything(t *testing.T) {
	b := newBench(t, options{})
	up := b.server()
	up.say("250-mx.example.net\n250 CHUNKING\n")
	b.client.say("EHLO a\n")
	b.client.reply()
	b.client.say("MAIL FROM:<a@x.example>\nRCPT TO:<b@x.example>\n")
	b.client.say("BDAT 3 LAST\nx\n")
	all, _ := io.ReadAll(io.LimitReader(b.client.r, 150))
	if n := strings.Count(string(all), "250 CHUNKING"); n > 0 {
		t.Errorf("false 250: %q", all)
	}
}

// A client that hears 354 would send what it takes for content, line by line.
func TestAnUpstreamThatAsksForMoreBeforeTheGreetingIsOutOfStep(t *testing.T) {
	for _, line := range []string{"EHLO a", "HELO a", "NOOP", "RSET", "HELP", "QUIT"} {
		t.Run(line, func(t *testing.T) {
			b := newBench(t, options{})
			up := b.server()
			up.say("220 mx.example.net\n")
			b.client.hears("220 mx.example.net")
			b.client.say(line + "\n")
			up.line() // of HELO Postern makes EHLO
			up.say("354 go ahead\n")
			b.client.hears("421 4.5.2 mx.example.net: upstream asked for more where there is none (protocol-error) …")
			b.client.hearsEnd()
			up.hearsEnd()
			wantFields(t, b.record(), map[string]string{"verdict": "defer", "reason": "protocol-error"})
		})
	}
}

// The upstream is lost before the pump runs: the record says allow.
func TestAnUpstreamLostBeforeTheGreetingIsBlamed(t *testing.T) {
	for _, at := range []string{"banner", "ehlo", "starttls", "inside"} {
		t.Run(at, func(t *testing.T) {
			b := newBench(t, options{})
			up := b.server()
			func() {
				defer func() { up.raw.Close() }()
				if at == "banner" {
					return
				}
				up.say("220 mx.example.net\n")
				b.client.hears("220 mx.example.net")
				b.client.say("EHLO a\n")
				up.hears("EHLO a")
				if at == "ehlo" {
					return
				}
				up.say("250-mx.example.net\n250 STARTTLS\n")
				up.hears("STARTTLS")
				if at == "starttls" {
					return
				}
				up.say("220 go\n")
				up.acceptTLS(nil)
				up.hears("EHLO a")
			}()
			b.client.hears("421 4.4.2 …")
			wantFields(t, b.record(), map[string]string{"verdict": "defer", "reason": "upstream-lost"})
		})
	}
}

// Each pipelined reply has the time of a command from when it is its turn.
func TestASlowUpstreamHasTheTimeOfACommandForEachOfManyPipelined(t *testing.T) {
	b := newBench(t, options{edit: func(s *Snapshot) { s.Timeouts.Command = 600 * time.Millisecond }})
	up := b.greeted(true, "PIPELINING")
	b.client.say("MAIL FROM:<a@x.example>\nRCPT TO:<b@x.example>\nRCPT TO:<c@x.example>\nRCPT TO:<d@x.example>\n")
	up.hears("MAIL FROM:<a@x.example>", "RCPT TO:<b@x.example>", "RCPT TO:<c@x.example>", "RCPT TO:<d@x.example>")
	for range 4 {
		time.Sleep(250 * time.Millisecond)
		io.WriteString(up.conn, "250 ok\r\n")
	}
	b.client.hears("250 ok", "250 ok", "250 ok", "250 ok")
}

// A client that is slow to answer 334 is not the upstream's fault.
func TestASlowClientWithinAUTHIsNotBlamedOnTheUpstream(t *testing.T) {
	b := newBench(t, options{edit: func(s *Snapshot) { s.Timeouts.Command = 600 * time.Millisecond }})
	up := b.greeted(true, "AUTH LOGIN")
	b.client.say("STARTTLS\n")
	b.client.hears("220 2.0.0 …")
	if err := b.client.startTLS(nil); err != nil {
		t.Fatal(err)
	}
	b.client.say("EHLO client.example\n")
	b.client.reply()
	b.client.say("AUTH LOGIN\n")
	up.hears("AUTH LOGIN")
	time.Sleep(400 * time.Millisecond)
	up.say("334 VXNlcm5hbWU6\n")
	b.client.hears("334 VXNlcm5hbWU6")
	time.Sleep(400 * time.Millisecond) // less than a client may take
	b.client.say("dXNlcg==\n")
	up.hears("dXNlcg==")
	up.say("235 ok\n")
	b.client.hears("235 ok")
}

// A client that goes away within AUTH.
func TestAClientGoneWithinAUTHEndsTheSessionAtOnce(t *testing.T) {
	b := newBench(t, options{edit: func(s *Snapshot) { s.Timeouts.Command = 2 * time.Second }})
	up := b.greeted(true, "AUTH LOGIN")
	b.client.say("STARTTLS\n")
	b.client.hears("220 2.0.0 …")
	if err := b.client.startTLS(nil); err != nil {
		t.Fatal(err)
	}
	b.client.say("EHLO client.example\n")
	b.client.reply()
	b.client.say("AUTH LOGIN\n")
	up.hears("AUTH LOGIN")
	up.say("334 VXNlcm5hbWU6\n")
	b.client.hears("334 VXNlcm5hbWU6")
	b.client.conn.Close()
	wantFields(t, b.record(), map[string]string{"verdict": "allow", "reason": "", "end": "client closed"})
}

// Memory that a client can make grow: refused recipients of one transaction.
func TestRefusedRecipientsAreBounded(t *testing.T) {
	b := newBench(t, options{noVerify: true, rules: []enforce.Rule{
		{Name: "partner", ToDomains: []string{"*.partner.example"}, TLS: enforce.Forced, Verify: enforce.VerifyCA}}})
	up := b.greeted(true)
	b.client.say("MAIL FROM:<a@x.example>\n")
	up.hears("MAIL FROM:<a@x.example>")
	up.say("250 ok\n")
	b.client.hears("250 ok")
	const rounds, each = 100, 50
	for i := range rounds {
		var text strings.Builder
		for j := range each {
			fmt.Fprintf(&text, "RCPT TO:<a@%s%d.partner.example>\n", strings.Repeat("l", 50), i*each+j)
		}
		b.client.say(text.String())
		for range each {
			b.client.line()
		}
	}
	b.client.conn.Close()
	b.record()
	if n := len(b.session.rec.Transactions[0].Refused); n > 2*b.session.snap.Limits.Recipients {
		t.Errorf("%d refused recipients kept in one transaction, limits.recipients is %d", n, b.session.snap.Limits.Recipients)
	}
}

// No address of the inside in a reply.
func TestAReplyDoesNotNameTheAddressBehindAFront(t *testing.T) {
	client, up, _, end := manual(t, []enforce.Rule{{Name: "all", TLS: enforce.Forced}}, "127.0.0.3")
	defer end()
	up[0].say("220 welcome\n")
	client.hears("220 welcome")
	client.say("EHLO a\n")
	up[0].hears("EHLO a")
	up[0].say("250 hi\n")
	if got := client.line(); strings.Contains(got, "127.0.0.3") {
		t.Errorf("the client of a front hears %q", got)
	}
}

// A session let live at the drain limit for the sake of one reply ends with it.
func TestASessionSparedAtTheDrainLimitEndsWithThatReply(t *testing.T) {
	b := newBench(t, options{})
	up := b.greeted(true, "PIPELINING")
	inData(b, up)
	b.client.say("x\n.\nMAIL FROM:<c@x.example>\nRCPT TO:<d@x.example>\nDATA\n")
	up.octets("x\r\n.\r\n")
	up.hears("MAIL FROM:<c@x.example>", "RCPT TO:<d@x.example>", "DATA")
	b.session.Drain()
	b.session.Abort() // spared: the reply to a whole message is out
	up.say("250 ok\n250 ok\n250 ok\n354 go\n")
	b.client.hears("250 ok")
	start := time.Now()
	select {
	case <-b.done:
	case <-time.After(3 * time.Second):
		t.Errorf("the session still runs %s past the drain limit, in a message begun after it", time.Since(start).Round(time.Second))
	}
}

// EHLO after a refused BDAT LAST reaches the upstream, which may still have the envelope.
func TestEHLOBehindARefusedLastChunkIsAReset(t *testing.T) {
	b := newBench(t, options{})
	up := b.greeted(true, "PIPELINING", "CHUNKING")
	b.client.say("MAIL FROM:<a@x.example>\nRCPT TO:<b@x.example>\nBDAT 3 LAST\nx\n")
	up.hears("MAIL FROM:<a@x.example>", "RCPT TO:<b@x.example>", "BDAT 3 LAST", "x")
	up.say("250 ok\n550 no\n503 5.5.1 no valid recipients\n")
	b.client.hears("250 ok", "550 no", "503 5.5.1 …")
	b.client.say("EHLO client.example\nNOOP\n")
	if got := up.line(); got != "EHLO client.example" {
		t.Errorf("the upstream, with a sender still open, hears %q", got)
	}
}

// The same when observing: the upstream's word stands between the client's
// hello and the handshake that it then has with the upstream itself.
func TestNothingInClearBeforeAHandshakeIsPassedThrough(t *testing.T) {
	b := newBench(t, options{edit: func(s *Snapshot) { s.Observe = true }})
	up := b.greeted(true)
	b.client.say("STARTTLS\n")
	b.client.hears("220 2.0.0 …")
	up.say("421 4.4.2 mx.example.net idle too long\n")
	time.Sleep(50 * time.Millisecond)
	ended := make(chan error, 1)
	go func() {
		c := tls.Client(b.client.raw, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10})
		ended <- c.Handshake()
	}()
	defer func() { t.Logf("the client's handshake: %v", <-ended) }()
	select {
	case again := <-b.servers:
		again.say("220 mx.example.net ESMTP\n")
		again.hears("EHLO client.example")
		again.say("250-mx.example.net\n250 STARTTLS\n")
		again.hears("STARTTLS")
		again.say("220 go\n")
		if err := again.acceptTLS(&tls.Config{MinVersion: tls.VersionTLS10}); err != nil {
			t.Errorf("the handshake passed through: %v", err)
		}
	case <-time.After(3 * time.Second):
		t.Error("the session is not passed through")
	}
}

// What is no address literal (RFC 5321 §4.1.3) does not get round a rule:
// sendmail and others take [name] for the host of that name.
func TestAHostNameInBracketsIsNoLiteral(t *testing.T) {
	b := newBench(t, options{noVerify: true, rules: []enforce.Rule{
		{Name: "partner", ToDomains: []string{"partner.example"}, TLS: enforce.Forced, Verify: enforce.VerifyCA}}})
	up := b.greeted(true)
	b.client.say("MAIL FROM:<a@x.example>\n")
	up.hears("MAIL FROM:<a@x.example>")
	up.say("250 ok\n")
	b.client.hears("250 ok")
	b.client.say("RCPT TO:<b@[partner.example]>\nNOOP\n")
	if got := up.line(); got != "NOOP" {
		t.Errorf("past the forced rule for partner.example: %q", got)
	}
}

// Local parts are never logged.
func TestNoLocalPartInHELOAndBanner(t *testing.T) {
	b := newBench(t, options{})
	up := b.server()
	up.say("220 mx.example.net questions to jane.doe@mx.example.net\n")
	b.client.line()
	b.client.say("EHLO john.doe@pc.example\n")
	up.hears("EHLO john.doe@pc.example")
	up.say("250 mx.example.net\n")
	b.client.reply()
	b.client.conn.Close()
	r := b.record()
	for _, path := range []string{"client.helo", "upstream.banner"} {
		if got := field(r, path); strings.Contains(got, ".doe@") {
			t.Errorf("%s is %q", path, got)
		}
	}
}

// What a peer says below its own TLS is not taken for something else that ended
// the connection.
func TestWordsInClearOnAConnectionInTLSAreAFaultOfTheWire(t *testing.T) {
	t.Run("client", func(t *testing.T) {
		b := newBench(t, options{})
		b.greeted(true)
		b.client.say("STARTTLS\n")
		b.client.hears("220 2.0.0 …")
		if err := b.client.startTLS(nil); err != nil {
			t.Fatal(err)
		}
		io.WriteString(b.client.raw, "MAIL FROM:<a@x.example>\r\n")
		wantFields(t, b.record(), map[string]string{"verdict": "reject", "reason": "protocol-error", "end": "protocol error", "client_tls.state": "ok"})
	})
	t.Run("server", func(t *testing.T) {
		b := newBench(t, options{})
		up := b.greeted(true)
		io.WriteString(up.raw, "250 ok\r\n")
		b.client.hears("421 4.5.2 mx.example.net: the TLS of the server cannot be followed (protocol-error) …")
		wantFields(t, b.record(), map[string]string{"verdict": "defer", "reason": "protocol-error", "end": "upstream protocol"})
	})
}
