package record

import (
	"fmt"
	"strings"

	"postern/enforce"
	"postern/smtpwire/tlshello"
)

// Summary tells a session in one line, for people.
func (r *Record) Summary() string {
	var b strings.Builder
	fmt.Fprintf(&b, "session %s %s -> %s", r.Session, r.Client.Address, r.Upstream.Address)
	if r.Client.Helo != "" {
		fmt.Fprintf(&b, " helo %s", r.Client.Helo)
	}
	fmt.Fprintf(&b, ": %s", r.Verdict)
	if r.Reason != "" {
		fmt.Fprintf(&b, " (%s", r.Reason)
		if r.Detail != "" {
			fmt.Fprintf(&b, ": %s", r.Detail)
		}
		b.WriteString(")")
	}
	if r.Mode == "observe" {
		b.WriteString(" [observed only]")
	}
	fmt.Fprintf(&b, "; client %s; upstream %s", r.ClientTLS.words(), r.UpstreamTLS.words())
	for _, t := range r.Transactions {
		fmt.Fprintf(&b, "; mail %s -> %s", or(t.MailDomain, "<>"), or(strings.Join(t.RcptDomains, ","), "nobody"))
		for _, no := range t.Refused {
			fmt.Fprintf(&b, ", %s refused %s", no.Domain, or(string(no.Reason), no.Reply))
		}
		if t.Reply != "" {
			fmt.Fprintf(&b, ", %d octets: %s", t.Bytes, t.Reply)
		}
	}
	fmt.Fprintf(&b, "; %s", r.End)
	return b.String()
}

func (l Leg) words() string {
	switch {
	case l.State == enforce.StateNone:
		return "in clear"
	case l.State == enforce.StateUnknown:
		return "unknown"
	case l.Version == 0:
		return "TLS " + l.State.String()
	}
	words := tlshello.VersionName(l.Version)
	if l.Cipher != 0 {
		words += " " + tlshello.CipherName(l.Cipher)
	}
	if l.State != enforce.StateOK {
		words += " " + l.State.String()
	}
	return words
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
