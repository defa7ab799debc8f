package main

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"unicode"

	"postern/cmd/internal/recorded"
	"postern/enforce"
)

// shownSafe makes what stands in a record fit for a terminal: Postern wrote it
// escaped, but the file came through others' hands.
func shownSafe(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// recordFacts say what was found of both peers and their mail.
func recordFacts(r *recorded.Record) []statement {
	facts := []statement{
		{"client", peerWords(r.Client, r.Client.Helo, "called itself ") + "; " + legWords(&r.ClientTLS)},
		{"server", peerWords(r.Upstream, r.Upstream.Banner, "said ") + "; " + legWords(&r.UpstreamTLS)},
	}
	if c := r.UpstreamTLS.Certificate; c != nil {
		facts = append(facts, statement{"certificate", certificateFacts(&r.UpstreamTLS, c)})
	}
	if words := publishedFacts(&r.UpstreamTLS); words != "" {
		facts = append(facts, statement{"published", words})
	}
	const most = 5
	for i, t := range r.Transactions {
		if i == most {
			facts = append(facts, statement{"mail", fmt.Sprintf("and %d more", len(r.Transactions)-most)})
			break
		}
		facts = append(facts, statement{"mail", mailFacts(t)})
	}
	return facts
}

func peerWords(p recorded.Peer, said, how string) string {
	words := "unknown"
	if p.Address != "" {
		words = net.JoinHostPort(p.Address, strconv.Itoa(int(p.Port)))
	}
	if said != "" {
		words += ", " + how + fmt.Sprintf("%q", said)
	}
	return words
}

func legWords(l *recorded.Leg) string {
	var parts []string
	switch chosen := strings.TrimSpace(l.Version + " " + l.Cipher); {
	case l.State == "none":
		parts = append(parts, "no TLS")
	case l.State == "ok":
		parts = append(parts, chosen)
	case l.State == "watched":
		parts = append(parts, chosen+", passed through")
	case l.State == "failed" && chosen != "":
		parts = append(parts, "the handshake failed, "+chosen+" was chosen")
	case l.State == "failed":
		parts = append(parts, "the handshake failed")
	default:
		parts = append(parts, "nothing is known of its TLS")
	}
	if len(l.Offered) > 0 && l.State != "ok" {
		parts = append(parts, "it offered "+strings.Join(l.Offered, ", "))
	}
	if l.Hold != nil {
		parts = append(parts, "held to "+l.Hold.Offered+" until "+l.Hold.Until)
	}
	if l.StrippedBy != "" {
		parts = append(parts, "STARTTLS bears the mark "+l.StrippedBy)
	}
	return strings.Join(parts, "; ")
}

func certificateFacts(l *recorded.Leg, c *recorded.Certificate) string {
	words := "for " + strings.Join(c.Names, ", ")
	if len(c.Names) == 0 {
		words = "for no name"
	}
	words += ", of " + c.Issuer + ", until " + c.NotAfter
	switch {
	case l.Verified:
		words += "; it verified"
	case l.VerifyError != "":
		words += "; it did not verify: " + l.VerifyError
	}
	if l.Revocation != "" {
		words += "; revocation: " + l.Revocation
	}
	return words
}

func publishedFacts(l *recorded.Leg) string {
	var parts []string
	if l.DANE != "" {
		parts = append(parts, "DANE: "+l.DANE)
	}
	if l.MTASTS != "" {
		parts = append(parts, "MTA-STS: "+l.MTASTS)
	}
	return strings.Join(parts, "; ")
}

func mailFacts(t recorded.Transaction) string {
	from, to := t.MailDomain, strings.Join(t.RcptDomains, ", ")
	if from == "" {
		from = "<>"
	}
	if to == "" {
		to = "nobody"
	}
	words := fmt.Sprintf("from %s to %s, recipients accepted: %d", from, to, t.Accepted)
	if len(t.Refused) > 0 {
		words += fmt.Sprintf(", refused: %d", len(t.Refused))
	}
	if t.Reply != "" {
		words += fmt.Sprintf("; %d octets, %s", t.Bytes, t.Reply)
	}
	return words
}

func (e *recordExplanation) print(w io.Writer) error {
	var b strings.Builder
	row := func(about, words string) {
		if words != "" {
			paragraph(&b, fmt.Sprintf("%-*s", column, about), shownSafe(words))
		}
	}
	row("session", strings.TrimSuffix(e.Session+", "+e.Time, ", "))
	for _, f := range e.Facts {
		row(f.About, f.Words)
	}
	row("rule", e.Rule)
	row("ended", e.End)
	for _, f := range e.Findings {
		b.WriteString("\n")
		f.write(&b, row)
	}
	b.WriteString("\n")
	row("in all", (&explanation{Verdict: e.Verdict, Reason: e.Reason, Mode: e.Mode}).summary())
	_, err := io.WriteString(w, b.String())
	return err
}

func (f *recordFinding) write(b *strings.Builder, row func(about, words string)) {
	about := f.Reason
	if f.Logged {
		about += " (only logged)"
	}
	b.WriteString(shownSafe(about) + "\n")
	row("  it means", f.Means)
	row("  found", f.Found)
	row("  demanded by", f.demander())
	row("  refused", strings.Join(f.Domains, ", "))
	row("  there", f.There)
	row("  here", f.Here)
	if f.Mend != "" {
		b.WriteString("\n")
		for _, line := range strings.Split(f.Mend, "\n") {
			b.WriteString(strings.TrimRight("    "+line, " ") + "\n")
		}
	}
}

// demander names who demanded what was not met, "" where nobody is needed for it.
func (f *recordFinding) demander() string {
	switch reason := enforce.Reason(f.Reason); {
	case f.DemandedBy != "", reason == enforce.RequireTLSNotPossible:
		return demander(f.DemandedBy, f.Reason)
	case strings.HasPrefix(f.Reason, "dane-"), strings.HasPrefix(f.Reason, "mta-sts-"), reason == enforce.DNSSECBogus:
		return "the recipient's domain, by what it publishes ([verify] auto)"
	case reason == enforce.StartTLSStripped:
		return "memory, [memory] downgrade"
	}
	return ""
}
