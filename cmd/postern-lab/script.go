package main

const builtIn = "default" // the name of the built-in rule

// conversations are what the demo shows, in this order, and what has to come of
// each.
func conversations(s senders) []conversation {
	all := encrypted(s)
	all = append(all, unencrypted(s)...)
	all = append(all, partners(s)...)
	all = append(all, clients(s)...)
	return append(all, faults(s)...)
}

// encrypted are those that Postern upgrades or passes on in TLS.
func encrypted(s senders) []conversation {
	return []conversation{
		{"A scanner that knows no TLS is upgraded", s.scanner, "mx.partner.example", to("office@partner.example"),
			outcome{delivered: true, verdict: "allow", rule: builtIn, client: "none", upstream: "TLS 1.3", verified: true}},
		{"A device that only says HELO is upgraded", s.printer, "mx.partner.example", to("office@partner.example"),
			outcome{delivered: true, verdict: "allow", rule: builtIn, client: "none", upstream: "TLS 1.3", verified: true}},
		{"TLS on both legs", s.relay, "mx.partner.example", to("office@partner.example"),
			outcome{delivered: true, verdict: "allow", rule: builtIn, client: "TLS 1.3", upstream: "TLS 1.3", verified: true}},
		{"TLS on both legs, over IPv6", s.six, "mx.six.example", to("office@six.example"),
			outcome{delivered: true, verdict: "allow", rule: builtIn, client: "TLS 1.3", upstream: "TLS 1.3", verified: true}},
		{"Pipelined commands, to a server that ends at TLS 1.2", s.pipelining, "mx.tls12.example", pipelined("a@tls12.example", "b@tls12.example"),
			outcome{delivered: true, verdict: "allow", rule: builtIn, client: "TLS 1.3", upstream: "TLS 1.2", verified: true}},
		{"A binary message in pipelined chunks (BDAT)", s.pipelining, "mx.partner.example", chunked("archive@partner.example"),
			outcome{delivered: true, verdict: "allow", rule: builtIn, client: "TLS 1.3", upstream: "TLS 1.3", verified: true}},
		{"A self-signed certificate is encryption all the same", s.relay, "mx.small.example", to("info@small.example"),
			outcome{delivered: true, verdict: "allow", rule: builtIn, client: "TLS 1.3", upstream: "TLS 1.3"}},
	}
}

// unencrypted are servers that have no TLS, or none that may be used.
func unencrypted(s senders) []conversation {
	return []conversation{
		{"TLS 1.0 and nothing else is blocked, never replaced by cleartext", s.scanner, "mx.old.example", to("info@old.example"),
			outcome{verdict: "defer", reason: "tls-version-too-low", rule: builtIn, client: "none", upstream: "failed TLS 1.0",
				refusals: []string{"421 4.7.5 mx.old.example: TLS 1.0 is below TLS 1.2"}}},
		{"The same, from a server that answers with an alert", s.relay, "mx.older.example", to("info@older.example"),
			outcome{verdict: "defer", reason: "tls-version-too-low", rule: builtIn, client: "none", upstream: "failed",
				refusals: []string{"421 4.7.5 mx.older.example: "}}},
		{"No STARTTLS, and no rule that asks for it: delivered, and said so", s.relay, "mx.plain.example", to("info@plain.example"),
			outcome{delivered: true, verdict: "allow", rule: builtIn, client: "none", upstream: "none"}},
		{"No STARTTLS at a partner that must have it: the mail waits", s.relay, "mx.clinic.example", to("ward@clinic.example"),
			outcome{verdict: "defer", reason: "starttls-not-offered", rule: "clinic", client: "none", upstream: "none",
				refusals: []string{"421 4.7.4 mx.clinic.example: STARTTLS is not offered"}}},
		{"The same under on_violation = \"reject\": the mail bounces", s.scanner, "mx.tax.example", to("inbox@tax.example"),
			outcome{verdict: "reject", reason: "starttls-not-offered", rule: "tax", client: "none", upstream: "none",
				refusals: []string{"554 5.7.4 mx.tax.example: STARTTLS is not offered"}}},
	}
}

// partners are those whose certificate has to be the right one.
func partners(s senders) []conversation {
	return []conversation{
		{"A partner that proves its name", s.scanner, "mx.bank.example", to("desk@bank.example"),
			outcome{delivered: true, verdict: "allow", rule: "bank", client: "none", upstream: "TLS 1.3", verified: true}},
		{"A partner with a certificate of somebody else", s.scanner, "mx2.bank.example", to("desk@bank.example"),
			outcome{verdict: "defer", reason: "cert-name-mismatch", rule: "bank", client: "none", upstream: "TLS 1.3", verified: true,
				refusals: []string{"421 4.7.5 mx2.bank.example: the certificate is for elsewhere.invalid"}}},
		{"A partner with an expired certificate", s.scanner, "mx3.bank.example", to("desk@bank.example"),
			outcome{verdict: "defer", reason: "cert-expired", rule: "bank", client: "none", upstream: "TLS 1.3",
				refusals: []string{"421 4.7.5 mx3.bank.example: the certificate expired on "}}},
		{"One recipient's domain asks for more than this server has", s.scanner, "mx.partner.example", to("judge@court.example", "office@partner.example"),
			outcome{delivered: true, verdict: "defer", reason: "cert-name-mismatch", rule: builtIn, client: "none", upstream: "TLS 1.3", verified: true,
				refusals: []string{"451 4.7.5 mx.partner.example: "}}},
	}
}

// clients are demands on the client leg.
func clients(s senders) []conversation {
	return []conversation{
		{"A client that has to show a certificate, and does", s.branch, "mx.partner.example", to("office@partner.example"),
			outcome{delivered: true, verdict: "allow", rule: "branch", client: "TLS 1.3", upstream: "TLS 1.3", verified: true}},
		{"A client that has to show a certificate, and has none", s.strangers, "mx.partner.example", to("office@partner.example"),
			outcome{verdict: "defer", reason: "client-cert-missing", rule: "branch", client: "TLS 1.3", upstream: "TLS 1.3", verified: true,
				refusals: []string{"451 4.7.5 mx.partner.example: "}}},
		{"A client that has to have TLS, and knows none", s.plainBranch, "mx.partner.example", to("office@partner.example"),
			outcome{verdict: "defer", reason: "client-tls-required", rule: "branch", client: "none", upstream: "TLS 1.3", verified: true,
				refusals: []string{"451 4.7.0 mx.partner.example: "}}},
		{"A client whose TLS is too old", s.old, "mx.partner.example", to("office@partner.example"),
			outcome{verdict: "defer", reason: "client-tls-too-low", rule: builtIn, client: "failed", upstream: "TLS 1.3", verified: true,
				cut: true}},
	}
}

// faults are servers that are attacked, broken or gone.
func faults(s senders) []conversation {
	return []conversation{
		{"Somebody puts words in clear behind the reply to STARTTLS", s.scanner, "mx.tampered.example", to("info@tampered.example"),
			outcome{verdict: "defer", reason: "starttls-injection", rule: builtIn, client: "none", upstream: "failed",
				refusals: []string{"421 4.5.2 mx.tampered.example: "}}},
		{"A server that never answers in the handshake", s.scanner, "mx.slow.example", to("info@slow.example"),
			outcome{verdict: "defer", reason: "tls-handshake-failed", rule: builtIn, client: "none", upstream: "failed",
				refusals: []string{"421 4.7.5 mx.slow.example: the TLS handshake failed: timeout"}}},
		{"A server that hangs up in the middle of a message", s.scanner, "mx.fragile.example", pipelined("info@fragile.example"),
			outcome{verdict: "defer", reason: "upstream-lost", rule: builtIn, client: "none", upstream: "TLS 1.3", verified: true,
				refusals: []string{"421 4.4.2 mx.fragile.example: "}}},
		{"A server that is not there", s.scanner, "mx.gone.example", to("info@gone.example"),
			outcome{verdict: "defer", reason: "upstream-unreachable", rule: builtIn, client: "none", upstream: "none",
				refusals: []string{"421 4.4.1 [203.0.113.19]: the server cannot be reached"}}},
	}
}

// observed are held after a reload with mode = "observe".
func observed(s senders) []conversation {
	return []conversation{
		{"Observed only: TLS 1.0 as it was without Postern, and recorded", s.old, "mx.older.example", to("info@older.example"),
			outcome{delivered: true, verdict: "defer", reason: "tls-version-too-low", rule: builtIn, client: "none", upstream: "failed", observed: true}},
		{"Observed only: a partner that must have STARTTLS and has not", s.scanner, "mx.clinic.example", to("ward@clinic.example"),
			outcome{delivered: true, verdict: "defer", reason: "starttls-not-offered", rule: "clinic", client: "none", upstream: "none", observed: true}},
	}
}
