package enforce

import (
	"crypto/tls"
	"net/netip"
	"testing"
)

// seen are the facts of a session whose TLS was watched.
func seen(version, cipher, group uint16) Facts {
	l := Leg{State: StateWatched, Version: version, Cipher: cipher, Group: group}
	return Facts{Upstream: l, Client: l}
}

func TestALegThatIsWatchedIsJudgedByWhatWentInClear(t *testing.T) {
	const x25519, dheRSA, cbc3DES = 29, 0x009E, 0x000A
	ecdhe := tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
	networks := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for _, tc := range []struct {
		name  string
		rule  Rule
		facts Facts
		stage Stage
		want  Reason
		logs  bool
	}{
		{name: "TLS 1.3", facts: seen(tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256, x25519), rule: Rule{TLS: Forced, MinVersion: tls.VersionTLS13, ForwardSecrecy: true}},
		{name: "its certificate is not", facts: seen(tls.VersionTLS12, ecdhe, 0), rule: Rule{TLS: Forced, Verify: VerifyName, Names: []string{"a"}, Revocation: RevocationHard}},
		{name: "the client has TLS", stage: AtMail, facts: seen(tls.VersionTLS12, ecdhe, 0), rule: Rule{FromNetworks: networks, ClientTLS: ClientRequired}},
		{name: "below the floor", facts: seen(tls.VersionTLS11, cbc3DES, 0), want: TLSVersionTooLow},
		{name: "below the floor, though a rule only logs", facts: seen(tls.VersionTLS11, ecdhe, 0), rule: Rule{OnViolation: OnViolationLog}, want: TLSVersionTooLow},
		{name: "a version that nobody knows", facts: seen(0, ecdhe, 0), want: TLSVersionTooLow},
		{name: "below the rule", facts: seen(tls.VersionTLS12, ecdhe, 0), rule: Rule{MinVersion: tls.VersionTLS13}, want: TLSVersionTooLow},
		{name: "below the rule, which only logs", facts: seen(tls.VersionTLS12, ecdhe, 0), rule: Rule{MinVersion: tls.VersionTLS13, OnViolation: OnViolationLog}, want: TLSVersionTooLow, logs: true},
		{name: "a suite that is not listed", facts: seen(tls.VersionTLS12, ecdhe, 0), rule: Rule{Ciphers: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384}}, want: TLSCipherNotAllowed},
		{name: "a suite without encryption", facts: seen(tls.VersionTLS12, 0x003B, 0), rule: Rule{OnViolation: OnViolationLog}, want: TLSCipherNotAllowed},
		{name: "one of TLS 1.3 without encryption", facts: seen(tls.VersionTLS13, 0xC0B4, x25519), want: TLSCipherNotAllowed},
		{name: "no forward secrecy", facts: seen(tls.VersionTLS12, tls.TLS_RSA_WITH_AES_128_GCM_SHA256, 0), rule: Rule{ForwardSecrecy: true}, want: TLSNoForwardSecrecy},
		{name: "forward secrecy by a suite that Postern has not", facts: seen(tls.VersionTLS12, dheRSA, 0), rule: Rule{ForwardSecrecy: true}},
		{name: "TLS 1.3 resumed by its old key alone", facts: seen(tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256, 0), rule: Rule{ForwardSecrecy: true}, want: TLSNoForwardSecrecy},
	} {
		if tc.stage == stageUnknown {
			tc.stage = AfterUpstreamTLS
		}
		v := Decide(Question{Stage: tc.stage, Connection: somewhere, Floor: tls.VersionTLS12, Rule: &tc.rule, Facts: tc.facts})
		if v.Reason != tc.want || v.Refused() != (tc.want != "" && !tc.logs) || len(v.Failures) > 1 {
			t.Errorf("%s: %+v", tc.name, v)
		}
	}
}
