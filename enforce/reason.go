package enforce

import (
	"maps"
	"slices"
)

// A Reason names why a session, sender or recipient was refused. The same
// identifier stands in the reply, the record, the metrics and every report.
type Reason string

// The reasons. An empty Reason means that nothing failed.
const (
	StartTLSNotOffered Reason = "starttls-not-offered"
	StartTLSRefused    Reason = "starttls-refused"
	StartTLSStripped   Reason = "starttls-stripped"

	TLSVersionTooLow    Reason = "tls-version-too-low"
	TLSCipherNotAllowed Reason = "tls-cipher-not-allowed"
	TLSNoForwardSecrecy Reason = "tls-no-forward-secrecy"
	TLSHandshakeFailed  Reason = "tls-handshake-failed"

	CertNotTrusted          Reason = "cert-not-trusted"
	CertExpired             Reason = "cert-expired"
	CertNameMismatch        Reason = "cert-name-mismatch"
	CertFingerprintMismatch Reason = "cert-fingerprint-mismatch"
	CertRevoked             Reason = "cert-revoked"
	CertMissingRevocation   Reason = "cert-missing-revocation"

	DANEMismatch     Reason = "dane-mismatch"
	DANERequired     Reason = "dane-required"
	DNSSECBogus      Reason = "dnssec-bogus"
	MTASTSCert       Reason = "mta-sts-cert"
	MTASTSMXMismatch Reason = "mta-sts-mx-mismatch"
	MTASTSPolicy     Reason = "mta-sts-policy"
	MTASTSFetch      Reason = "mta-sts-fetch"
	MXUnknown        Reason = "mx-unknown"

	RequireTLSNotPossible Reason = "requiretls-not-possible"

	ClientTLSRequired        Reason = "client-tls-required"
	ClientTLSTooLow          Reason = "client-tls-too-low"
	ClientCertMissing        Reason = "client-cert-missing"
	ClientCertMismatch       Reason = "client-cert-mismatch"
	ClientHandshakeFailed    Reason = "client-handshake-failed"
	ClientRefusedCertificate Reason = "client-refused-certificate"

	StartTLSInjection Reason = "starttls-injection"
	BareNewline       Reason = "bare-newline"
	ProtocolError     Reason = "protocol-error"

	UpstreamUnreachable Reason = "upstream-unreachable"
	UpstreamLost        Reason = "upstream-lost"
	Overload            Reason = "overload"
)

// status is what a refusal for a reason is answered with. RFC 3463 gives the
// enhanced codes their meaning; the first digit follows the verdict unless a
// reason has codes of its own.
type status struct {
	subject string // enhanced code without its class: "7.5"
	deferAs string // whole codes where the class does not simply follow the verdict
	reject  string
}

var statuses = map[Reason]status{
	StartTLSNotOffered:       {subject: "7.4"},
	StartTLSRefused:          {subject: "7.4"},
	StartTLSStripped:         {subject: "7.4"},
	TLSVersionTooLow:         {subject: "7.5"},
	TLSCipherNotAllowed:      {subject: "7.5"},
	TLSNoForwardSecrecy:      {subject: "7.5"},
	TLSHandshakeFailed:       {subject: "7.5"},
	CertNotTrusted:           {subject: "7.5"},
	CertExpired:              {subject: "7.5"},
	CertNameMismatch:         {subject: "7.5"},
	CertFingerprintMismatch:  {subject: "7.5"},
	CertRevoked:              {subject: "7.5"},
	CertMissingRevocation:    {subject: "7.5"},
	DANEMismatch:             {subject: "7.5"},
	DANERequired:             {subject: "7.5"},
	DNSSECBogus:              {subject: "7.5"},
	MTASTSCert:               {subject: "7.5"},
	MTASTSMXMismatch:         {subject: "7.5"},
	MTASTSPolicy:             {subject: "7.5"},
	MTASTSFetch:              {subject: "7.5"},
	MXUnknown:                {subject: "7.5"},
	RequireTLSNotPossible:    {deferAs: "550 5.7.30", reject: "550 5.7.30"}, // RFC 8689 §5
	ClientTLSRequired:        {deferAs: "451 4.7.0", reject: "530 5.7.0"},   // RFC 3207 §4
	ClientTLSTooLow:          {subject: "7.5"},
	ClientCertMissing:        {subject: "7.5"},
	ClientCertMismatch:       {subject: "7.5"},
	ClientHandshakeFailed:    {subject: "7.5"},
	ClientRefusedCertificate: {subject: "7.5"},
	StartTLSInjection:        {subject: "5.2"},
	BareNewline:              {subject: "5.2"},
	ProtocolError:            {subject: "5.2"},
	UpstreamUnreachable:      {subject: "4.1"},
	UpstreamLost:             {subject: "4.2"},
	Overload:                 {subject: "3.2"},
}

// Reasons gives all reasons, in the order of their names.
func Reasons() []Reason { return slices.Sorted(maps.Keys(statuses)) }

// Codes gives the reply code and the enhanced status code that a refusal of one
// sender or recipient is spoken with: "451 4.7.5". A refusal of the whole
// connection uses other reply codes with the same enhanced code; see Enhanced.
func (r Reason) Codes(a Action) string {
	s := statuses[r]
	switch {
	case a == Reject && s.reject != "":
		return s.reject
	case a != Reject && s.deferAs != "":
		return s.deferAs
	case a == Reject:
		return "550 " + r.Enhanced(a)
	}
	return "451 " + r.Enhanced(a)
}

// Enhanced gives the enhanced status code (RFC 3463) of a refusal for r, its
// class chosen by the action: "4.7.5" to defer, "5.7.5" to reject.
func (r Reason) Enhanced(a Action) string {
	s := statuses[r]
	whole := s.deferAs
	if a == Reject {
		whole = s.reject
	}
	if len(whole) > 4 {
		return whole[4:]
	}
	if s.subject == "" {
		s.subject = "7.0" // a reason nobody entered above is still a refusal
	}
	if a == Reject {
		return "5." + s.subject
	}
	return "4." + s.subject
}
