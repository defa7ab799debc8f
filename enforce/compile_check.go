package enforce

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
)

// A check looks at one rule by itself.
type check struct {
	*compiled
	index int
	floor uint16
	errs  []RuleError
}

func (c *check) fail(key, beside, format string, args ...any) {
	c.errs = append(c.errs, RuleError{Rule: c.index, Key: key, Beside: beside, Other: -1, Msg: fmt.Sprintf(format, args...)})
}

func (c *check) run() {
	c.name()
	c.lists()
	c.acting()
	c.off()
	c.verification()
	c.fallback()
	c.versions()
	c.suites()
	c.client()
	c.watch()
	c.auto()
}

func (c *check) name() {
	switch c.Name {
	case "":
		c.fail("name", "", "none found, expected one: records and errors name the rule by it")
	case DefaultRule:
		c.fail("name", "", "%q found, expected another: the built-in last rule has this one", c.Name)
	}
}

// lists refuses a list that was written and holds nothing. As a matcher it would
// match everything, the opposite of what it looks like.
func (c *check) lists() {
	for _, l := range []struct {
		key string
		len int
	}{
		{"to_domains", len(c.ToDomains)},
		{"to_networks", len(c.ToNetworks)},
		{"to_mx_of", len(c.ToMXOf)},
		{"from_networks", len(c.FromNetworks)},
		{"from_domains", len(c.FromDomains)},
		{"names", len(c.Names)},
		{"fingerprints", len(c.Fingerprints)},
		{"ciphers", len(c.Ciphers)},
		{"client_names", len(c.ClientNames)},
	} {
		if c.Keys[l.key] && l.len == 0 {
			c.fail(l.key, "", "an empty list found, expected at least one entry, or no such key")
		}
	}
}

// acting refuses keys that act in a rule of the envelope: by MAIL the upstream
// leg has its TLS, or has none, and the client was told.
func (c *check) acting() {
	if !c.Envelope() {
		return
	}
	beside := "to_domains"
	if len(c.ToDomains) == 0 {
		beside = "from_domains"
	}
	const late = "would come too late in a rule with %s, which is judged when the upstream leg is settled: expected in a rule without to_domains and from_domains"
	if c.TLS == Off {
		c.fail("tls", "", `"off" `+late, beside)
	}
	for _, key := range []string{"server_name", "on_handshake_failure", "client_certificate", "client_starttls", "inspect"} {
		if wrote(&c.Rule, key) {
			c.fail(key, "", late, beside)
		}
	}
}

// off refuses what speaks of an upstream TLS that the rule forbids.
func (c *check) off() {
	if c.TLS != Off {
		return
	}
	for _, key := range []string{"verify", "names", "fingerprints", "ca", "min_version", "forward_secrecy",
		"ciphers", "server_name", "revocation", "on_handshake_failure", "client_certificate"} {
		if wrote(&c.Rule, key) {
			c.fail(key, "tls", `found beside tls = "off", expected one or the other: without TLS there is nothing that it could hold for`)
		}
	}
	if c.ClientTLS != ClientAny && c.ClientStartTLS == Mirror {
		c.fail("client_tls", "tls", `found beside tls = "off", expected client_starttls = "always" with it: a client is otherwise not offered STARTTLS while the upstream leg is in clear`)
	}
}

func (c *check) verification() {
	if c.Verify != VerifyNone && c.TLS == Opportunistic {
		c.fail("verify", "tls", `a demand found beside tls = "opportunistic", expected tls = "forced": whoever strips STARTTLS would be rid of the demand, too`)
	}
	if c.Verify == VerifyName && len(c.Names) == 0 && !c.Keys["names"] {
		c.fail("names", "verify", `none found, expected the names to be verified: verify = "name"`)
	}
	if c.Verify == VerifyFingerprint && len(c.Fingerprints) == 0 && !c.Keys["fingerprints"] {
		c.fail("fingerprints", "verify", `none found, expected the certificates or keys to be verified: verify = "fingerprint"`)
	}
	if c.TLS == Off {
		return // said already
	}
	c.unused("names", c.Verify == VerifyName, "verify", `verify = "name"`)
	c.unused("fingerprints", c.Verify == VerifyFingerprint, "verify", `verify = "fingerprint"`)
	c.unused("ca", c.Verify == VerifyCA || c.Verify == VerifyName, "verify", `verify = "ca" or "name"`)
	c.unused("revocation", c.Revocation == RevocationOff || c.Verify == VerifyCA || c.Verify == VerifyName || c.Verify == VerifyMTASTS, "verify",
		`verify = "ca", "name" or "mta-sts": of a chain that nobody builds there is none to ask`)
}

// Excepted reports whether r says who answers for it and until when, which is what
// makes an exception of what would be an error.
func (r *Rule) Excepted() bool { return r.Owner != "" && !r.Expires.IsZero() }

// watch refuses demands that cannot be judged where TLS only passes through: from
// TLS 1.3 on the certificate goes encrypted (RFC 8446 §4.4.2).
func (c *check) watch() {
	if c.Inspect != Watch {
		return
	}
	if c.Verify != VerifyNone && !c.Excepted() {
		c.fail("verify", "inspect", `a demand found beside inspect = "watch", expected none, or owner and expires with it: the certificate cannot be seen in TLS 1.3`)
	}
	if c.ClientTLS == ClientVerified {
		c.fail("client_tls", "inspect", `"verified" found beside inspect = "watch", expected "any" or "required": the client shows its certificate to the server alone`)
	}
	if c.TLS == Off {
		c.fail("inspect", "tls", `"watch" found beside tls = "off", expected one or the other: the TLS that passes through is the upstream's`)
	}
}

// auto refuses an exception that would come too late, or from the wrong side: a
// rule of the envelope can only ask for more.
func (c *check) auto() {
	if c.Envelope() && !c.Auto && c.Keys["auto"] && c.Verify == VerifyNone {
		c.fail("auto", "", `false found in a rule that is judged at the envelope, expected in a rule without to_domains and from_domains, or beside a verify that takes its place: a rule of the envelope cannot weaken`)
	}
}

// unused refuses key where it was written and nothing looks at it.
func (c *check) unused(key string, used bool, beside, by string) {
	if wrote(&c.Rule, key) && !used {
		c.fail(key, beside, "has no effect, expected only beside %s", by)
	}
}

func (c *check) fallback() {
	if c.OnHandshakeFailure == Cleartext && c.TLS == Forced {
		c.fail("on_handshake_failure", "tls", `"cleartext" found beside tls = "forced", expected "block": only an opportunistic rule can do without TLS`)
	}
}

func (c *check) versions() {
	if c.MinVersion != 0 && c.MinVersion < c.floor {
		c.fail("min_version", "", "%q found, expected %q: [tls] min_version is the floor of every rule", versionWord(c.MinVersion), versionWord(c.floor))
	}
}

func (c *check) suites() {
	if wrote(&c.Rule, "ciphers") && c.TLS != Off && max(c.MinVersion, c.floor) >= tls.VersionTLS13 {
		c.fail("ciphers", "min_version", `has no effect, expected only where TLS 1.2 is allowed: the suites of TLS 1.3 are not chosen by rules`)
		return
	}
	if !c.ForwardSecrecy {
		return
	}
	for _, id := range c.Ciphers {
		if !ForwardSecret(tls.VersionTLS12, id) {
			c.fail("ciphers", "forward_secrecy", "%s found beside forward_secrecy = true, expected suites with an ephemeral key exchange (ECDHE)", tls.CipherSuiteName(id))
		}
	}
}

func (c *check) client() {
	c.unused("client_names", c.ClientTLS == ClientVerified, "client_tls", `client_tls = "verified"`)
	if c.ClientTLS != ClientAny && c.meantForEveryone() {
		c.fail("client_tls", "", `a demand of every client found, expected one scoped by from_networks, to_networks, from_domains or to_domains: `+publicServer)
	}
}

// publicServer is why a demand on the client leg must leave somebody out.
const publicServer = "a publicly referenced SMTP server MUST NOT require STARTTLS (RFC 3207 §4)"

// meantForEveryone reports whether no matcher of r leaves anybody out.
func (r *compiled) meantForEveryone() bool {
	return r.from.leavesNobodyOut() && r.to.leavesNobodyOut() && forAllDomains(&r.Rule)
}

// forAllDomains reports whether no matcher of the rule goes by domains.
func forAllDomains(r *Rule) bool {
	all := func(domains []string) bool { return len(domains) == 0 || slices.Contains(domains, anyDomain) }
	return len(r.ToMXOf) == 0 && all(r.FromDomains) && all(r.ToDomains)
}

// versionWord is a TLS version as the configuration writes it: "1.2".
func versionWord(v uint16) string {
	return strings.TrimPrefix(tls.VersionName(v), "TLS ")
}
