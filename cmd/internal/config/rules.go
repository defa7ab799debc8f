package config

import (
	"crypto/tls"
	"fmt"
	"slices"
	"time"

	"postern/enforce"
	"postern/proxy"
)

// readRules reads every [[rule]] into c and gives their tables.
func readRules(top *table, c *proxy.Config) []*table {
	rules := top.all("rule")
	for _, t := range rules {
		c.Rules = append(c.Rules, readRule(t, &c.TLS))
	}
	return rules
}

func readRule(t *table, c *proxy.TLS) enforce.Rule {
	r := enforce.Rule{Auto: true, Keys: map[string]bool{}}
	read(t, "name", &r.Name, title)
	readMatchers(t, &r)
	readDemands(t, &r)
	readActs(t, &r, c.Certificates)

	read(t, "client_tls", &r.ClientTLS, oneOf(
		word[enforce.ClientTLS]{text: "any", value: enforce.ClientAny},
		word[enforce.ClientTLS]{text: "required", value: enforce.ClientRequired},
		word[enforce.ClientTLS]{text: "verified", value: enforce.ClientVerified},
	))
	list(t, "client_names", &r.ClientNames, namePattern)
	read(t, "on_violation", &r.OnViolation, oneOf(
		word[enforce.Violation]{text: "defer", value: enforce.OnViolationDefer},
		word[enforce.Violation]{text: "reject", value: enforce.OnViolationReject},
		word[enforce.Violation]{text: "log", value: enforce.OnViolationLog},
	))
	read(t, "owner", &r.Owner, title)
	readExpiry(t, &r.Expires)
	t.done()

	for key, v := range t.values {
		// ca = "" and server_name = "" say what not writing them says.
		if v != "" {
			r.Keys[key] = true
		}
	}
	if len(c.Certificates) == 0 {
		needsCertificate(t, &r, c.Authority != proxy.Authority{})
	}
	return r
}

func readMatchers(t *table, r *enforce.Rule) {
	domains(t, "to_domains", &r.ToDomains, matcher)
	domains(t, "from_domains", &r.FromDomains, matcher)
	list(t, "to_networks", &r.ToNetworks, network)
	list(t, "from_networks", &r.FromNetworks, network)
	domains(t, "to_mx_of", &r.ToMXOf, aLabels)
}

// domains reads a list of domain matchers. One that holds nothing but faults is
// still a list of domains: its rule is one of the envelope, and its other keys
// are judged as such.
func domains(t *table, key string, into *[]string, entry parse[string]) {
	list(t, key, into, entry)
	if t.bad[key] && len(*into) == 0 {
		*into = []string{"faulty.invalid"}
	}
}

func readDemands(t *table, r *enforce.Rule) {
	read(t, "tls", &r.TLS, oneOf(
		word[enforce.TLSMode]{text: "off", value: enforce.Off},
		word[enforce.TLSMode]{text: "opportunistic", value: enforce.Opportunistic},
		word[enforce.TLSMode]{text: "forced", value: enforce.Forced},
	))
	read(t, "verify", &r.Verify, oneOf(
		word[enforce.Verify]{text: "none", value: enforce.VerifyNone},
		word[enforce.Verify]{text: "ca", value: enforce.VerifyCA},
		word[enforce.Verify]{text: "name", value: enforce.VerifyName},
		word[enforce.Verify]{text: "fingerprint", value: enforce.VerifyFingerprint},
		word[enforce.Verify]{text: "dane", value: enforce.VerifyDANE},
		word[enforce.Verify]{text: "mta-sts", value: enforce.VerifyMTASTS},
	))
	list(t, "names", &r.Names, namePattern)
	list(t, "fingerprints", &r.Fingerprints, fingerprint)
	read(t, "ca", &r.CA, optional(file))
	read(t, "min_version", &r.MinVersion, versions)
	boolean(t, "forward_secrecy", &r.ForwardSecrecy)
	list(t, "ciphers", &r.Ciphers, suite)

	read(t, "revocation", &r.Revocation, oneOf(
		word[enforce.Revocation]{text: "off", value: enforce.RevocationOff},
		word[enforce.Revocation]{text: "soft", value: enforce.RevocationSoft},
		word[enforce.Revocation]{text: "hard", value: enforce.RevocationHard},
	))
	boolean(t, "auto", &r.Auto)
}

func readActs(t *table, r *enforce.Rule, certificates []proxy.Certificate) {
	read(t, "server_name", &r.ServerName, optional(aLabels))
	read(t, "on_handshake_failure", &r.OnHandshakeFailure, oneOf(
		word[enforce.Fallback]{text: "block", value: enforce.Block},
		word[enforce.Fallback]{text: "cleartext", value: enforce.Cleartext},
	))
	read(t, "client_certificate", &r.ClientCertificate, func(s string) (string, string) {
		var names []string
		for _, c := range certificates {
			if c.Name == s {
				return s, ""
			}
			if q := quote(c.Name); c.Name != "" && !slices.Contains(names, q) {
				names = append(names, q)
			}
		}
		if len(names) == 0 {
			return "", "the name of a [[tls.certificate]], of which there is none"
		}
		return "", alternatives(names) + ", the name of a [[tls.certificate]]"
	})
	read(t, "client_starttls", &r.ClientStartTLS, oneOf(
		word[enforce.ClientStartTLS]{text: "mirror", value: enforce.Mirror},
		word[enforce.ClientStartTLS]{text: "always", value: enforce.Always},
	))
	read(t, "inspect", &r.Inspect, oneOf(
		word[enforce.Inspect]{text: "terminate", value: enforce.Terminate},
		word[enforce.Inspect]{text: "watch", value: enforce.Watch},
	))
}

// needsCertificate refuses what no client could meet, or would ever see: without
// a certificate to show, STARTTLS is offered to none. One that is minted is named
// as the upstream's, which has to show one for that.
func needsCertificate(t *table, r *enforce.Rule, minted bool) {
	const without = "%s found without any [[tls.certificate]], expected one: STARTTLS is offered to clients only with a certificate to show"
	if r.ClientTLS != enforce.ClientAny && !minted && r.Inspect != enforce.Watch {
		t.fail("client_tls", without, describe(t.values["client_tls"]))
	}
	if r.ClientStartTLS == enforce.Always {
		t.fail("client_starttls", without, `"always"`)
	}
}

// readExpiry reads the day a rule ends. It matches through the end of that day
// in local time, so it expires at the first moment of the next; the day after is
// counted by the calendar, for not every day has 24 hours.
func readExpiry(t *table, into *time.Time) {
	v, ok := t.value("expires")
	if !ok {
		return
	}
	d, ok := v.(time.Time)
	// The library tells a local date from other times by the name of its zone.
	if !ok || d.Location().String() != "date-local" {
		t.fail("expires", "%s found, expected a date without quotation marks and time such as 2027-06-30", describe(v))
		return
	}
	*into = time.Date(d.Year(), d.Month(), d.Day()+1, 0, 0, 0, 0, time.Local)
}

// suite reads the IANA name of a TLS 1.2 suite.
func suite(s string) (uint16, string) {
	offered := enforce.Offered()
	names := make([]string, len(offered))
	for i, id := range offered {
		if names[i] = tls.CipherSuiteName(id); names[i] == s {
			return id, ""
		}
	}
	const expected = `the IANA name of a TLS 1.2 suite that is offered, such as "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"`
	if slices.ContainsFunc(tls.CipherSuites(), func(c *tls.CipherSuite) bool {
		return c.Name == s && c.SupportedVersions[0] == tls.VersionTLS13
	}) {
		return 0, expected + ": those of TLS 1.3 are not chosen by rules"
	}
	if near := nearest(s, names); near != "" {
		return 0, fmt.Sprintf("%s; perhaps %q", expected, near)
	}
	return 0, expected
}

// compile puts the faults that the rules have between their keys and among each
// other beside those of the values. One that rests on a value that is faulty
// itself is left out: it may be gone once that is mended.
func compile(rules []*table, tls *table, c *proxy.Config) *enforce.Policy {
	policy, errs := enforce.Compile(c.Rules, c.TLS.MinVersion)
	held, err := policy.Verifying(c.Verification()).HoldingFor(c.TLS.HoldFor)
	if err != nil {
		tls.fail("hold_for", "%s", err)
	}
	errs = slices.DeleteFunc(errs, func(e enforce.RuleError) bool {
		t := rules[e.Rule]
		if t.bad[e.Key] || t.bad[e.Beside] {
			return true
		}
		byMatchers := e.Key == "" || e.Key == "client_tls" && e.Beside == ""
		return byMatchers && (badMatcher(t) || e.Other >= 0 && badMatcher(rules[e.Other]))
	})
	for _, e := range errs {
		if t := rules[e.Rule]; e.Key == "" {
			t.reader.fail(t.path, "%s", e.Msg)
		} else {
			t.fail(e.Key, "%s", e.Msg)
		}
	}
	return held
}

func badMatcher(t *table) bool {
	for _, key := range []string{"to_domains", "from_domains", "to_networks", "from_networks", "to_mx_of", "expires"} {
		if t.bad[key] {
			return true
		}
	}
	return false
}
