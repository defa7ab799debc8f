package session

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/zap"

	"postern/enforce"
)

// byHand makes a greeted session whose commands are given by the test, in the
// place of the goroutine that reads the client.
func byHand(t *testing.T) (s *Session, client, up *peer) {
	t.Helper()
	policy, errs := enforce.Compile([]enforce.Rule{{Name: "later", TLS: enforce.Off}}, tls.VersionTLS12)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	snap := &Snapshot{Policy: policy,
		Verify: func(string, []*x509.Certificate, x509.ExtKeyUsage, time.Time) (enforce.ChainResult, []*x509.Certificate) {
			return enforce.ChainResult{Verified: true}, nil
		},
		Limits:   Limits{Recipients: 100, Line: 2048, ReplyLines: 64},
		Timeouts: Timeouts{Connect: 5 * time.Second, Handshake: 5 * time.Second, Command: 5 * time.Second, Data: 5 * time.Second, Final: 5 * time.Second}}
	near, far := tcpPair(t)
	ours, theirs := tcpPair(t)
	s = New(snap, Arrival{Conn: ours, Client: netip.MustParseAddrPort("10.1.0.2:40000"), Upstream: netip.MustParseAddrPort("203.0.113.5:25")},
		func(context.Context, netip.AddrPort) (net.Conn, error) { return near, nil }, zap.NewNop())
	client, up = newPeer(t, "client", theirs), newPeer(t, "server", far)
	ready := make(chan bool)
	go func() { ready <- s.connect() && s.introduce() }()
	up.say("220 mx.example.net\n")
	client.hears("220 mx.example.net")
	client.say("EHLO a\n")
	up.hears("EHLO a")
	up.say("250-mx.example.net\n250 STARTTLS\n")
	if !<-ready {
		t.Fatal("the client is not greeted")
	}
	s.flushBoth()
	client.reply()
	t.Cleanup(func() {
		theirs.Close()
		s.Abort()
		s.finish()
	})
	return s, client, up
}

// noop passes a NOOP and its reply.
func noop(s *Session, client, up *peer) {
	client.t.Helper()
	s.forward([]byte("NOOP"), &expected{kind: plain})
	s.flushBoth()
	up.hears("NOOP")
	up.say("250 noop\n")
	client.hears("250 noop")
}

func TestTheUpstreamLegIsSecuredWhileThePumpIsHaltedAndNothingIsLost(t *testing.T) {
	s, client, up := byHand(t)
	noop(s, client, up)
	s.forward([]byte("HELP"), &expected{kind: plain})
	go func() {
		up.hears("HELP")
		up.say("214-one\n214 two\n")
		up.hears("STARTTLS")
		up.say("220 go\n")
		up.acceptTLS(nil)
		up.hears("EHLO a")
		up.say("250 mx.example.net\n")
		up.hears("NOOP")
		up.say("250 noop\n")
	}()
	if !s.haltPump() {
		t.Fatal("the session is over")
	}
	client.hears("214-one", "214 two")
	if ok, went := s.secure("a", enforce.Offered()); !ok || !went || s.facts.Upstream.State != enforce.StateOK {
		t.Fatalf("%v %v %+v", ok, went, s.facts.Upstream)
	}
	s.resumePump()
	s.forward([]byte("NOOP"), &expected{kind: plain})
	s.flushBoth()
	client.hears("250 noop")
}

func TestThePumpIsHaltedAgainAndAgain(t *testing.T) {
	s, client, up := byHand(t)
	for range 100 {
		for range 2 { // to halt what is halted does nothing
			if !s.haltPump() {
				t.Fatal("the session is over")
			}
		}
		go func() {
			up.hears("RSET")
			up.say("250 reset\n")
		}()
		if reply, ok := s.exchange("RSET"); !ok || string(reply.Raw) != "250 reset\r\n" {
			t.Fatalf("%q %v", reply.Raw, ok)
		}
		s.resumePump()
		noop(s, client, up)
	}
}

// Each ends the session; what was said is not the answer to the next command.
func TestWhatTheUpstreamSaysUnaskedAroundAHaltIsTheAnswerToNothing(t *testing.T) {
	const broken = "421 4.5.2 mx.example.net: upstream replied to nothing (protocol-error) […"
	for name, tc := range map[string]struct {
		before string
		ends   bool // the halt itself ends the session
		after  string
		hears  string
	}{
		"a part of a line before it":   {before: "25", ends: true, hears: broken},
		"a part of a reply before it":  {before: "250-one\r\n", ends: true, hears: broken},
		"a line too long before it":    {before: "250 " + string(make([]byte, 5000)), ends: true, hears: broken},
		"a reply within it":            {after: "250 one\r\n", hears: broken},
		"that it closes, within it":    {after: "421 bye\r\n", hears: "421 bye"},
		"a part of a reply within it":  {after: "250-one\r\n250 two\r\n", hears: broken},
		"what is no reply at all, too": {after: "\x16\x03\x01\r\n", hears: "421 4.5.2 …"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, client, up := byHand(t)
			if tc.before != "" {
				up.raws(tc.before)
				arrived(t, s)
			}
			if halted := s.haltPump(); halted == tc.ends {
				t.Fatalf("halted: %v", halted)
			}
			if !tc.ends {
				up.raws(tc.after)
				s.resumePump()
				<-s.dead
			}
			client.hears(tc.hears)
			if s.haltPump() {
				t.Error("a session that is over can be halted")
			}
		})
	}
}

// arrived waits until the pump has read something.
func arrived(t *testing.T, s *Session) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; {
		s.mu.Lock()
		s.halting = true
		s.upstream.SetReplyDeadline(time.Unix(1, 0))
		s.mu.Unlock()
		<-s.pumpDone
		rest := s.upstream.AtRest()
		s.mu.Lock()
		s.halting = false
		s.mu.Unlock()
		s.resumePump()
		if !rest {
			return
		}
		if time.Now().After(end) {
			t.Fatal("nothing arrives")
		}
	}
}

func TestAHaltedSessionEndsAtOnceWhenAborted(t *testing.T) {
	s, client, up := byHand(t)
	if !s.haltPump() {
		t.Fatal("the session is over")
	}
	done := make(chan bool)
	go func() {
		_, ok := s.exchange("STARTTLS")
		done <- ok
	}()
	up.hears("STARTTLS")
	s.Abort()
	if <-done {
		t.Error("a reply that nobody gave")
	}
	client.hears("421 4.3.2 …")
	if s.haltPump() {
		t.Error("a session that is over can be halted")
	}
}

func TestAHaltEndsWithASessionThatIsAbortedMeanwhile(t *testing.T) {
	for range 20 {
		s, _, _ := byHand(t)
		gone := make(chan struct{})
		go func() { defer close(gone); s.Abort() }()
		for s.haltPump() {
			s.resumePump()
		}
		<-gone
	}
}

func TestAnUpstreamLostWithinAHaltIsSaid(t *testing.T) {
	s, client, up := byHand(t)
	if !s.haltPump() {
		t.Fatal("the session is over")
	}
	up.raw.Close()
	if _, ok := s.exchange("STARTTLS"); ok {
		t.Error("a reply that nobody gave")
	}
	client.hears("421 4.4.2 mx.example.net: the connection to the server was lost (upstream-lost) […")
}
