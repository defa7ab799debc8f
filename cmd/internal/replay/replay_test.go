package replay

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"postern/cmd/internal/recorded"
	"postern/enforce"
)

var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// recording is a session of today that fell short of nothing.
func recording(edit func(*recorded.Record)) *recorded.Record {
	r := &recorded.Record{
		Time: "2026-11-25T11:00:00Z", Mode: "enforce", Rule: enforce.DefaultRule, Verdict: "allow", TLS: "may:TLSv1.3",
		Client: recorded.Peer{Address: "10.1.0.2"}, Upstream: recorded.Peer{Address: "203.0.113.7"}, ClientTLS: recorded.Leg{State: "none"},
		UpstreamTLS: recorded.Leg{State: "ok", Version: "TLS 1.3", Cipher: "TLS_AES_128_GCM_SHA256", SNI: "mx.partner.example", Verified: true, DANE: "none", MTASTS: "none",
			Certificate: &recorded.Certificate{Names: []string{"mx.partner.example"}, NotBefore: "2026-01-01T00:00:00Z", NotAfter: "2027-01-01T00:00:00Z"}},
		Transactions: []recorded.Transaction{{MailDomain: "hospital.example", RcptDomains: []string{"partner.example"}, Accepted: 1}},
	}
	if edit != nil {
		edit(r)
	}
	return r
}

func judge(t *testing.T, auto enforce.Auto, rules ...enforce.Rule) *Judge {
	t.Helper()
	for i := range rules {
		rules[i].Name = or(rules[i].Name, fmt.Sprint("r", i))
	}
	p, errs := enforce.Compile(rules, tls.VersionTLS12)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return NewJudge(p.Verifying(enforce.Verification{Auto: auto}), false, now)
}

func TestWhatARecordSaysAndDoesNotSayOfPartners(t *testing.T) {
	both := enforce.Auto{DANE: true, MTASTS: true}
	up := func(edit func(*recorded.Leg)) func(*recorded.Record) {
		return func(r *recorded.Record) { edit(&r.UpstreamTLS) }
	}
	refusedFor := func(reason enforce.Reason) func(*recorded.Record) {
		return func(r *recorded.Record) {
			r.Verdict, r.Reason, r.Stage, r.Rule = "defer", reason, "rcpt", enforce.DefaultRule
			r.Transactions[0] = recorded.Transaction{MailDomain: "hospital.example", Refused: []recorded.Refused{{Domain: "partner.example", Reason: reason}}}
		}
	}
	several := func(r *recorded.Record) {
		r.Transactions[0].RcptDomains = append(r.Transactions[0].RcptDomains, "other.example")
	}
	watched := func(version, cipher string) func(*recorded.Record) {
		return func(r *recorded.Record) {
			r.ClientTLS = recorded.Leg{State: "watched", Version: version, Cipher: cipher}
			r.UpstreamTLS = recorded.Leg{State: "watched", Version: version, Cipher: cipher, Group: "x25519"}
			r.Transactions = nil
		}
	}
	auto := func(r enforce.Rule) enforce.Rule { r.Auto = true; return r }
	dane := auto(enforce.Rule{TLS: enforce.Forced, Verify: enforce.VerifyDANE})
	sts := auto(enforce.Rule{TLS: enforce.Forced, Verify: enforce.VerifyMTASTS})
	to := func(r enforce.Rule) enforce.Rule { r.ToDomains = []string{"partner.example"}; return r }
	for _, tc := range []struct {
		what string
		edit func(*recorded.Record)
		auto enforce.Auto
		rule enforce.Rule
		want string // a change and why, of partner.example
	}{
		{"nothing is published", nil, both, auto(enforce.Rule{}), "same"},
		{"a rule for what is not", nil, both, dane, "newly refused dane-required"},
		{"records that matched", up(func(l *recorded.Leg) { l.DANE = "matched" }), both, dane, "same"},
		{"records that matched, and TLS is to be off", up(func(l *recorded.Leg) { l.DANE = "matched" }), both, auto(enforce.Rule{TLS: enforce.Off}), "newly refused starttls-not-offered"},
		{"a mismatch stays one", refusedFor(enforce.DANEMismatch), both, auto(enforce.Rule{}), "same dane-mismatch"},
		{"a mismatch that no longer binds", refusedFor(enforce.DANEMismatch), enforce.Auto{}, enforce.Rule{}, "newly allowed dane-mismatch"},
		{"nobody asked", up(func(l *recorded.Leg) { l.DANE, l.MTASTS = "", "" }), both, auto(enforce.Rule{}), "cannot be told whether the recipient's domain publishes TLSA records, which nobody asked"},
		{"nobody asked, and nobody does", up(func(l *recorded.Leg) { l.DANE, l.MTASTS = "", "" }), enforce.Auto{}, enforce.Rule{}, "same"},
		{"several domains, accepted", several, both, auto(enforce.Rule{}), "same"},
		{"several domains and a rule for one", several, both, to(dane), "cannot be told what each recipient's domain publishes (TLSA records), of several in one session"},
		{"a policy that was kept", up(func(l *recorded.Leg) { l.MTASTS = "enforce" }), both, sts, "same"},
		{"a policy where DANE decided", up(func(l *recorded.Leg) { l.DANE, l.MTASTS = "matched", "enforce" }), both, sts, "cannot be told whether the server satisfies the MTA-STS policy, where DANE decided"},
		{"a policy that named another", refusedFor(enforce.MTASTSCert), enforce.Auto{MTASTS: true}, auto(enforce.Rule{}), "same mta-sts-cert"},
		{"no policy", nil, both, sts, "newly refused mta-sts-fetch"},

		{"a revocation nobody asked about", nil, both, auto(enforce.Rule{TLS: enforce.Forced, Verify: enforce.VerifyCA, Revocation: enforce.RevocationSoft}), "cannot be told whether the certificate was revoked, which nobody asked"},
		{"one that was asked about", up(func(l *recorded.Leg) { l.Revocation = "good" }), both, auto(enforce.Rule{TLS: enforce.Forced, Verify: enforce.VerifyCA, Revocation: enforce.RevocationHard}), "same"},
		{"one that was revoked", up(func(l *recorded.Leg) { l.Revocation = "revoked" }), both, auto(enforce.Rule{TLS: enforce.Forced, Verify: enforce.VerifyCA, Revocation: enforce.RevocationSoft}), "newly refused cert-revoked"},
		{"names that were cut", up(func(l *recorded.Leg) { l.Certificate.Names = []string{"a.example", "and 9 more"} }), both,
			auto(enforce.Rule{TLS: enforce.Forced, Verify: enforce.VerifyName, Names: []string{"mx.partner.example"}}), "cannot be told all names of the certificate"},
		{"names that were cut, and are there", up(func(l *recorded.Leg) { l.Certificate.Names = []string{"mx.partner.example", "and 9 more"} }), both,
			auto(enforce.Rule{TLS: enforce.Forced, Verify: enforce.VerifyName, Names: []string{"mx.partner.example"}}), "same"},
		{"another name to be asked for", nil, both, auto(enforce.Rule{TLS: enforce.Forced, Verify: enforce.VerifyCA, ServerName: "mx2.partner.example"}), "cannot be told which certificate the server would have shown"},
		{"roots of a rule that is gone", func(r *recorded.Record) { r.Rule = "gone" }, both, auto(enforce.Rule{TLS: enforce.Forced, Verify: enforce.VerifyCA}),
			"cannot be told whether the certificate leads to the roots that a rule asks for"},
		{"fewer suites", up(func(l *recorded.Leg) { l.Version, l.Cipher = "TLS 1.2", "TLS_RSA_WITH_AES_128_CBC_SHA" }), both, auto(enforce.Rule{ForwardSecrecy: true}),
			"cannot be told which suite the server would have chosen of those that the rule has offered"},
		{"fewer suites, judged only", up(func(l *recorded.Leg) { l.Version, l.Cipher = "TLS 1.2", "TLS_RSA_WITH_AES_128_CBC_SHA" }), both, to(auto(enforce.Rule{ForwardSecrecy: true})),
			"newly refused tls-no-forward-secrecy"},
		{"an MX host, or not", func(r *recorded.Record) { r.Transactions[0].RcptDomains[0] = "other.example" }, enforce.Auto{}, enforce.Rule{ToMXOf: []string{"partner.example"}, TLS: enforce.Forced,
			Verify: enforce.VerifyFingerprint, Fingerprints: make([]enforce.Fingerprint, 1)}, "same"}, // the zero pin is the zero digest
		{"an MX host, or not, of another key", func(r *recorded.Record) { r.Transactions[0].RcptDomains[0] = "other.example" }, enforce.Auto{}, enforce.Rule{ToMXOf: []string{"partner.example"}, TLS: enforce.Forced,
			Verify: enforce.VerifyFingerprint, Fingerprints: []enforce.Fingerprint{{SHA256: [32]byte{1}}}}, "cannot be told whether the server was an MX host of a domain in to_mx_of"},
		{"the twin decides for its recipients", nil, enforce.Auto{}, enforce.Rule{ToMXOf: []string{"partner.example"}, TLS: enforce.Forced,
			Verify: enforce.VerifyFingerprint, Fingerprints: []enforce.Fingerprint{{SHA256: [32]byte{1}}}}, "newly refused cert-fingerprint-mismatch"},

		{"TLS that was lost stays lost", func(r *recorded.Record) {
			refusedFor(enforce.StartTLSStripped)(r)
			r.UpstreamTLS, r.TLS = recorded.Leg{State: "none", DANE: "none", MTASTS: "none"}, "may!nostarttls"
		}, both, auto(enforce.Rule{}), "same starttls-stripped"},
		{"TLS to be watched", func(r *recorded.Record) { r.ClientTLS = recorded.Leg{State: "ok", Version: "TLS 1.3"} }, both,
			enforce.Rule{Inspect: enforce.Watch}, "cannot be told what would have been agreed on, had TLS been watched, or not"},
		{"TLS that was watched, and is to be", watched("TLS 1.2", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"), enforce.Auto{}, enforce.Rule{Inspect: enforce.Watch}, "same"},
		{"TLS that was watched, and is to be newer", watched("TLS 1.2", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"), enforce.Auto{},
			enforce.Rule{Inspect: enforce.Watch, MinVersion: tls.VersionTLS13}, "newly refused tls-version-too-low"},
		{"TLS that was watched, and is to end here", watched("TLS 1.3", "TLS_AES_128_GCM_SHA256"), enforce.Auto{}, enforce.Rule{},
			"cannot be told what would have been agreed on, had TLS been watched, or not"},
		{"a client in clear, and TLS to be watched", nil, enforce.Auto{}, enforce.Rule{Inspect: enforce.Watch}, "same"},
		{"a client that was not asked for a certificate", func(r *recorded.Record) { r.ClientTLS = recorded.Leg{State: "ok", Version: "TLS 1.3"} }, both,
			auto(enforce.Rule{FromNetworks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, ClientTLS: enforce.ClientVerified}),
			"cannot be told which certificate the client would have shown, had it been asked"},
		{"one whose certificate is there", func(r *recorded.Record) {
			r.ClientTLS = recorded.Leg{State: "ok", Version: "TLS 1.3", Verified: true, Certificate: &recorded.Certificate{Names: []string{"a.hospital.example"}}}
		}, both, auto(enforce.Rule{FromNetworks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, ClientTLS: enforce.ClientVerified, ClientNames: []string{"b.hospital.example"}}),
			"newly refused client-cert-mismatch"},
		{"observed, of one recipient", func(r *recorded.Record) {
			r.Mode, r.Verdict, r.Reason, r.Stage = "observe", "defer", enforce.DANEMismatch, "rcpt"
			r.UpstreamTLS.DANE = "mismatch"
		}, both, auto(enforce.Rule{}), "same dane-mismatch"},
		{"observed, of one of several", func(r *recorded.Record) {
			several(r)
			r.Mode, r.Verdict, r.Reason, r.Stage = "observe", "defer", enforce.CertNotTrusted, "rcpt"
		}, enforce.Auto{}, enforce.Rule{}, "cannot be told which recipient the verdict was on, of what was only observed"},
	} {
		units := judge(t, tc.auto, tc.rule).Session(recording(tc.edit))
		got := "nothing"
		for i, u := range units {
			if len(units) == 1 || i > 0 && (u.Destination == "partner.example" || got == "nothing") {
				change, why := u.Changed()
				got = strings.TrimSpace(change.String() + " " + why)
			}
		}
		if got != tc.want {
			t.Errorf("%s: %s, want %s", tc.what, got, tc.want)
		}
	}
}

func TestASessionThatCameToNothingIsNotJudged(t *testing.T) {
	j := judge(t, enforce.Auto{}, enforce.Rule{TLS: enforce.Forced})
	for what, edit := range map[string]func(*recorded.Record){
		"no server":           func(r *recorded.Record) { r.Upstream.Address = "" },
		"nothing was settled": func(r *recorded.Record) { r.UpstreamTLS, r.TLS = recorded.Leg{State: "none"}, "may" },
		"nothing is said":     func(r *recorded.Record) { *r = recorded.Record{} },
		"an address of a zone": func(r *recorded.Record) {
			r.Client.Address = "x"
		},
	} {
		if units := j.Session(recording(edit)); units != nil {
			t.Errorf("%s: %+v", what, units)
		}
	}
	// A sender that was refused is a unit, and one of its own domain's recipients is not it.
	r := recording(func(r *recorded.Record) {
		r.Verdict, r.Reason, r.Stage = "defer", enforce.ClientTLSRequired, "mail"
		r.Transactions = []recorded.Transaction{{MailDomain: "hospital.example", Refused: []recorded.Refused{{Domain: "hospital.example", Reason: enforce.ClientTLSRequired}}}}
	})
	if units := judge(t, enforce.Auto{}).Session(r); len(units) != 2 || units[1].Destination != "203.0.113.7" || units[1].Is.Refused || !units[1].Was.Refused {
		t.Errorf("%+v", units)
	}
}

// What a tally holds does not grow with what is counted.
func TestATallyIsBounded(t *testing.T) {
	tally := NewTally()
	const n = 3 * MaxGroups
	for i := range n {
		tally.Add([]Unit{{Recipient: true, Destination: strings.Repeat("x", 1000) + "\xff", Was: Outcome{}, Is: Outcome{Refused: true, Reason: enforce.Reason(fmt.Sprint("r", i))}},
			{Recipient: true, Destination: fmt.Sprint(i, ".example"), Is: Outcome{Refused: true, Reason: enforce.CertExpired}}})
	}
	groups := tally.Groups()
	if len(groups) > 2*MaxGroups+2 {
		t.Errorf("%d groups", len(groups))
	}
	total := 0
	for _, g := range groups {
		total += g.Count
		if len(g.Destination) > longestDestination || len(g.Why) > longestWhy {
			t.Fatalf("%+v", g)
		}
	}
	if total != 2*n || tally.Recipients[NewlyRefused] != 2*n || tally.Records != n {
		t.Errorf("%d counted, of %d", total, 2*n)
	}
}
