package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"postern/cmd/internal/probe"
	"postern/enforce"
)

// A probePage is a report as people read it.
type probePage struct{ strings.Builder }

// row writes words behind what they are about.
func (p *probePage) row(about, words string) {
	if words != "" {
		paragraph(&p.Builder, fmt.Sprintf("%-*s", column, about), words)
	}
}

func printProbe(w io.Writer, r *probe.Report) error {
	p := new(probePage)
	p.head(r)
	for i := range r.Hosts {
		h := &r.Hosts[i]
		p.host(h, r.Port)
		for n := range h.Addresses {
			p.address(&h.Addresses[n])
		}
	}
	p.WriteString("\n")
	for _, n := range r.Notes {
		p.row("note", n)
	}
	p.row("in all", inAll(r))
	_, err := io.WriteString(w, p.String())
	return err
}

func inAll(r *probe.Report) string {
	if r.Reached == 0 {
		return "no server was reached"
	}
	words := addressCount(r.Reached) + " reached"
	if r.Unknown > 0 {
		words += fmt.Sprintf(", %d not judged in time", r.Unknown)
	}
	if r.Refused == 0 {
		return words + ", none refused"
	}
	words += fmt.Sprintf(", %d refused", r.Refused)
	if r.Mode == "observe" {
		words += ` (mode = "observe": recorded, not spoken)`
	}
	return words
}

func addressCount(n int) string {
	if n == 1 {
		return "1 address"
	}
	return fmt.Sprintf("%d addresses", n)
}

func (p *probePage) head(r *probe.Report) {
	target := fmt.Sprintf("%s, port %d", r.Target, r.Port)
	if len(r.Hosts) > 0 && r.Hosts[0].Name == "" {
		target = r.Target // an address, with its port
	}
	p.row(r.Kind, target)
	if r.Kind == "host" && r.Domain != "" {
		p.row("held against", r.Domain)
	}
	by := r.Config
	if by == "" {
		by = "the built-in rule and the defaults: there is no " + defaultConfig
	}
	p.row("judged by", by)
	if r.MX != nil {
		words := r.MX.State
		if r.MX.Secure {
			words += ", secured by DNSSEC"
		}
		if r.MX.Detail != "" {
			words += ": " + r.MX.Detail
		}
		p.row("MX", words)
	}
	if m := r.MTASTS; m != nil {
		p.row("MTA-STS", stsWords(m))
	}
}

func stsWords(m *probe.MTASTS) string {
	words := m.State
	if m.Mode != "" {
		words = fmt.Sprintf("%s, for %s", m.Mode, (time.Duration(m.MaxAge) * time.Second).String())
		if len(m.MX) > 0 {
			words += ", hosts " + strings.Join(m.MX, ", ")
		}
	}
	if m.Detail != "" {
		words += ": " + m.Detail
	}
	return words
}

func (p *probePage) host(h *probe.Host, port uint16) {
	if h.Name == "" {
		return
	}
	title := h.Name
	if h.Preference != nil {
		title += fmt.Sprintf(" (preference %d)", *h.Preference)
	}
	fmt.Fprintf(p, "\n%s\n", title)
	p.row("  addresses", h.Detail)
	if d := h.DANE; d != nil {
		words := d.State
		if d.Base != "" {
			words += fmt.Sprintf(", _%d._tcp.%s", port, d.Base)
		}
		if d.Detail != "" {
			words += ": " + d.Detail
		}
		p.row("  DANE", words)
		for _, record := range d.Records {
			fmt.Fprintf(p, "    %s\n", record) // never broken: it is to be compared
		}
	}
	if h.MTASTS != nil && !*h.MTASTS {
		p.row("  MTA-STS", "the policy does not name this host")
	}
}

func (p *probePage) address(a *probe.Address) {
	fmt.Fprintf(p, "\n%s\n", a.Address)
	if !a.Reached {
		p.row("  NOT REACHED", a.Detail)
		return
	}
	p.row("  banner", a.Banner)
	p.row("  STARTTLS", startTLSWords(a.StartTLS))
	if s := a.Session; s != nil {
		p.row("  session", sessionWords(s))
	}
	p.tries("  versions", a.Versions)
	if s := a.Suites; s != nil {
		p.suites(s)
	}
	p.tries("  groups", a.Groups)
	if a.LeftAlone {
		p.row("", "the address was left alone: connections to it came to nothing")
	}
	if a.Chain != nil {
		p.chain(a)
	}
	if m := a.DANE; m != nil && m.State != "none" {
		p.row("  DANE", matchWords(m))
	}
	if m := a.MTASTS; m != nil {
		p.row("  MTA-STS", matchWords(m))
	}
	if a.Verdict != nil {
		p.verdict(a.Verdict)
	}
}

func startTLSWords(s *probe.StartTLS) string {
	if !s.Offered {
		words := "NOT OFFERED"
		if s.HELOOnly {
			words += ", the server knows HELO only"
		}
		if s.MarkWords != "" {
			words += "; " + s.MarkWords
		}
		return words
	}
	words := "offered"
	if s.Reply != 0 {
		words += fmt.Sprintf(", and answered %d", s.Reply)
	}
	if s.RequireTLS != nil && *s.RequireTLS {
		words += "; REQUIRETLS is offered in TLS"
	}
	return words
}

func sessionWords(s *probe.Session) string {
	var parts []string
	if s.State != enforce.StateOK.String() {
		parts = append(parts, "FAILED: "+s.Detail)
	}
	for _, part := range []string{s.Version, s.Cipher, s.Group} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	if s.State == enforce.StateOK.String() && !s.ForwardSecrecy {
		parts = append(parts, "no forward secrecy")
	}
	if s.ServerName != "" {
		parts = append(parts, "asked for as "+s.ServerName)
	}
	return strings.Join(parts, ", ")
}

// tries names what was accepted and what was refused, and tells of each that is
// not known why.
func (p *probePage) tries(about string, all []probe.Try) {
	var accepted, refused []string
	for _, t := range all {
		switch t.Result {
		case "accepted":
			accepted = append(accepted, t.Name)
		case "refused":
			refused = append(refused, t.Name)
		}
	}
	if len(all) == 0 {
		return
	}
	words := "none accepted"
	if len(accepted) > 0 {
		words = strings.Join(accepted, ", ")
	}
	if len(refused) > 0 {
		words += "; refused: " + strings.Join(refused, ", ")
	}
	p.row(about, words)
	for _, t := range all {
		if t.Result == "unknown" {
			p.row("", fmt.Sprintf("%s unknown: %s", t.Name, t.Detail))
		}
	}
}

func (p *probePage) suites(s *probe.Suites) {
	about := "  suites"
	for _, name := range append(append([]string{}, s.TLS13...), s.TLS12...) {
		p.row(about, name)
		about = ""
	}
	if !s.Complete {
		p.row(about, "there may be more: "+s.Detail)
	}
}

func matchWords(m *probe.Match) string {
	words := m.State
	if words == "mismatch" {
		words = "MISMATCH"
	}
	if m.Detail != "" {
		words += ": " + m.Detail
	}
	return words
}

func (p *probePage) verdict(v *probe.Verdict) {
	words := v.Verdict
	switch {
	case v.Reason != "":
		words = fmt.Sprintf("%s, %s: %s", strings.ToUpper(v.Verdict), v.Reason, v.Detail)
	case v.Detail != "":
		words += ": " + v.Detail
	}
	p.row("  VERDICT", words)
	if v.Reason != "" {
		p.row("", fmt.Sprintf("at %s, reply %s, demanded by %s", v.Stage, v.Reply, demander(v.By, v.Reason)))
	}
	binds := fmt.Sprintf("rule %q binds", v.Rule)
	if v.Envelope != "" {
		binds = fmt.Sprintf("rules %q and %q bind", v.Rule, v.Envelope)
	}
	p.row("", fmt.Sprintf("%s for the client %s", binds, v.Client))
	for _, l := range v.Logged {
		p.row("", "only logged: "+l)
	}
	for _, n := range v.Notes {
		p.row("", n)
	}
}

// chain tells of the certificate, and of all that depends on it.
func (p *probePage) chain(a *probe.Address) {
	c := a.Chain
	p.row("  certificate", c.Leaf.Subject)
	p.row("", "issued by "+c.Leaf.Issuer)
	names := strings.Join(c.Leaf.Names, ", ")
	if names == "" {
		names = "none"
	}
	if c.NameMatches != nil && !*c.NameMatches {
		names += " (NOT THIS HOST'S)"
	}
	p.row("  names", names)
	p.row("  key", c.Leaf.Key)
	p.row("  valid", validWords(c.Leaf))
	fmt.Fprintf(p, "  sha256:%s\n  spki-sha256:%s\n", c.Leaf.SHA256, c.Leaf.SPKISHA256)
	if len(c.Shown) > 1 {
		p.row("  chain", fmt.Sprintf("%d certificates shown, the last issued by %s", len(c.Shown), c.Shown[len(c.Shown)-1].Issuer))
	}
	if c.Verified {
		p.row("  trusted", "yes, by "+c.Root)
	} else {
		p.row("  trusted", "NO, "+c.Reason+": "+c.Detail)
	}
	if c.RuleTrusts != nil {
		words := "NO: " + c.RuleDetail
		if *c.RuleTrusts {
			words = "yes"
		}
		p.row("  by the rule", fmt.Sprintf("%s (ca %s)", words, c.RuleRoots))
	}
	if c.Staple != "none" {
		p.row("  stapled", strings.TrimSuffix(c.Staple+": "+c.StapleWords, ": "))
	}
	if r := a.Revoked; r != nil {
		words := r.State
		if r.Source != "" {
			words += ", says " + r.Source
		}
		if r.Detail != "" {
			words += ": " + r.Detail
		}
		p.row("  revocation", words)
	}
	for _, e := range a.Reach {
		words := "reached: "
		if !e.OK {
			words = "NOT REACHED: "
		}
		p.row("  "+e.Kind, e.URL)
		p.row("", words+e.Detail)
	}
}

func validWords(c probe.Certificate) string {
	words := fmt.Sprintf("%s to %s", c.NotBefore.Format(time.DateOnly), c.NotAfter.Format(time.DateOnly))
	if c.DaysLeft < 0 {
		return words + " (EXPIRED)"
	}
	return fmt.Sprintf("%s (%s left)", words, plural(c.DaysLeft, "day"))
}
