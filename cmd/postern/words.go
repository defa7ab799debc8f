package main

import (
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"postern/enforce"
)

// Rules in words, for those who run mail and not for those who wrote this.

// ruleWords says in a few sentences what a rule does, under a floor such as
// tls.VersionTLS12.
func ruleWords(r *enforce.Rule, floor uint16) string {
	sentences := []string{scopeWords(r) + ": " + upstreamWords(r, floor) + "."}
	if text := clientWords(r); text != "" {
		sentences = append(sentences, text+".")
	}
	if r.TLS != enforce.Off || r.ClientTLS != enforce.ClientAny { // else nothing is demanded
		sentences = append(sentences, violationWords(r, floor)+".")
	}
	return strings.Join(sentences, " ")
}

// scopeWords says whom a rule is for.
func scopeWords(r *enforce.Rule) string {
	if r.Name == enforce.DefaultRule {
		return "All other connections"
	}
	var b strings.Builder
	if r.Envelope() {
		b.WriteString("Mail")
		wordList(&b, " from senders in ", r.FromDomains)
		wordList(&b, " to recipients in ", r.ToDomains)
		wordList(&b, ", sent by clients in ", texts(r.FromNetworks))
		wordList(&b, ", through servers in ", texts(r.ToNetworks))
		return b.String()
	}
	if len(r.FromNetworks)+len(r.ToNetworks)+len(r.ToMXOf) == 0 {
		return "All connections"
	}
	b.WriteString("Connections")
	wordList(&b, " from clients in ", texts(r.FromNetworks))
	if len(r.ToMXOf) == 0 {
		wordList(&b, " to servers in ", texts(r.ToNetworks))
		return b.String()
	}
	wordList(&b, " to the MX hosts of ", r.ToMXOf)
	wordList(&b, ", or to servers in ", texts(r.ToNetworks))
	if r.TLS != enforce.Off {
		b.WriteString(", and mail to recipients there, by whatever server")
	}
	return b.String()
}

func wordList(b *strings.Builder, before string, list []string) {
	if len(list) > 0 {
		b.WriteString(before + alternatives(list))
	}
}

func texts(networks []netip.Prefix) []string {
	var all []string
	for _, p := range networks {
		if p.IsSingleIP() {
			all = append(all, p.Addr().String())
		} else {
			all = append(all, p.String())
		}
	}
	return all
}

// alternatives writes a list as "a, b or c".
func alternatives(list []string) string {
	if len(list) < 2 {
		return strings.Join(list, "")
	}
	last := len(list) - 1
	return strings.Join(list[:last], ", ") + " or " + list[last]
}

// upstreamWords says what a rule demands of the way to the server, and what it
// does there.
func upstreamWords(r *enforce.Rule, floor uint16) string {
	version := tls.VersionName(max(r.MinVersion, floor))
	var parts []string
	switch {
	case r.TLS == enforce.Off:
		parts = append(parts, "TLS is not used towards the server, the mail leaves in clear")
	case r.TLS == enforce.Forced:
		parts = append(parts, version+" or later is required towards the server"+certificateWords(r))
	case r.Envelope():
		parts = append(parts, "where the server was given TLS it must be "+version+" or later")
	default:
		parts = append(parts, version+" or later towards a server that offers STARTTLS, cleartext towards one that does not")
		parts = append(parts, fallbackWords(r, floor))
	}
	if r.ForwardSecrecy {
		parts = append(parts, "the keys must be ephemeral (forward secrecy)")
	}
	if len(r.Ciphers) > 0 {
		var names []string
		for _, id := range r.Ciphers {
			names = append(names, tls.CipherSuiteName(id))
		}
		parts = append(parts, "with TLS 1.2 only "+alternatives(names))
	}
	switch r.Revocation {
	case enforce.RevocationSoft:
		parts = append(parts, "nor may the certificate be known to be revoked")
	case enforce.RevocationHard:
		parts = append(parts, "and the certificate must be known not to be revoked")
	}
	if !r.Auto {
		parts = append(parts, "what the recipient's domain publishes (DANE, MTA-STS) does not bind")
	}
	if r.ServerName != "" {
		parts = append(parts, "the server is asked for as "+r.ServerName+" (SNI)")
	}
	if r.ClientCertificate != "" {
		parts = append(parts, fmt.Sprintf("a server that asks for a certificate is shown %q", r.ClientCertificate))
	}
	return strings.Join(parts, "; ")
}

func certificateWords(r *enforce.Rule) string {
	roots := "the trusted roots"
	if r.CA != "" {
		roots = "the roots in " + r.CA
	}
	switch r.Verify {
	case enforce.VerifyCA:
		return ", with a certificate that leads to " + roots
	case enforce.VerifyName:
		return ", with a certificate that leads to " + roots + " and is for " + alternatives(r.Names)
	case enforce.VerifyFingerprint:
		var pins []string
		for _, f := range r.Fingerprints {
			pins = append(pins, pinWords(f))
		}
		return ", with the certificate or key " + alternatives(pins)
	case enforce.VerifyDANE:
		return ", with a certificate that the recipient domain's TLSA records name (DANE)"
	case enforce.VerifyMTASTS:
		return ", with a certificate and a host that the recipient domain's MTA-STS policy names"
	}
	return ", whatever its certificate"
}

// pinWords writes a fingerprint by its beginning; nobody reads the rest.
func pinWords(f enforce.Fingerprint) string {
	kind := "sha256:"
	if f.SPKI {
		kind = "spki-sha256:"
	}
	return kind + hex.EncodeToString(f.SHA256[:8]) + "…"
}

func fallbackWords(r *enforce.Rule, floor uint16) string {
	if r.OnHandshakeFailure == enforce.Cleartext {
		return "where the handshake fails the server is dialled again in clear, but never one that showed less than " + tls.VersionName(floor)
	}
	return "a handshake that fails is not replaced by cleartext"
}

// clientWords says what a rule does on the client leg, "" where it is nothing
// out of the ordinary.
func clientWords(r *enforce.Rule) string {
	var parts []string
	switch r.ClientTLS {
	case enforce.ClientRequired:
		parts = append(parts, "Clients must use TLS themselves")
	case enforce.ClientVerified:
		text := "Clients must use TLS themselves and show a certificate that leads to the trusted roots"
		if len(r.ClientNames) > 0 {
			text += " and is for " + alternatives(r.ClientNames)
		}
		parts = append(parts, text)
	}
	if r.ClientStartTLS == enforce.Always {
		parts = append(parts, "STARTTLS is offered to clients even where the way to the server is in clear")
	}
	if r.Inspect == enforce.Watch {
		text := "A client's TLS passes through to the server and is looked at, and the client sees the server's own certificate"
		if r.Auto {
			text += "; what recipient domains publish is not enforced inside"
		}
		parts = append(parts, text+"; mail that a client sends in clear is secured from here")
	}
	return strings.Join(parts, ". ")
}

func violationWords(r *enforce.Rule, floor uint16) string {
	what := "What falls short is "
	if r.Envelope() {
		what = "A sender or recipient for whom this does not hold is "
	}
	switch r.OnViolation {
	case enforce.OnViolationReject:
		return what + "rejected (5xx: the sender gives up)"
	case enforce.OnViolationLog:
		return "What falls short is let pass and logged, but never TLS below " + tls.VersionName(floor)
	}
	return what + "deferred (4xx: the sender keeps the mail and tries again)"
}

// lastDay is the last day on which a rule matches; "" when it has none.
func lastDay(r *enforce.Rule) string {
	if r.Expires.IsZero() {
		return ""
	}
	return r.Expires.Add(-time.Second).Format(time.DateOnly)
}

func expired(r *enforce.Rule, now time.Time) bool {
	return !r.Expires.IsZero() && !now.Before(r.Expires)
}

// kindOf names the kind of a rule as the documentation does.
func kindOf(r *enforce.Rule) string {
	switch {
	case r.Name == enforce.DefaultRule:
		return "built-in"
	case r.Envelope():
		return "envelope"
	}
	return "connection"
}
