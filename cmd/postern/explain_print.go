package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"strings"

	"postern/enforce"
)

// serverWords and clientWords say which facts are taken for given.
func (x *explainer) serverWords() string {
	switch {
	case !x.startTLS:
		return "does not offer STARTTLS"
	case x.version == 0:
		return "offers STARTTLS, and the handshake fails"
	case x.version < tls.VersionTLS12:
		return "offers STARTTLS and " + tls.VersionName(x.version) + ", nothing higher"
	}
	words := "offers STARTTLS, chooses " + tls.VersionName(x.version)
	if x.cipher != 0 {
		words += ", has no suite but " + tls.CipherSuiteName(x.cipher)
	}
	words += ", shows a certificate that verifies"
	if !x.chain.Verified {
		words = strings.TrimSuffix(words, "that verifies") + "that does not verify (" + x.chain.Detail + ")"
	}
	return words + ", " + forNames(x.certificate.DNSNames)
}

func forNames(names []string) string {
	if len(names) == 0 {
		return "for no name"
	}
	return "for " + strings.Join(names, ", ")
}

func (x *explainer) clientWords() string {
	switch {
	case x.held != 0:
		return "uses no TLS, and offered no more than " + tls.VersionName(x.held) + " before"
	case x.clientVersion == 0:
		return "uses no TLS"
	case x.clientShows == nil:
		return "uses " + tls.VersionName(x.clientVersion) + ", shows no certificate"
	}
	return "uses " + tls.VersionName(x.clientVersion) + ", shows a certificate that verifies, " + forNames(x.clientShows.DNSNames)
}

// column is where the words of a stage begin.
const column = 14

func (e *explanation) print(w io.Writer) error {
	var b strings.Builder
	row := func(about, words string) { paragraph(&b, fmt.Sprintf("%-*s", column, about), words) }
	given := func(address string, assumed bool) string {
		if assumed {
			return address + " (not given), "
		}
		return address + ", "
	}
	row("client", given(e.Client, e.assumed[0])+e.Facts[1].Words)
	row("server", given(e.Upstream, e.assumed[1])+e.Facts[0].Words)
	if e.From != "" {
		row("sender", e.From)
	}
	if len(e.To) > 0 {
		row("recipients", strings.Join(e.To, ", "))
	}
	for _, s := range e.Stages {
		b.WriteString("\n")
		s.write(row)
	}
	b.WriteString("\n")
	row("in all", e.summary())
	_, err := io.WriteString(w, b.String())
	return err
}

func (e *explanation) summary() string {
	words := e.Verdict
	if e.Reason != "" {
		words += ": " + e.Reason
	}
	if e.Verdict != allowed && e.Mode == "observe" {
		words += ` (mode = "observe": recorded, not spoken)`
	}
	return words
}

func (s stageResult) write(row func(about, words string)) {
	words := s.Verdict
	if s.Recipient != "" {
		words = s.Recipient + ": " + words
	}
	if s.Verdict != allowed {
		words += ", " + s.Reason + ": " + s.Detail
	}
	row(s.Stage, words)
	if s.Verdict != allowed {
		row("", "demanded by "+demander(s.DemandedBy, s.Reason))
	}
	if s.Reply != "" {
		row("", "reply "+s.Reply)
	}
	for i, f := range s.Failures {
		switch {
		case f.Logged:
			row("", fmt.Sprintf("only logged: %s, %s: %s", demander(f.DemandedBy, f.Reason), f.Reason, f.Detail))
		case i > 0:
			row("", fmt.Sprintf("likewise not met: %s, %s: %s", demander(f.DemandedBy, f.Reason), f.Reason, f.Detail))
		}
	}
	bound := false
	for _, r := range s.Rules {
		bound = bound || r.Binds
		if r.Binds {
			row("", fmt.Sprintf("rule %q binds (%s rule): %s", r.Name, r.Kind, r.Why))
		} else {
			row("", fmt.Sprintf("rule %q does not: %s", r.Name, r.Why))
		}
	}
	if envelope := s.Stage == enforce.AtMail.String() || s.Stage == enforce.AtRcpt.String(); envelope && !bound {
		row("", "no envelope rule binds")
	}
	for _, n := range s.Notes {
		row("", n)
	}
}

// demander names who demanded what was not met.
func demander(rule, reason string) string {
	if rule != "" {
		return fmt.Sprintf("rule %q", rule)
	}
	switch enforce.Reason(reason) {
	case enforce.RequireTLSNotPossible:
		return "the sender (REQUIRETLS)"
	case enforce.TLSVersionTooLow, enforce.ClientTLSTooLow:
		return "the floor, [tls] min_version"
	case enforce.StartTLSStripped:
		return "what is remembered of the server ([memory])"
	case enforce.DANEMismatch, enforce.DNSSECBogus, enforce.MTASTSCert, enforce.MTASTSMXMismatch,
		enforce.CertNotTrusted, enforce.CertExpired: // of a certificate no rule asks about
		return "what the recipient's domain publishes ([verify] auto)"
	}
	return "no rule alone: what failed is never replaced by cleartext"
}
