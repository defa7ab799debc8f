package enforce

import (
	"crypto/tls"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// published makes what a domain with both publishes, and satisfies it.
func published(edit func(*Published)) *Published {
	p := &Published{Domain: "partner.example", MX: MXKnown, DANE: DANE{State: DANEMatches, Host: "mx.partner.example"},
		MTASTS: MTASTS{State: MTASTSEnforce, MXMatches: true, CertificateMatches: true}}
	if edit != nil {
		edit(p)
	}
	return p
}

func TestWhatARecipientDomainPublishesIsJudged(t *testing.T) {
	dane := func(s DANEState) func(*Published) { return func(p *Published) { p.DANE.State = s } }
	sts := func(s MTASTSState) func(*Published) {
		return func(p *Published) { p.DANE.State, p.MTASTS.State = DANENone, s }
	}
	mx := func(s MXState) func(*Published) {
		return func(p *Published) { *p = Published{Domain: p.Domain, MX: s} }
	}
	both := Auto{DANE: true, MTASTS: true}
	byDANE, bySTS := Rule{Name: "r", TLS: Forced, Verify: VerifyDANE, Auto: true}, Rule{Name: "r", TLS: Forced, Verify: VerifyMTASTS, Auto: true}
	plain, off := Rule{Name: "r", Auto: true}, Rule{Name: "r", TLS: Off, Auto: true}
	without := Rule{Name: "r"}
	clear := func(f *Facts) {
		f.Upstream = Leg{State: StateNone, Failure: StartTLSNotOffered, Detail: "STARTTLS is not offered"}
	}
	untrusted := func(f *Facts) {
		f.Upstream.Chain = chainOf(ChainResult{Reason: CertNotTrusted, Detail: "unknown authority"})
	}
	for _, tc := range []struct {
		name   string
		rule   Rule
		auto   Auto
		edit   func(*Published)
		facts  func(*Facts)
		want   Reason
		logged bool
	}{
		{"both satisfied", plain, both, nil, nil, "", false},
		{"DANE differs", plain, both, dane(DANEDiffers), nil, DANEMismatch, false},
		{"DANE differs and binds nobody", plain, Auto{MTASTS: true}, dane(DANEDiffers), nil, "", false},
		{"DANE decides where both are there", plain, both, func(p *Published) { p.MTASTS.CertificateMatches = false }, nil, "", false},
		{"DANE bogus defers", plain, both, dane(DANEFailed), nil, DNSSECBogus, false},
		{"no resolver binds nobody", plain, both, func(p *Published) { *p = Published{MX: MXUnavailable, DANE: DANE{State: DANEUnavailable}} }, nil, "", false},
		{"records that cannot be used leave it to MTA-STS", plain, both, func(p *Published) { p.DANE.State, p.MTASTS.CertificateMatches = DANEUnusable, false }, nil, MTASTSCert, false},
		{"records that cannot be used ask for TLS", plain, Auto{DANE: true}, dane(DANEUnusable), clear, StartTLSNotOffered, false},
		{"records ask for TLS", plain, Auto{DANE: true}, dane(DANEDiffers), clear, StartTLSNotOffered, false},
		{"even where TLS is off", off, both, dane(DANEDiffers), clear, StartTLSNotOffered, false},
		{"but for a rule without auto", without, both, dane(DANEDiffers), nil, "", false},
		{"a policy asks for TLS", plain, both, sts(MTASTSEnforce), clear, StartTLSNotOffered, false},
		{"a policy names another host", plain, both, func(p *Published) { p.DANE.State, p.MTASTS.MXMatches = DANENone, false }, nil, MTASTSMXMismatch, false},
		{"a policy names another certificate", plain, both, func(p *Published) { p.DANE.State, p.MTASTS.CertificateMatches = DANENone, false }, nil, MTASTSCert, false},
		{"a policy and a chain that does not verify", plain, both, sts(MTASTSEnforce), untrusted, CertNotTrusted, false},
		{"a policy in testing is only recorded", plain, both, func(p *Published) {
			p.DANE.State, p.MTASTS = DANENone, MTASTS{State: MTASTSTesting, MXMatches: true}
		}, nil, MTASTSCert, true},
		{"a policy that cannot be had binds nobody", plain, both, sts(MTASTSFailed), nil, "", false},
		{"the MX hosts cannot be looked up", plain, both, mx(MXFailed), nil, DNSSECBogus, false},
		{"there are no MX hosts", plain, both, mx(MXNone), nil, "", false},

		{"a rule and DANE", byDANE, Auto{}, nil, nil, "", false},
		{"a rule and no records", byDANE, Auto{}, dane(DANENone), nil, DANERequired, false},
		{"a rule and records that cannot be used", byDANE, Auto{}, dane(DANEUnusable), nil, DANERequired, false},
		{"a rule and records that differ", byDANE, Auto{}, dane(DANEDiffers), nil, DANEMismatch, false},
		{"a rule and no resolver", byDANE, Auto{}, dane(DANEUnavailable), nil, DNSSECBogus, false},
		{"a rule for DANE and no MX hosts", byDANE, Auto{}, mx(MXNone), nil, MXUnknown, false},
		{"a rule for DANE and none that could be asked about", byDANE, Auto{}, mx(MXFailed), nil, DNSSECBogus, false},
		{"a rule for MTA-STS", bySTS, Auto{}, nil, nil, "", false},
		{"a rule and a policy in testing", bySTS, Auto{}, func(p *Published) { p.MTASTS = MTASTS{State: MTASTSTesting, MXMatches: true} }, nil, MTASTSCert, false},
		{"a rule and no policy", bySTS, Auto{}, sts(MTASTSNone), nil, MTASTSFetch, false},
		{"a rule and one that cannot be had", bySTS, Auto{}, sts(MTASTSFailed), nil, MTASTSFetch, false},
		{"a rule and one that cannot be read", bySTS, Auto{}, sts(MTASTSInvalid), nil, MTASTSPolicy, false},
		{"a rule and one that asks for nothing", bySTS, Auto{}, sts(MTASTSModeNone), nil, MTASTSPolicy, false},
		{"a rule for MTA-STS and no MX hosts", bySTS, Auto{}, mx(MXNone), nil, MXUnknown, false},
		{"a policy that is not known yet", plain, both, sts(MTASTSUnanswered), nil, MTASTSFetch, false},
		{"a rule and nothing known", byDANE, Auto{}, func(p *Published) { *p = Published{} }, nil, MXUnknown, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			facts := good()
			if tc.facts != nil {
				tc.facts(&facts)
			}
			facts.Published = published(tc.edit)
			q := Question{Stage: AtRcpt, Connection: somewhere, Floor: tls.VersionTLS12, Rule: &tc.rule, Auto: tc.auto, Facts: facts}
			v := Decide(q)
			if v.Reason != tc.want || v.Refused() != (tc.want != "" && !tc.logged) {
				t.Errorf("%s %q %q", v.Action, v.Reason, v.Detail)
			}
			q.Stage = AtMail
			if v := Decide(q); v.Reason != "" {
				t.Errorf("before RCPT: %q %q", v.Reason, v.Detail)
			}
		})
	}
}

func TestARuleThatAsksForPublicationsAndHasNoneRefuses(t *testing.T) {
	for _, verify := range []Verify{VerifyDANE, VerifyMTASTS} {
		for _, r := range []Rule{{Name: "r", TLS: Forced, Verify: verify}, {Name: "r", TLS: Forced, Verify: verify, Auto: true}} {
			if v := Decide(Question{Stage: AtRcpt, Connection: somewhere, Floor: tls.VersionTLS12, Rule: &Rule{}, Envelope: &r, Facts: good()}); v.Reason != MXUnknown || !v.Refused() {
				t.Errorf("%d: %s %s", verify, v.Action, v.Reason)
			}
		}
	}
}

func TestWhatIsAskedOfADomain(t *testing.T) {
	both := Auto{DANE: true, MTASTS: true}
	quiet, dane, sts := &Rule{Auto: true}, &Rule{Verify: VerifyDANE}, &Rule{Verify: VerifyMTASTS, Auto: true}
	for _, tc := range []struct {
		auto  Auto
		rules []*Rule
		want  Auto
	}{
		{both, []*Rule{quiet, nil}, both},
		{both, []*Rule{{}, nil}, Auto{}},
		{both, []*Rule{quiet, {}}, Auto{}},
		{both, []*Rule{quiet, dane}, Auto{DANE: true}},
		{both, []*Rule{sts, quiet}, both},
		{Auto{}, []*Rule{sts, dane}, both},
		{Auto{}, []*Rule{quiet, nil}, Auto{}},
	} {
		if got := AsksPublished(tc.auto, tc.rules...); got != tc.want {
			t.Errorf("%+v: %+v, want %+v", tc.rules, got, tc.want)
		}
	}
}

func TestRevocationIsJudgedOfAChainThatVerifies(t *testing.T) {
	for _, tc := range []struct {
		demand   Revocation
		got      RevocationState
		verified bool
		want     Reason
	}{
		{RevocationOff, Revoked, true, ""},
		{RevocationSoft, RevocationGood, true, ""},
		{RevocationSoft, RevocationUnknown, true, ""},
		{RevocationSoft, Revoked, true, CertRevoked},
		{RevocationHard, RevocationGood, true, ""},
		{RevocationHard, RevocationUnknown, true, CertMissingRevocation},
		{RevocationHard, Revoked, true, CertRevoked},
		{RevocationHard, Revoked, false, CertNotTrusted},
		{99, RevocationUnknown, true, CertMissingRevocation},
	} {
		facts := good()
		facts.Upstream.Chain = chainOf(ChainResult{Verified: tc.verified, Reason: CertNotTrusted})
		facts.Upstream.Revoked = func(roots string, wait bool) RevocationResult {
			if wait != (tc.demand != RevocationSoft) || roots != "/ca.pem" {
				t.Errorf("%+v: asked with %q %v", tc, roots, wait)
			}
			return RevocationResult{State: tc.got}
		}
		r := Rule{Name: "r", TLS: Forced, Verify: VerifyCA, CA: "/ca.pem", Revocation: tc.demand}
		if v := Decide(Question{Stage: AfterUpstreamTLS, Connection: somewhere, Floor: tls.VersionTLS12, Rule: &r, Facts: facts}); v.Reason != tc.want {
			t.Errorf("%+v: %q", tc, v.Reason)
		}
	}
}

func TestTLSThatWasThereBeforeIsMissed(t *testing.T) {
	m := &Remembered{Version: tls.VersionTLS13, Last: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)}
	inClear := Leg{State: StateNone, Failure: StartTLSNotOffered, Detail: "STARTTLS is not offered"}
	for _, tc := range []struct {
		name     string
		rule     Rule
		up       Leg
		remember *Remembered
		log      bool
		action   Action
		want     Reason
	}{
		{"opportunistic", Rule{}, inClear, m, false, Defer, StartTLSStripped},
		{"and rejected where the rule does", Rule{OnViolation: OnViolationReject}, inClear, m, false, Reject, StartTLSStripped},
		{"a rule that logs cannot let it pass", Rule{OnViolation: OnViolationLog}, inClear, m, false, Defer, StartTLSStripped},
		{"only logged", Rule{}, inClear, m, true, Allow, StartTLSStripped},
		{"forced is refused all the same", Rule{Name: "r", TLS: Forced}, inClear, m, true, Defer, StartTLSStripped},
		{"after a handshake that failed", Rule{}, Leg{State: StateNone, Failure: TLSHandshakeFailed}, m, false, Defer, StartTLSStripped},
		{"nothing remembered", Rule{}, inClear, nil, false, Allow, ""},
		{"TLS is off", Rule{TLS: Off}, inClear, m, false, Allow, ""},
		{"TLS is there", Rule{}, good().Upstream, m, false, Allow, ""},
	} {
		facts := good()
		facts.Upstream, facts.Remembered = tc.up, tc.remember
		v := Decide(Question{Stage: AfterEHLO, Connection: somewhere, Floor: tls.VersionTLS12, Rule: &tc.rule, Facts: facts, LogDowngrade: tc.log})
		if v.Action != tc.action || v.Reason != tc.want {
			t.Errorf("%s: %s %q", tc.name, v.Action, v.Reason)
		}
	}
	facts := good()
	facts.Upstream, facts.Remembered = inClear, m
	v := Decide(Question{Stage: AfterEHLO, Connection: somewhere, Floor: tls.VersionTLS12, Rule: &Rule{}, Facts: facts})
	if want := "STARTTLS is not offered, and the server had TLS 1.3 on 2026-11-01"; v.Detail != want {
		t.Errorf("%q", v.Detail)
	}
}

func TestARuleForMXHostsBindsTheirAddressesAndTheirDomains(t *testing.T) {
	p := mustCompile(t,
		Rule{Name: "mx", ToMXOf: []string{"partner.example", "other.example"}, ToNetworks: networks("192.0.2.0/24"),
			TLS: Forced, Verify: VerifyCA, ServerName: "mx.partner.example", ClientCertificate: "edge", OnViolation: OnViolationReject},
		Rule{Name: "off", ToMXOf: []string{"clear.example"}, TLS: Off},
	)
	at := func(upstream string, mxOf ...string) Connection {
		c := conn("10.1.0.1", upstream)
		c.MXOf = mxOf
		return c
	}
	for _, tc := range []struct {
		c    Connection
		want string
	}{
		{at("203.0.113.1", "partner.example"), "mx"},
		{at("203.0.113.1", "other.example", "clear.example"), "mx"},
		{at("192.0.2.1"), "mx"},
		{at("203.0.113.1", "clear.example"), "off"},
		{at("203.0.113.1"), DefaultRule},
	} {
		if got := p.ConnectionRule(tc.c, noon).Name; got != tc.want {
			t.Errorf("%+v: %s, want %s", tc.c, got, tc.want)
		}
	}
	twin := p.EnvelopeRule(at("203.0.113.9"), &Address{}, &Address{Domain: "partner.example"}, noon)
	if twin == nil || twin.Name != "mx" || twin.Verify != VerifyCA || twin.OnViolation != OnViolationReject {
		t.Fatalf("the twin: %+v", twin)
	}
	if twin.ServerName != "" || twin.ClientCertificate != "" {
		t.Error("the twin acts")
	}
	for _, other := range []string{"clear.example", "a.partner.example"} {
		if r := p.EnvelopeRule(at("203.0.113.9"), &Address{}, &Address{Domain: other}, noon); r != nil {
			t.Errorf("%s is bound by %s", other, r.Name)
		}
	}
	if got := p.MXDomains(); !slices.Equal(got, []string{"partner.example", "other.example", "clear.example"}) {
		t.Errorf("%q", got)
	}
}

func TestRulesForMXHostsHideEachOther(t *testing.T) {
	of := func(d ...string) Rule { return Rule{ToMXOf: d} }
	for _, tc := range []struct {
		first, second Rule
		hidden        bool
	}{
		{of("a.example"), of("a.example"), true},
		{of("a.example", "b.example"), of("a.example"), true},
		{of("a.example"), of("a.example", "b.example"), false},
		{of("a.example"), Rule{ToNetworks: networks("192.0.2.0/24")}, false},
		{Rule{ToNetworks: networks("192.0.2.0/24")}, of("a.example"), false},
		{Rule{ToNetworks: networks("0.0.0.0/0", "::/0")}, of("a.example"), true},
		{of("a.example"), Rule{FromNetworks: networks("10.0.0.0/8")}, false},
		{Rule{}, of("a.example"), true},
	} {
		tc.first.Name, tc.second.Name = "first", "second"
		_, errs := Compile([]Rule{tc.first, tc.second}, tls.VersionTLS12)
		if hidden := len(errs) > 0; hidden != tc.hidden {
			t.Errorf("%+v before %+v: %v", tc.first, tc.second, errs)
		}
	}
}

func TestASmartHostIsNoMXHost(t *testing.T) {
	p := mustCompile(t).Verifying(Verification{Auto: Auto{DANE: true}, Relays: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, LogDowngrade: true})
	if got := p.Auto(conn("10.1.0.1", "10.2.0.1")); got.Any() {
		t.Errorf("of a relay %+v", got)
	}
	if got := p.Auto(conn("10.1.0.1", "203.0.113.1")); got != (Auto{DANE: true}) || !p.LogDowngrade() {
		t.Errorf("%+v", got)
	}
	if (*Policy)(nil).Verifying(Verification{}) != nil {
		t.Error("of no policy came one")
	}
}

func TestAWatchingRuleIsToldOfWhatItEvades(t *testing.T) {
	expiring := func(r Rule) Rule { r.Owner, r.Expires = "it", noon; return r }
	watch := Rule{Name: "watch", FromNetworks: networks("10.1.0.0/16"), Inspect: Watch}
	demand := func(r Rule) Rule { r.Name, r.ToDomains = "demand", []string{"x.example"}; return r }
	for _, tc := range []struct {
		name   string
		watch  Rule
		other  Rule
		wrong  bool
		evaded bool
	}{
		{"forced", watch, demand(Rule{TLS: Forced}), true, true},
		{"forced, excepted", expiring(watch), demand(Rule{TLS: Forced}), false, true},
		{"of other clients", watch, demand(Rule{TLS: Forced, FromNetworks: networks("10.2.0.0/16")}), false, false},
		{"of some of its clients", watch, demand(Rule{TLS: Forced, FromNetworks: networks("10.1.2.0/24")}), true, true},
		{"no demand", watch, demand(Rule{}), false, false},
		{"no more than it", Rule{Name: "watch", TLS: Forced, FromNetworks: networks("10.1.0.0/16"), Inspect: Watch}, demand(Rule{TLS: Forced}), false, false},
		{"a certificate", watch, demand(Rule{TLS: Forced, Verify: VerifyCA}), true, true},
		{"a version", watch, demand(Rule{MinVersion: tls13}), true, true},
		{"to other servers", Rule{Name: "watch", ToNetworks: networks("192.0.2.0/24"), Inspect: Watch}, demand(Rule{TLS: Forced, ToNetworks: networks("198.51.100.0/24")}), false, false},
	} {
		for _, order := range [][]Rule{{tc.watch, tc.other}, {tc.other, tc.watch}} {
			p, errs := Compile(order, tls.VersionTLS12)
			if wrong := len(errs) > 0; wrong != tc.wrong {
				t.Errorf("%s: %v", tc.name, errs)
			}
			if p != nil && (len(p.Watchers()["watch"]) > 0) != tc.evaded {
				t.Errorf("%s: %v", tc.name, p.Watchers())
			}
		}
	}
}

func TestNeitherToMXOfNorARuleForItsRecipientsHidesTheOther(t *testing.T) {
	mx := Rule{Name: "mx", ToMXOf: []string{"partner.example"}, TLS: Forced}
	verified := Rule{Name: "verified", ToMXOf: []string{"partner.example"}, TLS: Forced, Verify: VerifyCA}
	domains := func(r Rule) Rule {
		r.Name, r.ToDomains = "domains", []string{"partner.example", "*.partner.example"}
		return r
	}
	one := func(r Rule) Rule { r = domains(r); r.ToDomains = r.ToDomains[:1]; return r }
	watch := Rule{Name: "watch", ToNetworks: networks("192.0.2.0/24"), Inspect: Watch}
	for _, tc := range []struct {
		name  string
		rules []Rule
		wrong string // part of the error; "" for none
	}{
		{"one that asks for more, behind it", []Rule{mx, one(Rule{TLS: Forced, Verify: VerifyCA})}, "can never match"},
		{"one that asks for more, before it", []Rule{one(Rule{TLS: Forced, Verify: VerifyCA}), mx}, ""},
		{"one that asks for less, before it", []Rule{one(Rule{TLS: Forced}), verified}, "asks for less"},
		{"one for other recipients too, behind it", []Rule{mx, domains(Rule{TLS: Forced, Verify: VerifyCA})}, ""},
		{"one for some clients, before it", []Rule{one(Rule{FromNetworks: networks("10.0.0.0/8")}), verified}, ""},
		{"a rule that watches", []Rule{watch, verified}, "watches TLS"},
		{"a rule that watches, behind it", []Rule{verified, watch}, "watches TLS"},
	} {
		_, errs := Compile(tc.rules, tls.VersionTLS12)
		switch {
		case tc.wrong == "" && len(errs) > 0:
			t.Errorf("%s: %v", tc.name, errs)
		case tc.wrong != "" && (len(errs) != 1 || !strings.Contains(errs[0].Msg, tc.wrong)):
			t.Errorf("%s: %v, want one with %q", tc.name, errs, tc.wrong)
		}
	}
}

func TestWhatIsOnlyNotKnownIsDeferredWhateverTheRuleSays(t *testing.T) {
	reject := Rule{Name: "r", TLS: Forced, Auto: true, OnViolation: OnViolationReject}
	with := func(v Verify) Rule { r := reject; r.Verify = v; return r }
	revoked := Rule{Name: "r", TLS: Forced, Verify: VerifyCA, Revocation: RevocationHard, OnViolation: OnViolationReject}
	for _, tc := range []struct {
		name   string
		rule   Rule
		p      Published
		asked  RevocationResult
		action Action
		want   Reason
	}{
		{"MX hosts", reject, Published{MX: MXFailed}, RevocationResult{}, Defer, DNSSECBogus},
		{"TLSA records", reject, Published{MX: MXKnown, DANE: DANE{State: DANEFailed}}, RevocationResult{}, Defer, DNSSECBogus},
		{"a policy", reject, Published{MX: MXKnown, MTASTS: MTASTS{State: MTASTSUnanswered}}, RevocationResult{}, Defer, MTASTSFetch},
		{"records that differ are known", reject, Published{MX: MXKnown, DANE: DANE{State: DANEDiffers}}, RevocationResult{}, Reject, DANEMismatch},
		{"no resolver for a rule", with(VerifyDANE), Published{MX: MXKnown, DANE: DANE{State: DANEUnavailable}}, RevocationResult{}, Defer, DNSSECBogus},
		{"a policy that cannot be had for a rule", with(VerifyMTASTS), Published{MX: MXKnown, MTASTS: MTASTS{State: MTASTSFailed}}, RevocationResult{}, Defer, MTASTSFetch},
		{"that there is no policy is known", with(VerifyMTASTS), Published{MX: MXKnown, MTASTS: MTASTS{State: MTASTSNone}}, RevocationResult{}, Reject, MTASTSFetch},
		{"a responder that says nothing", revoked, Published{}, RevocationResult{}, Defer, CertMissingRevocation},
		{"that there is none is known", revoked, Published{}, RevocationResult{NobodyToAsk: true}, Reject, CertMissingRevocation},
	} {
		facts := good()
		facts.Published = &tc.p
		facts.Upstream.Revoked = func(string, bool) RevocationResult { return tc.asked }
		v := Decide(Question{Stage: AtRcpt, Connection: somewhere, Floor: tls.VersionTLS12, Rule: &tc.rule, Auto: Auto{DANE: true, MTASTS: true}, Facts: facts})
		if v.Action != tc.action || v.Reason != tc.want {
			t.Errorf("%s: %s %s", tc.name, v.Action, v.Reason)
		}
	}
}

func TestREQUIRETLSAsksForACertificateOfTheRecipientsServers(t *testing.T) {
	for _, tc := range []struct {
		name string
		rule Rule
		p    *Published
		want Reason
	}{
		{"nobody could be asked", Rule{}, nil, ""},
		{"no resolver", Rule{}, &Published{MX: MXUnavailable}, ""},
		{"a name of a host", Rule{}, &Published{MX: MXKnown, NamesHost: true}, ""},
		{"by its records", Rule{}, &Published{MX: MXKnown, DANE: DANE{State: DANEMatches}}, ""},
		{"by its policy", Rule{}, &Published{MX: MXKnown, MTASTS: MTASTS{State: MTASTSEnforce, MXMatches: true, CertificateMatches: true}}, ""},
		{"of somebody else", Rule{}, &Published{MX: MXKnown}, RequireTLSNotPossible},
		{"of somebody else, whom a rule names", Rule{Name: "r", TLS: Forced, Verify: VerifyName, Names: []string{"mx.partner.example"}}, &Published{MX: MXKnown}, ""},
	} {
		facts := good()
		facts.Published = tc.p
		v := Decide(Question{Stage: AtRcpt, Connection: somewhere, Floor: tls.VersionTLS12, Rule: &tc.rule, Facts: facts, RequireTLS: true})
		if v.Reason != tc.want {
			t.Errorf("%s: %s %s", tc.name, v.Reason, v.Detail)
		}
	}
}
