package main

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"postern/cmd/internal/config"
	"postern/enforce"
	"postern/proxy"
)

// statements say what a configuration does, apart from its rules.
func statements(c proxy.Config) []statement {
	mode := "enforce: what falls short is refused"
	if c.Observe {
		mode = "observe: NOTHING IS REFUSED, verdicts are only recorded"
	}
	floor := tls.VersionName(c.TLS.MinVersion)
	list := []statement{{"mode", mode}, {"interception", interceptionWords(c)}}
	if c.Intercept.Method != "none" {
		list = append(list, statement{"while down", downWords(c.Intercept)})
	}
	trust := "the roots of this system"
	if c.TLS.TrustCA != "system" {
		trust = "the roots in " + c.TLS.TrustCA
	}
	list = append(list,
		statement{"floor", floor + " on both legs: TLS below it is blocked, never replaced by cleartext, and no rule can allow it"},
		statement{"shown to clients", shownWords(c.TLS)},
		statement{"trusted", trust},
	)
	list = append(list, partnerStatements(c)...)
	demands := func(r enforce.Rule) bool { return r.ClientTLS != enforce.ClientAny }
	if len(c.TLS.HoldFor) > 0 || slices.ContainsFunc(c.Rules, demands) {
		list = append(list, statement{"held", heldWords(c.TLS)})
	}
	return list
}

func interceptionWords(c proxy.Config) string {
	in := c.Intercept
	listen := make([]string, len(c.Listen.Addresses))
	for i, a := range c.Listen.Addresses {
		listen[i] = a.String()
	}
	if in.Method == "none" {
		return fmt.Sprintf("none: connections made to %s go to %s", strings.Join(listen, " and "), c.Listen.Upstream)
	}
	method, _, _ := strings.Cut(where(in), ";")
	words := method + ", handed to " + strings.Join(listen, " and ")
	if len(in.Sources) > 0 {
		words += "; only from " + alternatives(texts(in.Sources))
	}
	if len(in.Bypass) > 0 {
		words += "; never from or to " + alternatives(texts(in.Bypass))
	}
	return words + "; " + seenWords(in)
}

func downWords(in proxy.Intercept) string {
	if in.Pass {
		return "connections pass WITHOUT POSTERN while no listening socket exists"
	}
	return "connections are reset while no listening socket exists, so that senders try again later"
}

func heldWords(t proxy.TLS) string {
	who := "of whom a rule demands TLS"
	if len(t.HoldFor) > 0 {
		who += " or who is in " + alternatives(texts(t.HoldFor))
	}
	return "a client " + who + " and whose handshake offered less than " + tls.VersionName(t.MinVersion) +
		" is told so when it comes back in clear, and refused, until " + config.Short(t.Hold) + " after the last refusal"
}

func shownWords(t proxy.TLS) string {
	certificates := t.Certificates
	if t.Authority != (proxy.Authority{}) {
		words := "a certificate named as the server's own, issued by the authority in " + t.Authority.Cert +
			" where the server's own verifies, else by one that nobody trusts"
		if len(certificates) > 0 {
			words += fmt.Sprintf("; %q while there is none to be named after", certificates[0].Name)
		}
		return words + "; a client that checks the server by DANE, or pins it, refuses it and wants a rule with inspect = \"watch\", or bypass"
	}
	if len(certificates) == 0 {
		return "no certificate: STARTTLS is not offered to clients, only the way to the server is secured"
	}
	names := make([]string, len(certificates))
	for i, c := range certificates {
		names[i] = fmt.Sprintf("%q", c.Name)
	}
	words := "the certificate " + names[0]
	if len(names) > 1 {
		words += ", or " + alternatives(names[1:]) + " where that one has the name they ask for (SNI)"
	}
	return words + "; STARTTLS is offered to them once the way to the server is secured"
}

// partnerStatements say what holds for all rules alike about the servers and the
// domains that mail goes to, and whom this machine asks for it.
func partnerStatements(c proxy.Config) []statement {
	list := []statement{{"published", publishedWords(c)}, {"remembered", rememberedWords(c.Memory)}}
	asks := c.Verify.Auto
	revocation, mx := false, false
	for _, r := range c.Rules {
		asks.DANE = asks.DANE || r.Verify == enforce.VerifyDANE
		asks.MTASTS = asks.MTASTS || r.Verify == enforce.VerifyMTASTS
		revocation = revocation || r.Revocation != enforce.RevocationOff
		mx = mx || len(r.ToMXOf) > 0
	}
	var out, servers []string
	for _, s := range c.Resolver.Servers {
		servers = append(servers, s.String())
	}
	if asks.Any() || mx {
		out = append(out, alternatives(servers)+" about names (DNS), whose word for DNSSEC "+believedWords(c.Resolver))
	}
	if asks.MTASTS {
		out = append(out, "the hosts of MTA-STS policies (HTTPS, port 443)")
	}
	if revocation {
		out = append(out, "OCSP responders and lists of revoked certificates (HTTP, port 80)")
	}
	if len(out) > 0 {
		list = append(list, statement{"asked", "this machine itself asks " + strings.Join(out, "; ")})
	}
	return list
}

func publishedWords(c proxy.Config) string {
	var what []string
	if c.Verify.Auto.DANE {
		what = append(what, "TLSA records (DANE)")
	}
	if c.Verify.Auto.MTASTS {
		what = append(what, "MTA-STS policy")
	}
	if len(what) == 0 {
		return "what recipient domains publish (DANE, MTA-STS) binds only where a rule asks for it"
	}
	words := "a recipient domain's " + strings.Join(what, " and ") + " must be satisfied, without any rule"
	if len(c.Verify.Relays) > 0 {
		words += "; not through smart hosts, which are those in " + alternatives(texts(c.Verify.Relays))
	}
	return words
}

func rememberedWords(m proxy.Memory) string {
	if m.Downgrade == "off" {
		return "nothing: a server that had TLS before and has none now is like one that never had"
	}
	becomes := "is refused (starttls-stripped)"
	if m.Downgrade == "log" {
		becomes = "is logged (starttls-stripped) and let pass"
	}
	where := "in memory alone, until Postern stops"
	if m.Store != "" {
		where = "in " + m.Store
	}
	if !m.Server.IsZero() {
		where = "on " + m.Server.String() + ", with all gateways that share it"
	}
	return fmt.Sprintf("a server or domain that had TLS within %s and has none now %s; kept %s", wholeDays(m.Remember), becomes, where)
}

func believedWords(r proxy.Resolver) string {
	switch r.TrustAD {
	case "always":
		return "is believed"
	case "never":
		return "is not believed"
	}
	on := func(a netip.AddrPort) bool { return a.Addr().IsLoopback() }
	switch {
	case !slices.ContainsFunc(r.Servers, on):
		return "is not believed, for they are on other machines"
	case !slices.ContainsFunc(r.Servers, func(a netip.AddrPort) bool { return !on(a) }):
		return "is believed"
	}
	return "is believed where they are on this machine"
}

// wholeDays words a duration that is written in whole days.
func wholeDays(d time.Duration) string {
	if n := int(d / (24 * time.Hour)); n != 1 {
		return fmt.Sprintf("%d days", n)
	}
	return "a day"
}
