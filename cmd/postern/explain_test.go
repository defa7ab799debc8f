package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"postern/enforce"
)

const policyFile = "testdata/explain/policy.toml"

func TestExplainSaysWhichRuleDecidesAndWhy(t *testing.T) {
	for _, c := range []struct {
		name, args string
		code       int
	}{
		{"defaults", "", exitFine},
		{"plain-server", "--starttls=no", exitFine},
		{"tls-1.0", "--tls 1.0", exitFinding},
		{"handshake-failed", "--tls failed", exitFinding},
		{"fallback", "--client 10.7.0.9 --tls failed", exitFine},
		{"fallback-not-below-the-floor", "--client 10.7.0.9 --tls 1.1", exitFinding},
		{"forced-without-starttls", "--upstream 203.0.113.7 --starttls no", exitFinding},
		{"partner", "--upstream 203.0.113.7 --names mx.partner.example", exitFine},
		{"partner-wrong-name", "--upstream 203.0.113.7 --names mx.other.example,*.third.example", exitFinding},
		{"partner-expired", "--upstream 2001:db8:7::25 --verified expired --names mx.partner.example", exitFinding},
		{"pin-of-the-key", "--upstream 203.0.114.7 --verified no --fingerprint spki-sha256:ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", exitFine},
		{"pin-missing", "--upstream 203.0.114.7", exitFinding},
		{"suite-not-offered", "--upstream 203.0.115.7 --tls 1.2 --cipher TLS_RSA_WITH_AES_128_GCM_SHA256", exitFinding},
		{"suite-1.3", "--tls 1.3 --cipher TLS_CHACHA20_POLY1305_SHA256", exitFine},
		{"only-logged", "--upstream 203.0.116.7 --tls 1.2 --verified no", exitFine},
		{"envelope", "--from someone@hospital.example --to a@www.secret.example --to other.example --tls 1.2 --verified no", exitFinding},
		{"recipients-first", "--from hospital.example", exitFine},
		{"forward-secrecy-judged", "--to mail.gov.example --tls 1.2 --cipher TLS_RSA_WITH_AES_128_CBC_SHA", exitFinding},
		{"client-tls-required", "--upstream 192.0.2.25", exitFinding},
		{"held-by-a-rule", "--upstream 192.0.2.25 --held 1.0", exitFinding},
		{"held-by-network", "--client 10.8.0.1 --held 1.1 --from a.example --to b.example", exitFinding},
		{"not-held", "--client 10.9.0.1 --held 1.0 --from a.example", exitFine},
		{"client-tls-in-front-of-a-clear-way", "--upstream 192.0.2.25 --client-tls 1.2", exitFine},
		{"client-tls-not-offered", "--starttls no --client-tls 1.3", exitFine},
		{"client-certificate", "--from bank.example --to us.example --client-tls 1.3 --client-names mx.bank.example", exitFine},
		{"client-certificate-of-another", "--from bank.example --client-tls 1.3 --client-names mx.other.example", exitFinding},
		{"client-certificate-missing", "--from bank.example --client-tls 1.3", exitFinding},
		{"requiretls", "--requiretls --client-tls 1.3 --from a.example", exitFine},
		{"requiretls-in-clear", "--requiretls --from a.example", exitFinding},
		{"null-sender-and-literal", "--from <> --to x@[192.0.2.1] --to <postmaster>", exitFine},
		{"idn", "--from bücher.example --to <@relay.example:x@Straße.EXAMPLE.>", exitFine},
	} {
		args := append([]string{"explain", "--config", policyFile}, strings.Fields(c.args)...)
		got := postern(t, args...)
		if got.code != c.code || got.stderr != "" {
			t.Errorf("explain %s: exit %d\n%s", c.args, got.code, got.stderr)
		}
		golden(t, "explain/"+c.name, "$ postern explain "+c.args+"\n"+got.stdout)

		got = postern(t, append(args, "--format", "json")...)
		var e explanation
		if err := json.Unmarshal([]byte(got.stdout), &e); err != nil || got.code != c.code || got.stderr != "" {
			t.Errorf("explain %s: %v, exit %d\n%s", c.args, err, got.code, got.stderr)
		}
		if (e.Verdict == allowed) != (c.code == exitFine) || len(e.Stages) == 0 || e.Mode != "enforce" {
			t.Errorf("explain %s: %+v", c.args, e)
		}
	}
}

func TestExplainInJSON(t *testing.T) {
	got := postern(t, "explain", "--config", policyFile, "--format", "json", "--upstream", "203.0.116.7",
		"--tls", "1.2", "--verified", "no", "--from", "hospital.example", "--to", "secret.example")
	if got.code != exitFinding || got.stderr != "" {
		t.Errorf("%+v", got)
	}
	golden(t, "explain/all.json", got.stdout)
}

// What is observed is judged alike, goes on, and is not spoken.
func TestExplainUnderObserve(t *testing.T) {
	doc, err := os.ReadFile(policyFile)
	if err != nil {
		t.Fatal(err)
	}
	path := write(t, `mode = "observe"`+"\n"+string(doc))
	for name, args := range map[string]string{
		"observe-rule":      "--upstream 203.0.113.7 --from a.example --to b.example",
		"observe-handshake": "--tls 1.0 --from a.example",
	} {
		got := postern(t, append([]string{"explain", "--config", path}, strings.Fields(args)...)...)
		if got.code != exitFinding || got.stderr != "" || strings.Contains(got.stdout, "reply") {
			t.Errorf("%s: %+v", name, got)
		}
		golden(t, "explain/"+name, got.stdout)
	}
}

func TestAFloorOf13IsHeldOnBothLegs(t *testing.T) {
	doc := `intercept.interfaces = ["lan0"]
tls.min_version = "1.3"
[[tls.certificate]]
name = "edge"
cert = "/cert.pem"
key = "/key.pem"
`
	for _, mode := range []string{"enforce", "observe"} {
		path := write(t, `mode = "`+mode+`"`+"\n"+doc)
		got := postern(t, "explain", "--config", path, "--client-tls", "1.2", "--to", "a.example")
		if got.code != exitFinding || got.stderr != "" {
			t.Errorf("%s: %+v", mode, got)
		}
		golden(t, "explain/floor-client-"+mode, got.stdout)
	}
	got := postern(t, "explain", "--config", write(t, doc), "--tls", "1.2")
	if got.code != exitFinding || !strings.Contains(got.stdout, "tls-version-too-low: TLS 1.2 is below TLS 1.3") {
		t.Errorf("%+v", got)
	}
}

func TestWhatExplainCannotBeAskedExits2AndSaysWhatWasExpected(t *testing.T) {
	for _, c := range []struct{ args, says string }{
		{"--client here", `--client "here" found, expected an address`},
		{"--client=", `--client "" found, expected an address`},
		{"--client fe80::1%lan0", `--client "fe80::1%lan0" found`},
		{"--upstream 192.0.2.256", `--upstream "192.0.2.256" found`},
		{"--client 192.0.2.1 --upstream 2001:db8::1", "expected both of one family"},
		{"--mx-of a..example", `--mx-of "a..example" found`},
		{"--from a..example", `--from "a..example" found, expected a domain`},
		{"--from x@-a.example", `--from "-a.example" found, expected a domain`},
		{"--from x@", `--from "x@" found, expected a domain or an address`},
		{"--from=", `--from "" found, expected a domain or an address`},
		{"--from x@[192.0.2", `--from "x@[192.0.2" found`},
		{"--from 192.0.2.1", "--from"},
		{"--to <>", `--to "<>" found`},
		{"--to *.example", `--to "*.example" found`},
		{"--to xn--a.example", `--to "xn--a.example" found`},
		{"--to <a@b.example>SIZE=1", `--to "<a@b.example>SIZE=1" found`},
		{"--starttls maybe", `--starttls "maybe" found, expected yes or no`},
		{"--tls 1.4", `--tls "1.4" found, expected 1.0, 1.1, 1.2, 1.3 or failed`},
		{"--tls 1.2 --starttls=no", "--tls found beside --starttls=no"},
		{"--cipher TLS_AES_128_GCM_SHA256 --tls 1.2", `--cipher "TLS_AES_128_GCM_SHA256" found, expected a suite of TLS 1.2 that Postern offers: TLS_ECDHE_`},
		{"--cipher RC4", `expected a suite of TLS 1.3 that Postern offers: TLS_AES_128_GCM_SHA256, `},
		{"--cipher TLS_AES_128_GCM_SHA256 --tls failed", "--cipher has no effect beside --tls failed"},
		{"--verified perhaps", `--verified "perhaps" found, expected yes, no or expired`},
		{"--verified no --starttls no", "--verified has no effect, expected only where the server offers STARTTLS"},
		{"--names a.example --tls 1.1", "--names has no effect beside --tls 1.1"},
		{"--names a..example", `--names "a..example" found`},
		{"--names a.*.example", `--names "a.*.example" found`},
		{"--fingerprint md5:00", `--fingerprint "md5:00" found, expected "sha256:" or "spki-sha256:"`},
		{"--client-tls 1.1", `--client-tls "1.1" found, expected none, 1.2 or 1.3`},
		{"--client-names a.example", "--client-names has no effect"},
		{"--client-names a..example --client-tls 1.2", `--client-names "a..example" found`},
		{"--requiretls=often", `invalid argument "often"`},
		{"--format yaml", `--format "yaml" found`},
		{"contoso.com", `unknown command "contoso.com"`},
	} {
		got := postern(t, append([]string{"explain", "--config", policyFile}, strings.Fields(c.args)...)...)
		if got.code != exitUsage || got.stdout != "" || !strings.HasPrefix(got.stderr, "postern: ") || !strings.Contains(got.stderr, c.says) {
			t.Errorf("explain %s: exit %d\n%s%s", c.args, got.code, got.stdout, got.stderr)
		}
	}
	if got := postern(t, "explain", "--config", "/nonexistent/postern.toml"); got.code != exitUsage || !strings.Contains(got.stderr, "no such file") {
		t.Errorf("%+v", got)
	}
}

func TestExplainOfRulesForMXHostsAndPublications(t *testing.T) {
	path := write(t, `intercept.interfaces = ["lan0"]
[[rule]]
name = "bank"
to_mx_of = ["bank.example"]
to_networks = ["203.0.113.0/24"]
tls = "forced"
verify = "dane"
[[rule]]
name = "insurer"
to_domains = ["insurer.example"]
tls = "forced"
verify = "mta-sts"
`)
	for name, c := range map[string]struct {
		args string
		code int
	}{
		"mx-host":             {"--mx-of bank.example --to bank.example", exitFine},
		"mx-host-by-network":  {"--upstream 203.0.113.7 --to other.example --verified no", exitFinding},
		"mx-host-not-in-dns":  {"--to bank.example --verified no --to other.example", exitFinding},
		"mx-host-in-clear":    {"--mx-of bank.example --starttls=no", exitFinding},
		"published-policy":    {"--to insurer.example", exitFine},
		"published-untrusted": {"--to insurer.example --verified no", exitFinding},
		"published-literal":   {"--upstream 203.0.113.7 --to x@[192.0.2.1]", exitFinding},
	} {
		got := postern(t, append([]string{"explain", "--config", path}, strings.Fields(c.args)...)...)
		if got.code != c.code || got.stderr != "" {
			t.Errorf("explain %s: exit %d\n%s%s", c.args, got.code, got.stderr, got.stdout)
		}
		golden(t, "explain/"+name, "$ postern explain "+c.args+"\n"+got.stdout)
	}
}

// What explain says of each rule is what the policy does.
func TestWhyARuleBindsAgreesWithThePolicy(t *testing.T) {
	networks := []string{"192.0.2.0/24", "192.0.2.128/25", "198.51.100.0/24", "2001:db8::/32", "192.0.2.129/32"}
	domains := []string{"a.example", "*.a.example", "b.a.example", "*.example", "*"}
	addresses := []string{"192.0.2.1", "192.0.2.129", "198.51.100.1", "203.0.113.1"}
	names := []string{"", "a.example", "b.a.example", "c.b.a.example", "other.test"}
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)

	rapid.Check(t, func(t *rapid.T) {
		prefixes := rapid.Map(rapid.SliceOfNDistinct(rapid.SampledFrom(networks), 0, 2, rapid.ID), func(all []string) (list []netip.Prefix) {
			for _, p := range all {
				list = append(list, netip.MustParsePrefix(p))
			}
			return list
		})
		mxOf := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a.example", "b.a.example"}), 0, 2, rapid.ID)
		some := rapid.SliceOfNDistinct(rapid.SampledFrom(domains), 0, 2, rapid.ID)
		var rules []enforce.Rule
		for i := range rapid.IntRange(0, 5).Draw(t, "rules") {
			r := enforce.Rule{Name: fmt.Sprint("rule ", i), FromNetworks: prefixes.Draw(t, "from"), ToNetworks: prefixes.Draw(t, "to"),
				FromDomains: some.Draw(t, "senders"), ToDomains: some.Draw(t, "recipients")}
			if rapid.IntRange(0, 2).Draw(t, "MX hosts") == 0 && !r.Envelope() {
				r.ToMXOf = mxOf.Draw(t, "of")
			}
			if rapid.IntRange(0, 3).Draw(t, "expires") == 0 {
				r.Expires = now.Add(time.Duration(rapid.IntRange(-1, 1).Draw(t, "when")) * time.Hour)
			}
			if _, errs := enforce.Compile(append(rules, r), 0); len(errs) == 0 { // a hidden rule is none
				rules = append(rules, r)
			}
		}
		policy, errs := enforce.Compile(rules, 0)
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		address := func(label string) *envelopeAddress {
			name := rapid.SampledFrom(names).Draw(t, label)
			return &envelopeAddress{enforce.Address{Domain: name}, name}
		}
		m := &matching{now: now, sender: address("sender"), connection: enforce.Connection{
			Client:   netip.MustParseAddr(rapid.SampledFrom(addresses).Draw(t, "client")),
			Upstream: netip.MustParseAddr(rapid.SampledFrom(addresses).Draw(t, "upstream")),
			MXOf:     mxOf.Draw(t, "is an MX host of"),
		}}
		if rapid.Bool().Draw(t, "at RCPT") {
			m.recipient = address("recipient")
		}
		agree(t, m, policy, policy.ConnectionRule(m.connection, now), false)
		agree(t, m, policy, policy.EnvelopeRule(m.connection, m.sender.address(), m.recipient.address(), now), true)
	})
}

// agree holds lookups against the rule that the policy chose: that one binds, and
// no rule before it by its own matchers. Where the policy chose none, no rule
// binds, or one whose recipients are not known yet stands first.
func agree(t *rapid.T, m *matching, policy *enforce.Policy, binding *enforce.Rule, envelope bool) {
	list := m.lookups(policy.Rules(), envelope, binding)
	byName := map[string]*enforce.Rule{}
	for _, r := range policy.Rules() {
		byName[r.Name] = r
	}
	for i, l := range list {
		r := byName[l.Name]
		twin := envelope && !r.Envelope()
		matches, _ := m.ask(r, twin)
		binds := binding != nil && r.Name == binding.Name
		waits := envelope && matches && !binds && m.recipient == nil && (twin || len(r.ToDomains) > 0)
		if l.Binds != binds || l.Why == "" || matches != (binds || waits) || (matches && i != len(list)-1) {
			t.Fatalf("%+v: matches %v, and the policy chose %v", l, matches, binding)
		}
	}
	if binding != nil && (len(list) == 0 || list[len(list)-1].Name != binding.Name) {
		t.Fatalf("%q binds and is not in %+v", binding.Name, list)
	}
}
