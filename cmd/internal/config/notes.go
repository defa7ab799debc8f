package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"postern/enforce"
	"postern/proxy"
)

// notes tells what is no fault and yet worth knowing.
func notes(f *File) Errors {
	n := &noting{reader: &reader{file: f.Path, at: f.at}, c: &f.Proxy, watchers: f.Policy.Watchers()}
	n.listening()
	n.resolver()
	for i := range f.Proxy.Rules {
		r := &rulePlace{Rule: &f.Proxy.Rules[i], path: element("rule", i)}
		n.exception(r)
		n.watching(r)
		n.wayAround(r)
	}
	return n.sorted()
}

// noting goes through a configuration without faults.
type noting struct {
	*reader
	c        *proxy.Config
	watchers map[string][]string
}

// A rulePlace is a rule and where it stands.
type rulePlace struct {
	*enforce.Rule
	path string
}

func (n *noting) note(r *rulePlace, key, format string, args ...any) {
	n.fail(join(r.path, key), format, args...)
}

// listening tells of a family of addresses that is not listened for.
func (n *noting) listening() {
	family := untaken(n.c)
	if family == "" {
		return
	}
	then := "when_down decides, always"
	if n.c.Intercept.Method == "redirect" {
		then = "they go past Postern"
	}
	n.fail("listen.addresses", "no %s address found: %s connections are not taken, %s", family, family, then)
}

// exception asks for who answers for a rule that is weaker than none.
func (n *noting) exception(r *rulePlace) {
	weak := r.Weaker()
	if len(weak) == 0 {
		return
	}
	if r.Owner == "" {
		n.note(r, weak[0], "the rule is weaker than the built-in one and has no owner")
	}
	if r.Expires.IsZero() {
		n.note(r, weak[0], "the rule is weaker than the built-in one and has no day on which it expires")
	}
}

// watching tells what is not enforced inside TLS that only passes through.
func (n *noting) watching(r *rulePlace) {
	if r.Inspect != enforce.Watch {
		return
	}
	if names := n.watchers[r.Name]; len(names) > 0 {
		quoted := make([]string, len(names))
		for i, name := range names {
			quoted[i] = quote(name)
		}
		n.note(r, "inspect", "what %s demands of mail is not enforced where the client's TLS passes through", alternatives(quoted))
	}
	if r.Verify != enforce.VerifyNone {
		n.note(r, "verify", `found beside inspect = "watch": the certificate is seen up to TLS 1.2 only`)
	}
	if auto := n.c.Verify.Auto; r.Auto && auto.Any() {
		n.note(r, "inspect", "[verify] auto does not reach inside: what recipient domains publish (%s) binds only mail that comes in clear here", autoWords(auto))
	}
}

func autoWords(a enforce.Auto) string {
	var words []string
	if a.DANE {
		words = append(words, "DANE")
	}
	if a.MTASTS {
		words = append(words, "MTA-STS")
	}
	return strings.Join(words, ", ")
}

// wayAround tells of a demand on addresses that the same mail can avoid: a sender
// that is refused at one host goes on to the next one, and from IPv4 to IPv6.
func (n *noting) wayAround(r *rulePlace) {
	if r.Envelope() || r.TLS != enforce.Forced || r.OnViolation == enforce.OnViolationLog || len(r.ToNetworks) == 0 ||
		n.c.Intercept.Method == "none" || allIn(r.ToNetworks, n.c.Verify.Relays) {
		return
	}
	if len(r.ToMXOf) == 0 && !slices.ContainsFunc(n.c.Rules, r.isTwin) {
		n.note(r, "to_networks", "a sender that is refused goes on to the next MX host, for which the rule is not: expected to_mx_of, or a rule with to_domains that demands the same (or the server in [verify] relays, if it is a smart host)")
	}
	for _, other := range []family{{true, "IPv4"}, {false, "IPv6"}} {
		if n.takes(other) && len(r.ToMXOf) == 0 && !slices.ContainsFunc(r.ToNetworks, other.has) {
			n.note(r, "to_networks", "no %s network found: a sender that is refused goes on to the %s address of the same server, for which the rule is not", other.name, other.name)
		}
	}
}

// isTwin reports whether e demands the same of the recipients, by whatever server.
func (r *rulePlace) isTwin(e enforce.Rule) bool {
	return len(e.ToDomains) > 0 && len(e.ToNetworks) == 0 && e.TLS == enforce.Forced &&
		(r.Verify == enforce.VerifyNone || e.Verify == r.Verify && e.CA == r.CA &&
			slices.Equal(e.Names, r.Names) && slices.Equal(e.Fingerprints, r.Fingerprints))
}

// allIn reports whether each network lies in one of the others.
func allIn(networks, others []netip.Prefix) bool {
	return !slices.ContainsFunc(networks, func(p netip.Prefix) bool {
		return !slices.ContainsFunc(others, func(q netip.Prefix) bool {
			return q.Bits() <= p.Bits() && q.Contains(p.Addr())
		})
	})
}

// A family of addresses.
type family struct {
	v4   bool
	name string
}

func (f family) has(p netip.Prefix) bool { return p.Addr().Is4() == f.v4 }

// takes reports whether connections of a family are taken at all.
func (n *noting) takes(f family) bool {
	return slices.ContainsFunc(n.c.Listen.Addresses, func(a netip.AddrPort) bool { return a.Addr().Is4() == f.v4 }) &&
		(len(n.c.Intercept.Sources) == 0 || slices.ContainsFunc(n.c.Intercept.Sources, f.has))
}

// resolver tells that DANE, which holds without a rule, cannot.
func (n *noting) resolver() {
	if key, why := unbelieved(&n.c.Resolver); why != "" && n.c.Verify.Auto.DANE {
		n.fail(key, `%s: what recipient domains publish for DANE binds nobody`, why)
	}
}

// needsResolver refuses a rule that asks for DANE where nobody is believed about
// DNSSEC: it could never hold, and all that it is for would be deferred for ever.
func needsResolver(rules []*table, resolver *table, c *proxy.Config) {
	_, why := unbelieved(&c.Resolver)
	if why == "" || resolver.bad["servers"] || resolver.bad["trust_ad"] {
		return
	}
	for i, t := range rules {
		if c.Rules[i].Verify == enforce.VerifyDANE {
			t.fail("verify", `"dane" found, expected a resolver that is believed: %s`, why)
		}
	}
}

// unbelieved says why no server's word for DNSSEC is taken, and by which key; ""
// where one's is.
func unbelieved(r *proxy.Resolver) (key, why string) {
	switch {
	case r.TrustAD == "never":
		return "resolver.trust_ad", `[resolver] trust_ad is "never"`
	case r.TrustAD != "loopback" || len(r.Servers) == 0:
		return "", ""
	}
	for _, s := range r.Servers {
		if s.Addr().IsLoopback() {
			return "", ""
		}
	}
	return "resolver.servers", fmt.Sprintf(`none of [resolver] servers is on this machine, and trust_ad is %q`, r.TrustAD)
}
