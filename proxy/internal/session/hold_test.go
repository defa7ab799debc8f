package session

import (
	"crypto/tls"
	"net/netip"
	"testing"
	"time"

	"postern/enforce"
	"postern/enforce/memory"
)

// held is a memory of clients that several sessions of a test share.
type held struct{ memory.Holds }

func (h *held) Begin(c enforce.Connection, offered uint16) { h.Holds.Begin(c, offered, time.Now()) }
func (h *held) Find(c enforce.Connection) *enforce.Hold {
	return h.Holds.Find(c, time.Hour, time.Now())
}
func (h *held) Refused(c enforce.Connection, renew bool) {
	h.Holds.Refused(c, time.Hour, renew, time.Now())
}
func (h *held) Clear(c enforce.Connection) { h.Holds.Clear(c, time.Now()) }

// The bench's client and upstream.
var (
	benchConnection = enforce.Connection{Client: netip.MustParseAddr("10.1.0.2"), Upstream: netip.MustParseAddr("203.0.113.5")}
	benchNetwork    = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
)

// remembering has a session share h, under hold_for.
func remembering(t *testing.T, h *held, holdFor []netip.Prefix) func(*Snapshot) {
	return func(s *Snapshot) {
		s.Holds = h
		policy, err := s.Policy.HoldingFor(holdFor)
		if err != nil {
			t.Fatal(err)
		}
		s.Policy = policy
	}
}

var tooOld = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}

func TestAClientWhoseHandshakeFellBelowTheFloorIsRemembered(t *testing.T) {
	for _, tc := range []struct {
		name    string
		rules   []enforce.Rule
		holdFor []netip.Prefix
		client  *tls.Config
		begins  bool
	}{
		{"by hold_for", nil, benchNetwork, tooOld, true},
		{"by a rule", []enforce.Rule{{Name: "r", FromNetworks: benchNetwork, ClientTLS: enforce.ClientRequired}}, nil, tooOld, true},
		{"by an envelope rule", []enforce.Rule{{Name: "r", FromDomains: []string{"x.example"}, ClientTLS: enforce.ClientRequired}}, nil, tooOld, true},
		{"by nobody", nil, nil, tooOld, false},
		{"by another network", nil, []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")}, tooOld, false},
		{"but for no other failure", nil, benchNetwork, &tls.Config{ServerName: "other.example"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := new(held)
			b := newBench(t, options{rules: tc.rules, edit: remembering(t, h, tc.holdFor)})
			b.greeted(true)
			b.client.say("STARTTLS\n")
			b.client.hears("220 2.0.0 …")
			if err := b.client.startTLS(tc.client); err == nil {
				t.Fatal("the handshake succeeded")
			}
			b.client.raw.Close()
			record := b.record()
			hold := h.Find(benchConnection)
			if (hold != nil) != tc.begins || tc.begins && hold.Offered != tls.VersionTLS11 {
				t.Errorf("%+v", hold)
			}
			want := ""
			if tc.begins {
				want = "TLS 1.1"
			}
			wantFields(t, record, map[string]string{"client_tls.hold.offered": want})
		})
	}
}

func TestAHeldClientInClearIsToldWhatItOffered(t *testing.T) {
	const said = "your last TLS handshake with this server offered TLS 1.0, which is below TLS 1.2 (client-tls-too-low) […"
	for _, tc := range []struct {
		name    string
		rules   []enforce.Rule
		holdFor []netip.Prefix
		say     string
		hears   string
	}{
		{"by hold_for", nil, benchNetwork, "MAIL FROM:<a@x.example>", "451 4.7.5 mx.example.net: " + said},
		{"VRFY alike", nil, benchNetwork, "VRFY a", "451 4.7.5 mx.example.net: " + said},
		{"by a rule that rejects", []enforce.Rule{{Name: "r", FromNetworks: benchNetwork, ClientTLS: enforce.ClientVerified, OnViolation: enforce.OnViolationReject}},
			nil, "MAIL FROM:<a@x.example>", "550 5.7.5 mx.example.net: " + said},
		{"by an envelope rule", []enforce.Rule{{Name: "r", FromDomains: []string{"x.example"}, ClientTLS: enforce.ClientRequired}},
			nil, "MAIL FROM:<a@x.example>", "451 4.7.5 mx.example.net: " + said},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := new(held)
			h.Begin(benchConnection, tls.VersionTLS10)
			b := newBench(t, options{rules: tc.rules, edit: remembering(t, h, tc.holdFor)})
			b.greeted(true, "VRFY")
			b.client.say(tc.say + "\n")
			b.client.hears(tc.hears)
			b.client.say("QUIT\n")
			record := b.record()
			if hold := h.Find(benchConnection); hold == nil || hold.Refused != 1 {
				t.Errorf("%+v", hold)
			}
			wantFields(t, record, map[string]string{"reason": "client-tls-too-low", "client_tls.state": "none",
				"client_tls.hold.offered": "TLS 1.0", "client_tls.hold.refused": "1"})
		})
	}
}

func TestAHoldDoesNotConcernWhomItDoesNot(t *testing.T) {
	for _, tc := range []struct {
		name    string
		holdFor []netip.Prefix
		secure  bool
		to      netip.Addr // of the handshake that failed
	}{
		{"no rule and no hold_for", nil, false, benchConnection.Upstream},
		{"TLS that is good enough, which ends it", benchNetwork, true, benchConnection.Upstream},
		{"another destination", benchNetwork, false, netip.MustParseAddr("203.0.113.6")},
		{"TLS that is good enough, though nobody asks", nil, true, benchConnection.Upstream},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := new(held)
			failed := enforce.Connection{Client: benchConnection.Client, Upstream: tc.to}
			h.Begin(failed, tls.VersionTLS10)
			b := newBench(t, options{edit: remembering(t, h, tc.holdFor)})
			up := b.greeted(true)
			if tc.secure {
				b.client.say("STARTTLS\n")
				b.client.hears("220 2.0.0 …")
				if err := b.client.startTLS(nil); err != nil {
					t.Fatal(err)
				}
				b.client.say("EHLO client.example\n")
				b.client.reply()
			}
			b.client.say("MAIL FROM:<a@x.example>\n")
			up.hears("MAIL FROM:<a@x.example>")
			up.say("250 ok\n")
			b.client.hears("250 ok")
			if hold := h.Find(failed); (hold == nil) != tc.secure || hold != nil && hold.Refused != 0 {
				t.Errorf("%+v", hold)
			}
		})
	}
}

func TestAnObservedHoldIsRecordedAndNotSpoken(t *testing.T) {
	h := new(held)
	h.Begin(benchConnection, tls.VersionTLS10)
	share := remembering(t, h, benchNetwork)
	b := newBench(t, options{edit: func(s *Snapshot) { share(s); s.Observe = true }})
	up := b.greeted(true)
	b.client.say("MAIL FROM:<a@x.example>\n")
	up.hears("MAIL FROM:<a@x.example>")
	up.say("250 ok\n")
	b.client.hears("250 ok")
	b.client.raw.Close()
	wantFields(t, b.record(), map[string]string{"verdict": "defer", "reason": "client-tls-too-low", "client_tls.hold.refused": "1"})
}

func TestAHoldBelowAFloorThatIsLowerNowIsNone(t *testing.T) {
	h := new(held)
	h.Begin(benchConnection, tls.VersionTLS12)
	b := newBench(t, options{edit: remembering(t, h, benchNetwork)})
	up := b.greeted(true)
	b.client.say("MAIL FROM:<a@x.example>\n")
	up.hears("MAIL FROM:<a@x.example>")
	up.say("250 ok\n")
	b.client.hears("250 ok")
}

// A refusal for another reason, with a hold beside it, is none of the hold's.
func TestAHoldCountsItsOwnRefusals(t *testing.T) {
	h := new(held)
	h.Begin(benchConnection, tls.VersionTLS10)
	rules := []enforce.Rule{
		{Name: "c", FromNetworks: benchNetwork, ClientTLS: enforce.ClientRequired, OnViolation: enforce.OnViolationLog},
		{Name: "e", FromDomains: []string{"x.example"}, TLS: enforce.Forced, Verify: enforce.VerifyName, Names: []string{"other.example"}},
	}
	b := newBench(t, options{rules: rules, edit: remembering(t, h, nil)})
	b.greeted(true)
	b.client.say("MAIL FROM:<a@x.example>\n")
	b.client.hears("451 4.7.5 mx.example.net: the certificate is for …")
	if hold := h.Find(benchConnection); hold == nil || hold.Refused != 0 {
		t.Errorf("%+v", hold)
	}
}

// A client that is not offered STARTTLS is refused and counted, but could not end
// its hold, which is not renewed for that.
func TestAHoldIsNotRenewedWhereItsClientCouldNotEndIt(t *testing.T) {
	for name, secure := range map[string]bool{"STARTTLS is offered": true, "the way to the server is in clear": false} {
		t.Run(name, func(t *testing.T) {
			h := new(held)
			h.Holds.Begin(benchConnection, tls.VersionTLS10, time.Now().Add(-time.Minute))
			before := h.Find(benchConnection).Until
			b := newBench(t, options{edit: remembering(t, h, benchNetwork)})
			b.greeted(secure)
			b.client.say("MAIL FROM:<a@x.example>\n")
			b.client.hears("451 4.7.5 …")
			if hold := h.Find(benchConnection); hold.Refused != 1 || hold.Until.After(before) != secure {
				t.Errorf("%+v, before until %s", hold, before)
			}
		})
	}
}
