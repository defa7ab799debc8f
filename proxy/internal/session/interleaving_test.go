package session

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"pgregory.net/rapid"

	"postern/enforce"
)

// Random conversations, held with a reference server directly and through a
// session. What the client says is pipelined as far as RFC 2920 allows, and sent
// in pieces of any size.

// A step is one command of the client. Each has a number of its own in it, so
// that none can be taken for another.
type step struct {
	line    string
	content string // behind 354, or behind the line of BDAT
	wait    bool   // all replies are waited for before anything else is said
}

func drawSteps(t *rapid.T) []step {
	groups := rapid.SliceOfN(rapid.SampledFrom([]string{"MAIL RCPT DATA", "MAIL RCPT LAST", "MAIL RCPT RCPT BDAT LAST", "MAIL", "RCPT", "DATA", "BDAT", "LAST",
		"RSET", "NOOP", "HELP", "VRFY", "XYZZY", "EHLO", "HELO", "STARTTLS EHLO", "STARTTLS", "AUTH", "AUTH", "QUIT"}), 1, 12).Draw(t, "commands")
	var steps []step
	for n, kind := range strings.Fields(strings.Join(groups, " ")) {
		no := "" // what the reference server takes for a reason to refuse
		if rapid.IntRange(0, 6).Draw(t, "refused") == 6 {
			no = "no-"
		}
		at := rapid.SampledFrom([]string{"@x.example>", "@x.example>", "@x.example>", verdictDomain}).Draw(t, "domain")
		s := step{line: kind, wait: rapid.IntRange(0, 3).Draw(t, "wait") == 3}
		switch kind {
		case "MAIL":
			s.line = fmt.Sprintf("MAIL FROM:<%sa%d%s", no, n, at)
		case "RCPT":
			s.line = fmt.Sprintf("RCPT TO:<%sb%d%s", no, n, at)
		case "DATA":
			s.content = fmt.Sprintf("%smessage %d\r\n..\r\n\r\n.\r\n", no, n)
		case "BDAT", "LAST":
			s.content = fmt.Sprintf("%schunk %d\r\n.\r\n", no, n)
			s.line = fmt.Sprintf("BDAT %d", len(s.content))
			if kind == "LAST" {
				s.line += " LAST"
			}
		case "EHLO", "HELO":
			s.line, s.wait = kind+" client.example", true
		case "STARTTLS":
			s.wait = true
		case "AUTH":
			s.line, s.wait = "AUTH LOGIN "+no, true
			s.content = rapid.SampledFrom([]string{"user\r\npass\r\n", "user\r\n*\r\n", "*\r\n"}).Draw(t, "dialogue")
		case "NOOP", "VRFY", "XYZZY", "HELP":
			s.line = fmt.Sprintf("%s %d", kind, n)
		}
		steps = append(steps, s)
	}
	return steps
}

// A conversation is a talker, a reference and, unless they speak directly, the
// session between them.
type conversation struct {
	client *talker
	server *reference
	held   *Session
	log    *logBuffer
}

func newConversation(t *testing.T, through bool, pieces []int) *conversation {
	near, far := tcpPair(t)
	c := &conversation{log: new(logBuffer)}
	c.client = &talker{conn: near.(*net.TCPConn), pieces: pieces, event: -1}
	c.server = &reference{conn: far.(*net.TCPConn), cut: -1, judges: true,
		tls: &tls.Config{Certificates: []tls.Certificate{*testCertificate("reference.example")}}}
	if !through {
		return c
	}
	ours, theirs := tcpPair(t)
	c.server.conn, c.server.judges = theirs.(*net.TCPConn), false
	demand := enforce.Rule{TLS: enforce.Forced, Verify: enforce.VerifyName, Names: []string{"other.example"}, OnViolation: enforce.OnViolationReject}
	from, to := demand, demand
	from.Name, from.FromDomains = "from", []string{"verdict.example"}
	to.Name, to.ToDomains = "to", []string{"verdict.example"}
	policy, errs := enforce.Compile([]enforce.Rule{from, to}, tls.VersionTLS12)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	limit := 10 * time.Second
	snap := &Snapshot{
		Policy:      policy,
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return testCertificate("edge.example"), nil },
		Verify: func(string, []*x509.Certificate, x509.ExtKeyUsage, time.Time) (enforce.ChainResult, []*x509.Certificate) {
			return enforce.ChainResult{Verified: true}, nil
		},
		Limits:   Limits{Recipients: 100, Line: 512, ReplyLines: 16},
		Timeouts: Timeouts{Connect: limit, Handshake: limit, Command: limit, Data: limit, Final: limit}}
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{MessageKey: "msg"}), zapcore.AddSync(c.log), zapcore.DebugLevel))
	dial := func(context.Context, netip.AddrPort) (net.Conn, error) { return ours, nil }
	c.held = New(snap, Arrival{Conn: far, Client: netip.MustParseAddrPort("192.0.2.1:1"), Upstream: netip.MustParseAddrPort("192.0.2.2:25")}, dial, log)
	return c
}

// hold has the conversation and waits until nobody speaks any more.
func (c *conversation) hold(t *rapid.T, steps []step) {
	ended := make(chan struct{}, 2)
	go func() { c.server.serve(); ended <- struct{}{} }()
	if c.held != nil {
		go func() { c.held.Run(); ended <- struct{}{} }()
	} else {
		ended <- struct{}{}
	}
	c.client.talk(steps)
	c.client.conn.Close()
	for range 2 {
		select {
		case <-ended:
		case <-time.After(8 * time.Second):
			t.Fatal("the session does not end")
		}
	}
	if n := strings.Count(c.log.String(), `"msg":"session"`); c.held != nil && (n != 1 || strings.Contains(c.log.String(), "crashed")) {
		t.Fatalf("%d records: %s", n, c.log.String())
	}
}

// What a client hears and a server gets through a session is what they would
// have without it; only what the session can answer itself is left out.
func TestPipelinedCommandsAreAnsweredAsTheyWouldBeWithoutASession(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := drawSteps(rt)
		pieces := rapid.SliceOfN(rapid.IntRange(1, 60), 1, 8).Draw(rt, "pieces")
		direct, through := newConversation(t, false, []int{1000}), newConversation(t, true, pieces)
		direct.client.half = rapid.Bool().Draw(rt, "half")
		through.client.half = direct.client.half
		direct.hold(rt, steps)
		through.hold(rt, steps)
		compare(rt, steps, direct, through)
		for _, c := range []*conversation{direct, through} {
			if diff := cmp.Diff(c.client.envelopes, c.server.envelopes); diff != "" {
				rt.Errorf("messages (- as the client was told, + as the server has them): %s", diff)
			}
		}
		heard := through.server.heard
		if len(heard) > 1 && heard[1] == "STARTTLS" {
			heard = heard[2:] // the way to the server was secured first
		}
		if n := len(heard); n > 0 && heard[n-1] == "QUIT" && through.client.half {
			heard = heard[:n-1] // for a client that went without
		}
		if extra := notWithin(heard, direct.server.heard); extra != "" {
			rt.Errorf("the server hears %q twice or out of order:\n%q, directly\n%q", extra, heard, direct.server.heard)
		}
		if strings.Contains(strings.Join(heard, ""), verdictDomain) {
			rt.Errorf("the server hears of what was refused: %q", heard)
		}
	})
}

// compare holds the replies that a client heard through a session against those
// it heard directly.
func compare(t *rapid.T, steps []step, direct, through *conversation) {
	want, got := direct.client, through.client
	for i := range min(len(want.codes), len(got.codes)) {
		switch {
		case got.codes[i] == want.codes[i]:
			// One that is the server's own is the one to this very command.
			if strings.HasSuffix(got.texts[i], ")") && !strings.Contains(want.texts[i], "client.example") && got.texts[i] != want.texts[i] {
				t.Errorf("%+v\n%q is heard for %q", steps, got.texts[i], want.texts[i])
			}
		case got.codes[i] == 550 && want.codes[i] == 503:
			// The rule says no to what the server would have, too.
		case direct.server.broken && (got.codes[i] == 503 || got.codes[i] == 421):
			// Where the server may hold an envelope that was not judged, as it does
			// behind a chunk that it refused (RFC 3030 §2), the session answers in
			// its place, or ends. From here on they are two conversations.
			return
		default:
			t.Errorf("%+v\ncodes (- directly, + through a session): %s", steps, cmp.Diff(want.codes, got.codes))
			return
		}
	}
	if len(got.codes) != len(want.codes) {
		t.Errorf("%+v\n%d replies are heard directly and %d through a session: %q", steps, len(want.codes), len(got.codes), got.texts)
	}
}

// notWithin returns the first of some that does not follow, in all, those before
// it; "" when there is none. A HELO goes up as EHLO.
func notWithin(some, all []string) string {
	for _, s := range some {
		i := slices.IndexFunc(all, func(have string) bool {
			return have == s || have == "HELO client.example" && s == "EHLO client.example"
		})
		if i < 0 {
			return s
		}
		all = all[i+1:]
	}
	return ""
}

// Wherever a session is cut short, the client hears of every message that was
// accepted while it listened, and of no other; and the session ends.
func TestASessionCutShortAnywhereTellsOfWhatWasAcceptedAndOfNothingElse(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := drawSteps(rt)
		c := newConversation(t, true, rapid.SliceOfN(rapid.IntRange(1, 60), 1, 8).Draw(rt, "pieces"))
		listens := true
		c.server.slow = time.Duration(rapid.IntRange(0, 3).Draw(rt, "slow")) * time.Millisecond
		cut := rapid.SampledFrom([]string{"drain", "abort", "drain and abort", "client ends sending", "client closes",
			"server closes", "server resets", "server says 421"}).Draw(rt, "cut")
		at := rapid.IntRange(0, 40).Draw(rt, "at")
		c.client.event, c.server.cut = at, -1
		switch cut {
		case "drain":
			c.client.before = func(*talker) { c.held.Drain() }
		case "abort":
			c.client.before = func(*talker) { go c.held.Abort() }
		case "drain and abort":
			c.client.before = func(*talker) { c.held.Drain(); go c.held.Abort() }
		case "client ends sending":
			c.client.before = func(t *talker) { t.mute = true; t.conn.CloseWrite() }
		case "client closes":
			listens = false
			c.client.before = func(t *talker) { t.mute = true; t.conn.Close() }
		case "server closes":
			c.server.how = func(s *reference) {}
		case "server resets":
			c.server.how = func(s *reference) { s.conn.SetLinger(0) }
		case "server says 421":
			c.server.how = func(s *reference) { io.WriteString(s.conn, "421 bye\r\n") }
		}
		if strings.HasPrefix(cut, "server") {
			c.client.event, c.server.cut = -1, at
		}
		c.hold(rt, steps)
		if false_ := notWithin(c.client.marks, c.server.given); false_ != "" {
			rt.Errorf("the client hears of %s, the server accepted %q", false_, c.server.given)
		}
		if lost := notWithin(c.server.given, c.client.marks); lost != "" && listens {
			rt.Errorf("the server accepted %s, the client hears of %q\n%s", lost, c.client.marks, c.log.String())
		}
	})
}
