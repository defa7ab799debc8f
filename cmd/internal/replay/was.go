package replay

import (
	"slices"

	"postern/cmd/internal/recorded"
	"postern/enforce"
)

// What became of a session, by what its record says.

// wasConnection is what became of the connection before the envelope.
func wasConnection(r *recorded.Record) Outcome {
	early := r.Stage != enforce.AtMail.String() && r.Stage != enforce.AtRcpt.String()
	if !r.Refused() || !early || ofTheWire(r.Reason) {
		return Outcome{}
	}
	return refusedFor(r.Reason)
}

// ofTheWire reports whether a reason is no policy's: the peers, a limit, the wire.
func ofTheWire(reason enforce.Reason) bool {
	return slices.Contains([]enforce.Reason{enforce.ClientHandshakeFailed, enforce.ClientRefusedCertificate, enforce.StartTLSInjection,
		enforce.BareNewline, enforce.ProtocolError, enforce.UpstreamUnreachable, enforce.UpstreamLost, enforce.Overload}, reason)
}

// recipients gives the domains of a transaction's recipients, each once: those
// that were accepted and those that anybody refused.
func recipients(t recorded.Transaction) []string {
	domains := slices.Clone(t.RcptDomains)
	for _, no := range t.Refused {
		if !slices.Contains(domains, no.Domain) && !(t.Accepted == 0 && len(t.Refused) == 1 && no.Domain == t.MailDomain) {
			domains = append(domains, no.Domain)
		}
	}
	return domains
}

// ofSender reports whether Postern refused the sender of a transaction. That entry
// looks like one of a recipient of the sender's own domain; the stage tells them
// apart where it is of the same refusal.
func ofSender(r *recorded.Record, t recorded.Transaction) bool {
	return t.Accepted == 0 && len(t.RcptDomains) == 0 && len(t.Refused) == 1 && t.Refused[0].Domain == t.MailDomain && t.Refused[0].Reason != "" &&
		(r.Reason != t.Refused[0].Reason || r.Stage == enforce.AtMail.String())
}

// wasRecipient is what became of the recipients of a domain. Of what is observed
// the record has the first verdict, and not whom it was on.
func (c *session) wasRecipient(t recorded.Transaction, domain string) Outcome {
	if reason := refusal(t, domain); reason != "" {
		return refusedFor(reason)
	}
	r := c.rec
	if !r.Observed() || !r.Refused() || ofTheWire(r.Reason) {
		return Outcome{}
	}
	if early := wasConnection(r); early.Refused || len(r.Transactions) == 1 && len(recipients(t)) == 1 {
		return refusedFor(r.Reason)
	}
	return Outcome{Unknown: "which recipient the verdict was on, of what was only observed"}
}

// refusal gives why Postern refused recipients of a domain, "" where it did not.
func refusal(t recorded.Transaction, domain string) enforce.Reason {
	for _, no := range t.Refused {
		if no.Domain == domain && no.Reason != "" {
			return no.Reason
		}
	}
	return ""
}

// gave reports whether a session had a reason among its failures.
func gave(r *recorded.Record, reason enforce.Reason) bool {
	return r.Reason == reason || slices.ContainsFunc(r.Failures, func(f recorded.Failure) bool { return f.Reason == reason })
}
