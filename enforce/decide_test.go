package enforce

import (
	"crypto/tls"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

var somewhere = Connection{Client: netip.MustParseAddr("10.1.0.2"), Upstream: netip.MustParseAddr("203.0.113.5")}

func chainOf(r ChainResult) func(string) ChainResult {
	return func(string) ChainResult { return r }
}

// good are the facts of a session with nothing to complain of.
func good() Facts {
	return Facts{
		Upstream: Leg{State: StateOK, Version: tls.VersionTLS13, Cipher: tls.TLS_AES_128_GCM_SHA256,
			Certificate: &Certificate{DNSNames: []string{"mx.partner.example"}, SHA256: [32]byte{1}, SPKISHA256: [32]byte{2}},
			Chain:       chainOf(ChainResult{Verified: true})},
		Client: Leg{State: StateOK, Version: tls.VersionTLS12, Cipher: tls.TLS_RSA_WITH_AES_128_CBC_SHA,
			Certificate: &Certificate{DNSNames: []string{"out.partner.example"}},
			Chain:       chainOf(ChainResult{Verified: true})},
		RequireTLSOffered: true,
	}
}

func TestEachDemandFailsForItsOwnReason(t *testing.T) {
	const floor = tls.VersionTLS12
	for _, tc := range []struct {
		name   string
		rule   Rule
		facts  func(*Facts)
		stage  Stage
		want   Reason
		detail string
	}{
		{name: "nothing wrong", rule: Rule{TLS: Forced, Verify: VerifyName, Names: []string{"mx.partner.example"}, MinVersion: tls.VersionTLS13, ForwardSecrecy: true, ClientTLS: ClientVerified}},
		{name: "not offered, opportunistic", facts: func(f *Facts) { f.Upstream = Leg{State: StateNone, Failure: StartTLSNotOffered} }},
		{name: "not offered, forced", rule: Rule{TLS: Forced}, facts: func(f *Facts) { f.Upstream = Leg{State: StateNone, Failure: StartTLSNotOffered} }, want: StartTLSNotOffered},
		{name: "refused", facts: func(f *Facts) { f.Upstream = Leg{State: StateFailed, Failure: StartTLSRefused} }, want: StartTLSRefused},
		{name: "fell back, forced", rule: Rule{TLS: Forced}, facts: func(f *Facts) { f.Upstream = Leg{State: StateNone, Failure: TLSHandshakeFailed} }, want: TLSHandshakeFailed},
		{name: "chose TLS 1.0", facts: func(f *Facts) { f.Upstream = Leg{State: StateFailed, Version: tls.VersionTLS10} }, want: TLSVersionTooLow, detail: "TLS 1.0 is below TLS 1.2"},
		{name: "negotiated TLS 1.1", facts: func(f *Facts) { f.Upstream.Version = tls.VersionTLS11 }, want: TLSVersionTooLow, detail: "TLS 1.1 is below TLS 1.2"},
		{name: "alert protocol_version", facts: func(f *Facts) { f.Upstream = Leg{State: StateFailed, VersionRefused: true} }, want: TLSVersionTooLow},
		{name: "handshake failed", facts: func(f *Facts) { f.Upstream = Leg{State: StateFailed} }, want: TLSHandshakeFailed},
		{name: "version not known", facts: func(f *Facts) { f.Upstream.Version = 0 }, want: TLSVersionTooLow},
		{name: "injection", facts: func(f *Facts) { f.Upstream = Leg{State: StateFailed, Failure: StartTLSInjection} }, want: StartTLSInjection},
		{name: "below the rule's version", rule: Rule{MinVersion: tls.VersionTLS13}, facts: func(f *Facts) { f.Upstream.Version = tls.VersionTLS12 }, want: TLSVersionTooLow, detail: "TLS 1.2 is below TLS 1.3"},
		{name: "cipher", rule: Rule{Ciphers: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384}}, facts: func(f *Facts) {
			f.Upstream.Version, f.Upstream.Cipher = tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
		}, want: TLSCipherNotAllowed, detail: "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 is not allowed"},
		{name: "a list of TLS 1.2 suites does not bind TLS 1.3", rule: Rule{Ciphers: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384}}},
		{name: "no forward secrecy", rule: Rule{ForwardSecrecy: true}, facts: func(f *Facts) {
			f.Upstream.Version, f.Upstream.Cipher = tls.VersionTLS12, tls.TLS_RSA_WITH_AES_128_GCM_SHA256
		}, want: TLSNoForwardSecrecy},
		{name: "untrusted", rule: Rule{TLS: Forced, Verify: VerifyCA}, facts: func(f *Facts) {
			f.Upstream.Chain = chainOf(ChainResult{Reason: CertNotTrusted, Detail: "unknown authority"})
		}, want: CertNotTrusted, detail: "unknown authority"},
		{name: "expired", rule: Rule{TLS: Forced, Verify: VerifyCA}, facts: func(f *Facts) { f.Upstream.Chain = chainOf(ChainResult{Reason: CertExpired}) }, want: CertExpired},
		{name: "nothing to verify", rule: Rule{TLS: Forced, Verify: VerifyCA}, facts: func(f *Facts) { f.Upstream.Certificate, f.Upstream.Chain = nil, nil }, want: CertNotTrusted},
		{name: "wrong name", rule: Rule{TLS: Forced, Verify: VerifyName, Names: []string{"mx.other.example"}}, want: CertNameMismatch, detail: "the certificate is for mx.partner.example"},
		{name: "fingerprint", rule: Rule{TLS: Forced, Verify: VerifyFingerprint, Fingerprints: []Fingerprint{{SHA256: [32]byte{2}}}}, want: CertFingerprintMismatch},
		{name: "public key pinned", rule: Rule{TLS: Forced, Verify: VerifyFingerprint, Fingerprints: []Fingerprint{{SHA256: [32]byte{9}}, {SPKI: true, SHA256: [32]byte{2}}}}},
		{name: "no certificate to pin", rule: Rule{TLS: Forced, Verify: VerifyFingerprint, Fingerprints: []Fingerprint{{}}}, facts: func(f *Facts) { f.Upstream.Certificate = nil }, want: CertFingerprintMismatch},
		{name: "an unknown kind of verification", rule: Rule{TLS: Forced, Verify: 99}, want: CertNotTrusted},
		{name: "client in clear", rule: Rule{ClientTLS: ClientRequired}, facts: func(f *Facts) { f.Client = Leg{State: StateNone} }, want: ClientTLSRequired},
		{name: "client demands are due at MAIL", stage: AfterUpstreamTLS, rule: Rule{ClientTLS: ClientRequired}, facts: func(f *Facts) { f.Client = Leg{State: StateNone} }},
		{name: "client without certificate", rule: Rule{ClientTLS: ClientVerified}, facts: func(f *Facts) { f.Client.Certificate = nil }, want: ClientCertMissing},
		{name: "client untrusted", rule: Rule{ClientTLS: ClientVerified}, facts: func(f *Facts) { f.Client.Chain = nil }, want: ClientCertMismatch},
		{name: "client of another name", rule: Rule{ClientTLS: ClientVerified, ClientNames: []string{"*.other.example"}}, want: ClientCertMismatch},
		{name: "client below the floor", facts: func(f *Facts) { f.Client.Version = tls.VersionTLS10 }, want: ClientTLSTooLow},
		{name: "nothing known of the upstream leg", facts: func(f *Facts) { f.Upstream = Leg{} }, want: TLSHandshakeFailed},
		{name: "nothing known of the client leg", facts: func(f *Facts) { f.Client = Leg{} }, want: ClientHandshakeFailed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			facts := good()
			if tc.facts != nil {
				tc.facts(&facts)
			}
			if tc.stage == 0 {
				tc.stage = AtMail
			}
			tc.rule.Name = "r"
			v := Decide(Question{Stage: tc.stage, Connection: somewhere, Floor: floor, Rule: &tc.rule, Facts: facts})
			if v.Reason != tc.want || v.Refused() != (tc.want != "") || !strings.Contains(v.Detail, tc.detail) {
				t.Errorf("%s %q %q, want %q %q", v.Action, v.Reason, v.Detail, tc.want, tc.detail)
			}
			// The same as an envelope rule beside one that demands nothing. What an
			// acting key decides is settled by then.
			v = Decide(Question{Stage: AtRcpt, Connection: somewhere, Floor: floor, Rule: &Rule{Name: "c"}, Envelope: &tc.rule, Facts: facts})
			if tc.stage == AtMail && v.Reason != tc.want {
				t.Errorf("as an envelope rule: %q, want %q", v.Reason, tc.want)
			}
		})
	}
}

func TestTheZeroValuesRefuse(t *testing.T) {
	for stage := range AtRcpt + 3 {
		if !Decide(Question{Stage: stage}).Refused() {
			t.Errorf("nothing at all is allowed at stage %d", stage)
		}
		q := Question{Stage: stage, Connection: somewhere, Floor: tls.VersionTLS12, Rule: &Rule{}}
		if !Decide(q).Refused() && stage != AtConnect {
			t.Errorf("zero facts are allowed at stage %d", stage)
		}
		q.Facts, q.Floor = good(), tls.VersionTLS10
		if !Decide(q).Refused() {
			t.Errorf("a floor of TLS 1.0 is taken at stage %d", stage)
		}
	}
	if !(Verdict{}).Refused() {
		t.Error("the zero verdict allows")
	}
}

func TestTheOrderOfJudgementGivesTheReasonAndTheListGivesAll(t *testing.T) {
	facts := good()
	facts.Upstream.Version = tls.VersionTLS11
	facts.RequireTLSOffered = false
	facts.Upstream.Chain = chainOf(ChainResult{Reason: CertExpired})
	q := Question{Stage: AtRcpt, Connection: somewhere, Floor: tls.VersionTLS12, RequireTLS: true,
		Rule:     &Rule{Name: "connection", TLS: Forced, Verify: VerifyCA, OnViolation: OnViolationLog},
		Envelope: &Rule{Name: "envelope", TLS: Forced, Verify: VerifyName, Names: []string{"x.example"}, OnViolation: OnViolationReject},
		Facts:    facts}
	order := func(v Verdict) (reasons []string) {
		for _, f := range v.Failures {
			reasons = append(reasons, string(f.Reason)+" of "+f.Rule)
		}
		return reasons
	}
	v := Decide(q)
	if v.Action != Defer || v.Reason != TLSVersionTooLow {
		t.Errorf("the floor under a rule that logs: %s %s", v.Action, v.Reason)
	}
	if got, want := order(v), []string{"tls-version-too-low of ", "requiretls-not-possible of ", "cert-expired of connection", "cert-expired of envelope"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	q.Facts.Upstream.Version, q.RequireTLS = tls.VersionTLS12, false
	if v = Decide(q); v.Action != Reject || v.Rule != "envelope" || !v.Failures[0].Logged {
		t.Errorf("a logged failure before one that rejects: %s %+v", v.Action, v.Failures)
	}
	q.Envelope = nil
	if v = Decide(q); v.Action != Allow || v.Reason != CertExpired {
		t.Errorf("only logged: %s %s", v.Action, v.Reason)
	}
	q.Facts.Upstream = Leg{State: StateFailed}
	if v = Decide(q); v.Action != Defer {
		t.Errorf("a leg that is not there is let pass: %s", v.Action)
	}
}

func TestNoFallingBackFromWhatShowsAWeakVersion(t *testing.T) {
	cleartext := &Rule{OnHandshakeFailure: Cleartext}
	for _, tc := range []struct {
		rule *Rule
		leg  Leg
		want bool
	}{
		{cleartext, Leg{State: StateFailed, Failure: TLSHandshakeFailed}, true},
		{cleartext, Leg{State: StateFailed, Failure: StartTLSRefused}, true},
		{cleartext, Leg{State: StateFailed, Failure: TLSHandshakeFailed, Version: tls.VersionTLS12}, true},
		{cleartext, Leg{State: StateFailed, Failure: TLSHandshakeFailed, Version: tls.VersionTLS11}, false},
		{cleartext, Leg{State: StateFailed, Failure: TLSHandshakeFailed, VersionRefused: true}, false},
		{cleartext, Leg{State: StateFailed, Failure: StartTLSInjection}, false},
		{cleartext, Leg{State: StateOK}, false},
		{cleartext, Leg{}, false},
		{&Rule{}, Leg{State: StateFailed, Failure: TLSHandshakeFailed}, false},
		{&Rule{TLS: Forced, OnHandshakeFailure: Cleartext}, Leg{State: StateFailed, Failure: TLSHandshakeFailed}, false},
		{nil, Leg{State: StateFailed, Failure: TLSHandshakeFailed}, false},
	} {
		if got := MayFallBack(tc.rule, tc.leg, tls.VersionTLS12); got != tc.want {
			t.Errorf("%+v %+v: %v", tc.rule, tc.leg, got)
		}
	}
}

func TestAnOfferNarrowsAndNeverWidens(t *testing.T) {
	if got := Offer(&Rule{}); !slices.Equal(got, Offered()) {
		t.Errorf("%v", got)
	}
	for _, suite := range Offer(&Rule{ForwardSecrecy: true}) {
		if !strings.HasPrefix(tls.CipherSuiteName(suite), "TLS_ECDHE_") {
			t.Errorf("%s offered for forward secrecy", tls.CipherSuiteName(suite))
		}
	}
	if got := Offer(&Rule{Ciphers: []uint16{tls.TLS_RSA_WITH_RC4_128_SHA}}); len(got) != 0 || got == nil {
		t.Errorf("%v: an empty offer must not be nil, which is the default of crypto/tls", got)
	}
	for _, bad := range []string{"RC4", "3DES", "CBC_SHA256", "NULL"} {
		for _, suite := range Offered() {
			if strings.Contains(tls.CipherSuiteName(suite), bad) {
				t.Errorf("%s is offered", tls.CipherSuiteName(suite))
			}
		}
	}
}

func TestAnOfferIsWidenedOnlyWhereItCouldCostMailOrTLS(t *testing.T) {
	failed := Leg{State: StateFailed, Failure: TLSHandshakeFailed, NothingInCommon: true}
	for _, tc := range []struct {
		rule Rule
		leg  Leg
		want bool
	}{
		{Rule{ForwardSecrecy: true, OnViolation: OnViolationLog}, failed, true},
		{Rule{ForwardSecrecy: true, OnHandshakeFailure: Cleartext}, failed, true},
		{Rule{ForwardSecrecy: true}, failed, false},
		{Rule{OnHandshakeFailure: Cleartext}, failed, false},
		{Rule{ForwardSecrecy: true, OnHandshakeFailure: Cleartext}, Leg{State: StateFailed, Failure: TLSHandshakeFailed}, false},
		{Rule{ForwardSecrecy: true, OnHandshakeFailure: Cleartext}, Leg{State: StateOK, NothingInCommon: true}, false},
	} {
		if got := MayWiden(&tc.rule, tc.leg); got != tc.want {
			t.Errorf("%+v %+v: %v", tc.rule, tc.leg, got)
		}
	}
}

func TestEveryReasonHasItsCodes(t *testing.T) {
	for reason, want := range map[Reason][2]string{
		StartTLSNotOffered:    {"451 4.7.4", "550 5.7.4"},
		TLSVersionTooLow:      {"451 4.7.5", "550 5.7.5"},
		CertNameMismatch:      {"451 4.7.5", "550 5.7.5"},
		RequireTLSNotPossible: {"550 5.7.30", "550 5.7.30"},
		ClientTLSRequired:     {"451 4.7.0", "530 5.7.0"},
		BareNewline:           {"451 4.5.2", "550 5.5.2"},
		UpstreamUnreachable:   {"451 4.4.1", "550 5.4.1"},
		UpstreamLost:          {"451 4.4.2", "550 5.4.2"},
		Overload:              {"451 4.3.2", "550 5.3.2"},
	} {
		if got := [2]string{reason.Codes(Defer), reason.Codes(Reject)}; got != want {
			t.Errorf("%s: %q, want %q", reason, got, want)
		}
	}
	if ClientTLSRequired.Enhanced(Defer) != "4.7.0" || ClientTLSRequired.Enhanced(Reject) != "5.7.0" || RequireTLSNotPossible.Enhanced(Defer) != "5.7.30" {
		t.Error("enhanced codes of reasons with codes of their own")
	}
	if Reason("never heard of").Codes(Defer) != "451 4.7.0" {
		t.Error("a reason without an entry")
	}
}
