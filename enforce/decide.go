package enforce

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Stage is a point of the session at which a verdict is asked for.
type Stage uint8

// The stages in the order of a session, with the words of the record.
const (
	stageUnknown     Stage = iota
	AtConnect              // "connect"
	AfterEHLO              // "ehlo": the upstream leg is settled, without TLS
	AfterUpstreamTLS       // "upstream-tls"
	AfterClientTLS         // "client-tls"
	AtMail                 // "mail"
	AtRcpt                 // "rcpt"
)

func (s Stage) String() string {
	return [...]string{"", "connect", "ehlo", "upstream-tls", "client-tls", "mail", "rcpt"}[min(s, AtRcpt)]
}

// A Question asks whether a session may go on.
type Question struct {
	Stage      Stage
	Connection Connection
	Floor      uint16 // [tls] min_version
	Rule       *Rule  // the connection rule; nil refuses
	Envelope   *Rule  // the envelope rule that binds sender or recipient; nil: none
	Facts      Facts
	RequireTLS bool // MAIL carries REQUIRETLS (RFC 8689)
	HoldFor    bool // hold_for contains the client
	Auto       Auto // what a recipient domain publishes binds without a rule
	// LogDowngrade: that TLS is missing where it was before is only logged. Where
	// it is not to be judged at all nothing is remembered.
	LogDowngrade bool
}

// Decide holds facts against rules. The order of judgement is the floor, under
// which hold_for falls, REQUIRETLS, the connection rule, memory, the envelope
// rule, what the recipient's domain publishes; all must hold, and the first that
// does not gives the reason. What a rule only logs is let pass, the floor never.
//
// Demands on the client leg are due from MAIL on, so that a client learns of
// them in a reply it can understand; its floor is due as soon as it has TLS.
func Decide(q Question) Verdict {
	if q.Stage == stageUnknown || q.Stage > AtRcpt || q.Rule == nil || q.Floor < tls.VersionTLS12 ||
		!q.Connection.Client.IsValid() || !q.Connection.Upstream.IsValid() {
		return refuse(Failure{Reason: ProtocolError, Detail: "nothing is known of the connection"}, nil)
	}
	j := judgement{q: q}
	if q.Stage == AtConnect {
		return j.verdict()
	}
	j.floor()
	if q.HoldFor && q.Stage >= AtMail {
		j.held()
	}
	if q.RequireTLS {
		j.requireTLS()
	}
	j.demands(q.Rule)
	j.memory()
	j.demands(q.Envelope)
	j.auto()
	return j.verdict()
}

// MayFallBack reports whether a connection whose STARTTLS failed may be dialled
// again and left in clear: only where the rule says so, and never to a peer that
// showed a version below the floor.
func MayFallBack(r *Rule, upstream Leg, floor uint16) bool {
	return r != nil && r.TLS == Opportunistic && r.OnHandshakeFailure == Cleartext &&
		upstream.State == StateFailed && !tooLow(upstream, floor) &&
		(upstream.Failure == TLSHandshakeFailed || upstream.Failure == StartTLSRefused)
}

// demands judges what one rule asks of both legs.
func (j *judgement) demands(r *Rule) {
	if r == nil {
		return
	}
	j.rule = r
	j.upstream()
	j.published()
	if j.q.Stage >= AtMail {
		j.client()
	}
}

// memory judges a leg in clear by what was there before. To switch TLS off is to
// not care.
func (j *judgement) memory() {
	if j.q.Facts.Remembered == nil || j.q.Facts.Upstream.State != StateNone || j.q.Rule.TLS == Off {
		return
	}
	j.rule = nil
	j.fail(StartTLSStripped, "%s", j.strippedDetail())
	j.failures[len(j.failures)-1].Logged = j.q.LogDowngrade
}

// missing is why a leg is in clear.
func (j *judgement) missing() Reason {
	if j.q.Facts.Remembered != nil && j.q.Rule.TLS != Off {
		return StartTLSStripped
	}
	return or(j.q.Facts.Upstream.Failure, StartTLSNotOffered)
}

func (j *judgement) strippedDetail() string {
	m, up := j.q.Facts.Remembered, j.q.Facts.Upstream
	whose := "the server"
	if m.Domain != "" {
		whose = "a server of " + m.Domain
	}
	return fmt.Sprintf("%s, and %s had %s on %s", or(up.Detail, "STARTTLS is not offered"), whose,
		versionName(m.Version), m.Last.UTC().Format(time.DateOnly))
}

type judgement struct {
	q        Question
	rule     *Rule // whose demands are being judged; nil: the floor's
	failures []Failure
}

// fail records a demand that was not met. What the floor or REQUIRETLS demands,
// and a leg that is not there, no rule can let pass.
func (j *judgement) fail(reason Reason, format string, args ...any) {
	f := Failure{Reason: reason, Detail: fmt.Sprintf(format, args...)}
	if j.rule != nil {
		f.Rule = j.rule.Name
		f.Logged = j.rule.OnViolation == OnViolationLog
	}
	j.failures = append(j.failures, f)
}

func (j *judgement) verdict() Verdict {
	for _, f := range j.failures {
		if !f.Logged {
			v := refuse(f, j.failures)
			if j.violation(f.Rule) == OnViolationReject && !f.ForNow || f.Reason == RequireTLSNotPossible {
				v.Action = Reject // REQUIRETLS bounces: RFC 8689 §4.2.1
			}
			return v
		}
	}
	v := Verdict{Action: Allow, Failures: j.failures}
	if len(j.failures) > 0 {
		v.Failure = j.failures[0]
	}
	return v
}

func refuse(f Failure, all []Failure) Verdict {
	if all == nil {
		all = []Failure{f}
	}
	return Verdict{Action: Defer, Failure: f, Failures: all}
}

// violation is on_violation of the rule called name; the floor and everything
// else that is no rule's own uses that of the connection's rule.
func (j *judgement) violation(name string) Violation {
	if e := j.q.Envelope; e != nil && e.Name == name {
		return e.OnViolation
	}
	return j.q.Rule.OnViolation
}

func tooLow(l Leg, floor uint16) bool {
	return l.VersionRefused || l.Version != 0 && l.Version < floor
}

// floor judges what no rule can weaken.
func (j *judgement) floor() {
	up, floor := j.q.Facts.Upstream, j.q.Floor
	switch {
	case up.State == StateUnknown:
		j.fail(TLSHandshakeFailed, "nothing is known of the upstream leg")
	case up.State != StateNone && tooLow(up, floor):
		j.tooLow(TLSVersionTooLow, up, floor)
	case up.State == StateFailed:
		j.fail(or(up.Failure, TLSHandshakeFailed), "%s", or(up.Detail, "the TLS handshake failed"))
	case up.inTLS() && up.Version == 0:
		j.fail(TLSVersionTooLow, "the TLS version is not known")
	case up.State == StateWatched && Broken(up.Cipher):
		j.fail(TLSCipherNotAllowed, "%s is not allowed", tls.CipherSuiteName(up.Cipher))
	}
	client := j.q.Facts.Client
	switch {
	case client.State == StateUnknown:
		j.fail(ClientHandshakeFailed, "nothing is known of the client leg")
	case client.State == StateFailed:
		j.fail(or(client.Failure, ClientHandshakeFailed), "%s", or(client.Detail, "the TLS handshake failed"))
	case client.State == StateWatched && up.State == StateWatched: // the same TLS
	case client.inTLS() && client.Version < floor:
		j.tooLow(ClientTLSTooLow, client, floor)
	}
}

func (j *judgement) tooLow(reason Reason, l Leg, floor uint16) {
	if l.Version == 0 {
		j.fail(reason, "%s and later was refused (alert protocol_version)", versionName(floor))
		return
	}
	j.fail(reason, "%s is below %s", versionName(l.Version), versionName(floor))
}

// versionName is tls.VersionName with the names that the record has for what came
// before TLS.
func versionName(v uint16) string {
	switch v {
	case 0x0002:
		return "SSL 2.0"
	case 0x0300:
		return "SSL 3.0"
	}
	return tls.VersionName(v)
}

// requireTLS judges MAIL … REQUIRETLS (RFC 8689 §4.2.1): the next hop offers it
// too, in TLS, with a certificate that verifies.
func (j *judgement) requireTLS() {
	up := j.q.Facts.Upstream
	switch {
	case j.q.Facts.Client.State != StateOK:
		j.fail(RequireTLSNotPossible, "REQUIRETLS was asked for in clear")
	case up.State != StateOK:
		j.fail(RequireTLSNotPossible, "the next server has no TLS")
	case !j.q.Facts.RequireTLSOffered:
		j.fail(RequireTLSNotPossible, "the next server does not offer REQUIRETLS")
	case !chain(up, "").Verified:
		j.fail(RequireTLSNotPossible, "the next server's certificate does not verify")
	case j.q.Stage == AtRcpt && !j.vouched():
		j.fail(RequireTLSNotPossible, "the next server's certificate is for %s, and for no server of the recipient's domain", some(up.Certificate.DNSNames))
	}
}

// vouched reports whether the certificate is for a server of the recipient's domain
// (RFC 8689 §4.2.1), as far as what servers that has is known: a chain alone is had
// by anybody. A rule that asks for a name, or for what is published, sees to it.
func (j *judgement) vouched() bool {
	for _, r := range []*Rule{j.q.Rule, j.q.Envelope} {
		if r != nil && r.Verify >= VerifyName {
			return true
		}
	}
	p := j.q.Facts.Published
	return p == nil || p.MX != MXKnown || p.NamesHost || p.DANE.State == DANEMatches ||
		(p.MTASTS.State == MTASTSEnforce || p.MTASTS.State == MTASTSTesting) && p.MTASTS.CertificateMatches
}

// upstream judges what the rule demands of the upstream leg.
func (j *judgement) upstream() {
	r, up := j.rule, j.q.Facts.Upstream
	switch up.State {
	case StateNone:
		if r.TLS == Forced {
			j.fail(j.missing(), "%s", or(up.Detail, "STARTTLS is not offered"))
		}
		return
	case StateOK, StateWatched:
	default:
		return // the floor has said so
	}
	if r.MinVersion != 0 && up.Version < r.MinVersion && up.Version >= j.q.Floor {
		j.tooLow(TLSVersionTooLow, up, r.MinVersion)
	}
	if len(r.Ciphers) > 0 && up.Version < tls.VersionTLS13 && !slices.Contains(r.Ciphers, up.Cipher) {
		j.fail(TLSCipherNotAllowed, "%s is not allowed", tls.CipherSuiteName(up.Cipher))
	}
	if r.ForwardSecrecy && !up.HasForwardSecrecy() {
		j.fail(TLSNoForwardSecrecy, "%s has no forward secrecy", tls.CipherSuiteName(up.Cipher))
	}
	if up.State != StateWatched {
		j.certificate()
	}
}

func (j *judgement) certificate() {
	r, up := j.rule, j.q.Facts.Upstream
	switch r.Verify {
	case VerifyNone, VerifyDANE, VerifyMTASTS: // of those that are published: see published
	case VerifyCA, VerifyName:
		if got := chain(up, r.CA); !got.Verified {
			j.fail(or(got.Reason, CertNotTrusted), "%s", or(got.Detail, "the certificate is not trusted"))
		} else if r.Verify == VerifyName && !MatchNames(up.Certificate.DNSNames, r.Names) {
			j.fail(CertNameMismatch, "the certificate is for %s", some(up.Certificate.DNSNames))
		}
	case VerifyFingerprint:
		if !pinned(up.Certificate, r.Fingerprints) {
			j.fail(CertFingerprintMismatch, "the certificate is not the one agreed on")
		}
	default:
		j.fail(CertNotTrusted, "a demand that is not understood")
	}
	j.revocation()
}

// revocation judges only what a chain was built for: of one that does not verify
// nobody knows who could revoke it.
func (j *judgement) revocation() {
	r, up := j.rule, j.q.Facts.Upstream
	if r.Revocation == RevocationOff || !chain(up, r.CA).Verified {
		return
	}
	hard := r.Revocation != RevocationSoft
	var got RevocationResult
	if up.Revoked != nil {
		got = up.Revoked(r.CA, hard)
	}
	switch {
	case got.State == Revoked:
		j.fail(CertRevoked, "%s", or(got.Detail, "the certificate was revoked"))
	case got.State != RevocationGood && hard && !got.NobodyToAsk:
		j.failForNow(CertMissingRevocation, "%s", or(got.Detail, "whether the certificate was revoked is not known"))
	case got.State != RevocationGood && hard:
		j.fail(CertMissingRevocation, "%s", or(got.Detail, "whether the certificate was revoked is not known"))
	}
}

// client judges what the rule demands of the client leg.
func (j *judgement) client() {
	r, client := j.rule, j.q.Facts.Client
	if r.ClientTLS == ClientAny {
		return
	}
	if !client.inTLS() {
		if !j.held() {
			j.fail(ClientTLSRequired, "TLS is required here")
		}
		return
	}
	if r.ClientTLS != ClientVerified {
		return
	}
	if client.Certificate == nil {
		j.fail(ClientCertMissing, "a client certificate is required here")
	} else if got := chain(client, ""); !got.Verified {
		j.fail(ClientCertMismatch, "%s", or(got.Detail, "the client certificate is not trusted"))
	} else if len(r.ClientNames) > 0 && !MatchNames(client.Certificate.DNSNames, r.ClientNames) {
		j.fail(ClientCertMismatch, "the client certificate is for %s", some(client.Certificate.DNSNames))
	}
}

// held refuses a client in clear whose last handshake fell below the floor, and
// says whether it is one. A sender that is only told that TLS is required looks
// for the fault elsewhere: it does have TLS.
func (j *judgement) held() bool {
	hold := j.q.Facts.Held
	if hold == nil || j.q.Facts.Client.State != StateNone || hold.Offered >= j.q.Floor { // the floor may be lower now
		return false
	}
	j.fail(ClientTLSTooLow, "your last TLS handshake with this server offered %s, which is below %s",
		versionName(hold.Offered), versionName(j.q.Floor))
	return true
}

func chain(l Leg, roots string) ChainResult {
	if l.Chain == nil || l.Certificate == nil {
		return ChainResult{Reason: CertNotTrusted, Detail: "no certificate was shown"}
	}
	return l.Chain(roots)
}

func pinned(c *Certificate, pins []Fingerprint) bool {
	return c != nil && slices.ContainsFunc(pins, func(pin Fingerprint) bool {
		return pin.SPKI && pin.SHA256 == c.SPKISHA256 || !pin.SPKI && pin.SHA256 == c.SHA256
	})
}

// some lists the first names of a certificate; it may have hundreds.
func some(names []string) string {
	const most = 3
	switch {
	case len(names) == 0:
		return "no name"
	case len(names) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

func or[T ~string](value, otherwise T) T {
	if value == "" {
		return otherwise
	}
	return value
}
