package enforce

import (
	"crypto/tls"
	"testing"
)

func TestAHeldClientInClearIsRefusedByWhatItOffered(t *testing.T) {
	const detail = "your last TLS handshake with this server offered TLS 1.0, which is below TLS 1.2"
	inClear := good()
	inClear.Client = Leg{State: StateNone}
	inClear.Held = &Hold{Offered: tls.VersionTLS10}
	secure := good()
	secure.Held = inClear.Held
	unknown := inClear
	unknown.Held = nil
	required, logged := Rule{Name: "r", ClientTLS: ClientRequired}, Rule{Name: "r", ClientTLS: ClientRequired, OnViolation: OnViolationLog}
	for _, tc := range []struct {
		name     string
		rule     Rule
		envelope *Rule
		holdFor  bool
		facts    Facts
		stage    Stage
		action   Action
		want     Reason
	}{
		{"where the rule demands TLS", required, nil, false, inClear, AtMail, Defer, ClientTLSTooLow},
		{"where an envelope rule does", Rule{}, &required, false, inClear, AtRcpt, Defer, ClientTLSTooLow},
		{"where hold_for has the client", Rule{}, nil, true, inClear, AtMail, Defer, ClientTLSTooLow},
		{"in the manner of the connection's rule", Rule{OnViolation: OnViolationReject}, nil, true, inClear, AtMail, Reject, ClientTLSTooLow},
		{"which cannot only log it", Rule{OnViolation: OnViolationLog}, nil, true, inClear, AtMail, Defer, ClientTLSTooLow},
		{"but its own demand it can", logged, nil, false, inClear, AtMail, Allow, ClientTLSTooLow},
		{"not before MAIL", required, nil, true, inClear, AfterUpstreamTLS, Allow, ""},
		{"not with TLS", required, nil, true, secure, AtMail, Allow, ""},
		{"not where nobody asks", Rule{}, nil, false, inClear, AtMail, Allow, ""},
		{"not one that is not held", Rule{}, nil, true, unknown, AtMail, Allow, ""},
		{"who is told of the rule", required, nil, true, unknown, AtMail, Defer, ClientTLSRequired},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := Decide(Question{Stage: tc.stage, Connection: somewhere, Floor: tls.VersionTLS12, Rule: &tc.rule,
				Envelope: tc.envelope, Facts: tc.facts, HoldFor: tc.holdFor})
			if v.Action != tc.action || v.Reason != tc.want || tc.want == ClientTLSTooLow && v.Detail != detail {
				t.Errorf("%s %s %q", v.Action, v.Reason, v.Detail)
			}
		})
	}
}

func TestWhoIsWorthRemembering(t *testing.T) {
	p := mustCompile(t,
		Rule{Name: "branch", FromNetworks: networks("10.1.0.0/16"), ClientTLS: ClientRequired, Expires: noon},
		Rule{Name: "partner", FromDomains: []string{"x.example"}, FromNetworks: networks("10.2.0.0/16"), ClientTLS: ClientVerified},
	)
	held, err := p.HoldingFor(networks("10.3.0.0/16"))
	if err != nil {
		t.Fatal(err)
	}
	for client, want := range map[string][2]bool{
		"10.1.0.1": {true, false}, "10.2.0.1": {true, false}, "10.3.0.1": {true, true}, "::ffff:10.3.0.1": {true, true}, "10.4.0.1": {false, false},
	} {
		c := conn(client, "192.0.2.1")
		if may, for_ := held.MayHold(c, noon.Add(-1)), held.HoldsFor(c); may != want[0] || for_ != want[1] {
			t.Errorf("%s: %v %v", client, may, for_)
		}
	}
	if held.MayHold(conn("10.1.0.1", "192.0.2.1"), noon) {
		t.Error("a rule that has expired")
	}
	if p.HoldsFor(conn("10.3.0.1", "192.0.2.1")) {
		t.Error("the policy that it was made of has changed")
	}
	for _, all := range [][]string{{"0.0.0.0/0"}, {"::/0"}, {"0.0.0.0/1", "128.0.0.0/1"}} {
		if _, err := p.HoldingFor(networks(all...)); err == nil {
			t.Errorf("%q leaves nobody out", all)
		}
	}
}
