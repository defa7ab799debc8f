package session

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"postern/enforce"
	"postern/proxy/internal/leg"
	"postern/proxy/internal/record"
	"postern/smtpwire/tlshello"
)

// upstreamConfig is what the upstream is offered: always from the floor to TLS
// 1.3, whatever the rule asks for, so that the record knows what it chose. What
// its certificate is worth is judged afterwards, from the facts.
func (s *Session) upstreamConfig(offer []uint16) *tls.Config {
	sni := s.serverName()
	s.rec.UpstreamTLS.SNI = sni
	return s.offering(offer, sni)
}

// serverName is the name that the upstream is asked for by SNI: the rule's, else
// that of the MX host where it is known, else the one that its banner gives. It is
// never the name to verify.
func (s *Session) serverName() string {
	if s.rule.ServerName != "" {
		return s.rule.ServerName
	}
	if s.snap.Partners != nil {
		if host := s.snap.Partners.Host(s.conn.Upstream); host != "" {
			return host
		}
	}
	return s.name
}

func (s *Session) offering(offer []uint16, sni string) *tls.Config {
	config := &tls.Config{
		ServerName:         sni,
		MinVersion:         s.snap.Policy.Floor(),
		CipherSuites:       offer,
		InsecureSkipVerify: true, // enforce judges, on facts that are always there
	}
	if certificate := s.rule.ClientCertificate; certificate != "" {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if have := s.snap.Named(certificate); have != nil {
				return have, nil
			}
			return new(tls.Certificate), nil // crypto/tls wants one, and takes this for none
		}
	}
	if s.snap.Resume != nil {
		config.ClientSessionCache = s.snap.Resume(fmt.Sprintf("%s|%s|%s|%s|%d",
			s.rec.Upstream.Address, sni, s.rule.ClientCertificate, s.rule.Name, s.snap.Generation))
	}
	return config
}

// upstreamFacts enters what a handshake with the upstream yielded.
func (s *Session) upstreamFacts(h *leg.Handshake, err error) {
	s.facts.Upstream, s.shown = s.upstreamLeg(&s.rec.UpstreamTLS, h, err)
}

// upstreamLeg gives the facts of a handshake with the upstream and the
// certificates that it showed, and enters them in rec.
func (s *Session) upstreamLeg(rec *record.Leg, h *leg.Handshake, err error) (enforce.Leg, []*x509.Certificate) {
	facts, chain := established(h), h.State.PeerCertificates
	if err != nil {
		facts = failed(h)
		facts.Failure, facts.Detail = upstreamFailure(h, err)
		chain = parse(h.Certificates)
	}
	s.certificate(&facts, rec, evidence{chain, h.State.OCSPResponse, x509.ExtKeyUsageServerAuth}, s.rule.CA)
	enter(rec, facts, err)
	return facts, chain
}

// clientFacts enters what a handshake with the client yielded.
func (s *Session) clientFacts(h *leg.Handshake, err error) {
	facts := established(h)
	rec := &s.rec.ClientTLS
	if h.Offered != nil {
		rec.SNI = quote(h.Offered.ServerName)
		rec.OfferedVersions = h.Offered.Versions()
		rec.OfferedCiphers = h.Offered.CipherSuites
	}
	if err != nil {
		facts = failed(h)
		facts.Failure, facts.Detail = s.clientFailure(h, err)
	}
	s.certificate(&facts, rec, evidence{chain: h.State.PeerCertificates, usage: x509.ExtKeyUsageClientAuth}, "")
	enter(rec, facts, err)
	s.facts.Client = facts
}

func established(h *leg.Handshake) enforce.Leg {
	return enforce.Leg{
		State:   enforce.StateOK,
		Version: h.State.Version,
		Cipher:  h.State.CipherSuite,
		Group:   uint16(h.State.CurveID),
		Resumed: h.State.DidResume,
	}
}

func failed(h *leg.Handshake) enforce.Leg {
	facts := enforce.Leg{State: enforce.StateFailed, VersionRefused: h.Alert == alertProtocolVersion,
		NothingInCommon: h.Alert == alertHandshakeFailure || h.Alert == alertInsufficientSecurity}
	if h.Chosen != nil {
		facts.Version, facts.Cipher, facts.Group = h.Chosen.Version, h.Chosen.CipherSuite, h.Chosen.Group
	}
	return facts
}

// The alerts that mean something here (RFC 8446 §6.2).
const (
	alertHandshakeFailure     = 40
	alertInsufficientSecurity = 71
	alertBadCertificate       = 42
	alertCertificateUnknown   = 46
	alertUnknownCA            = 48
	alertAccessDenied         = 49
	alertProtocolVersion      = 70
	alertBadCertStatus        = 113
)

// refusesCertificate reports whether an alert is about the certificate shown.
func refusesCertificate(alert uint8) bool {
	return alert >= alertBadCertificate && alert <= alertCertificateUnknown || alert == alertUnknownCA ||
		alert == alertAccessDenied || alert == alertBadCertStatus
}

func upstreamFailure(h *leg.Handshake, err error) (enforce.Reason, string) {
	if errors.Is(err, leg.ErrInjected) {
		return enforce.StartTLSInjection, "octets in clear behind the reply to STARTTLS"
	}
	return enforce.TLSHandshakeFailed, howItFailed("the server", h, err)
}

func (s *Session) clientFailure(h *leg.Handshake, err error) (enforce.Reason, string) {
	floor := s.snap.Policy.Floor()
	switch {
	case h.NotTLS, errors.Is(err, leg.ErrInjected):
		return enforce.StartTLSInjection, "octets in clear behind STARTTLS"
	case h.Offered != nil && len(h.Offered.Versions()) > 0 && slices.Max(h.Offered.Versions()) < floor:
		return enforce.ClientTLSTooLow, fmt.Sprintf("%s is below %s",
			tlshello.VersionName(slices.Max(h.Offered.Versions())), tlshello.VersionName(floor))
	case refusesCertificate(h.Alert):
		return enforce.ClientRefusedCertificate, howItFailed("the client", h, err)
	}
	return enforce.ClientHandshakeFailed, howItFailed("the client", h, err)
}

// howItFailed words a failed handshake for a reply.
func howItFailed(peer string, h *leg.Handshake, err error) string {
	switch how := leg.EndingOf(err); {
	case h.Alert != 0:
		return "the TLS handshake failed: " + peer + " sent the alert " + tlshello.AlertName(h.Alert)
	case h.NotTLS:
		return "the TLS handshake failed: " + peer + " sent what is not TLS"
	case how == leg.Timeout:
		return "the TLS handshake failed: timeout"
	case how == leg.Closed, how == leg.Reset:
		return "the TLS handshake failed: " + peer + " closed the connection"
	}
	return "the TLS handshake failed"
}

// refusedCertificate notes a client that was done with its handshake before it
// had looked at the certificate (TLS 1.3), and whose alert came instead of a
// command.
func (s *Session) refusedCertificate(err error) {
	alert, _ := leg.RemoteAlert(err)
	reason := enforce.ClientHandshakeFailed
	if refusesCertificate(alert) {
		reason = enforce.ClientRefusedCertificate
	}
	detail := "the TLS handshake failed: the client sent the alert " + tlshello.AlertName(alert)
	s.facts.Client.State, s.facts.Client.Failure, s.facts.Client.Detail = enforce.StateFailed, reason, detail
	s.rec.ClientTLS.Failure = detail
	s.blame(reason, detail)
	s.end("client handshake failed")
}

// leftAtOnce notes a client whose first word in TLS is QUIT. A Postfix that
// verifies finishes the handshake, whatever it was shown, and then leaves in this
// way and without an alert. So does who only looks whether there is TLS, which is
// why it is counted, and is no verdict and no reason.
func (s *Session) leftAtOnce() {
	s.facts.Client.Failure = enforce.ClientRefusedCertificate
	s.rec.ClientTLS.Failure = "the client quit when TLS was agreed on: it may not accept the certificate"
}

// enter copies facts into the record.
func enter(rec *record.Leg, facts enforce.Leg, err error) {
	rec.State, rec.Version, rec.Cipher, rec.Group = facts.State, facts.Version, facts.Cipher, facts.Group
	rec.Resumed = facts.Resumed
	rec.ForwardSecrecy = facts.State == enforce.StateOK && enforce.ForwardSecret(facts.Version, facts.Cipher)
	rec.Failure = ""
	if err != nil {
		rec.Failure = quote(err.Error())
	}
}

// evidence is what a peer showed for itself.
type evidence struct {
	chain   []*x509.Certificate // the leaf first
	stapled []byte              // an OCSP answer
	usage   x509.ExtKeyUsage
}

// certificate enters the certificate a peer showed, and what it is worth with
// the roots called ca: always, whether or not a rule asks. A resumed session is
// verified like a new one, from the chain that was kept with it.
func (s *Session) certificate(facts *enforce.Leg, rec *record.Leg, e evidence, ca string) {
	rec.Certificate, rec.Verified, rec.VerifyError, rec.Revocation = nil, false, "", ""
	if len(e.chain) == 0 {
		return
	}
	leaf := e.chain[0]
	facts.Certificate = &enforce.Certificate{
		DNSNames:   leaf.DNSNames,
		SHA256:     sha256.Sum256(leaf.Raw),
		SPKISHA256: sha256.Sum256(leaf.RawSubjectPublicKeyInfo),
		NotBefore:  leaf.NotBefore,
		NotAfter:   leaf.NotAfter,
	}
	facts.Chain, facts.Revoked = s.worth(e)
	result := facts.Chain(ca)
	if rec.Verified = result.Verified; !rec.Verified {
		rec.VerifyError = quote(result.Detail)
	}
	rec.Certificate = &record.Certificate{
		Subject:    record.Redact(leaf.Subject.String(), 200),
		Issuer:     record.Redact(leaf.Issuer.String(), 200),
		Names:      shown(leaf.DNSNames),
		Chain:      issuersShown(e.chain[1:]),
		SHA256:     facts.Certificate.SHA256,
		SPKISHA256: facts.Certificate.SPKISHA256,
		NotBefore:  leaf.NotBefore,
		NotAfter:   leaf.NotAfter,
		Key:        keyOf(leaf),
	}
}

// worth gives the two questions that rules have about a chain, as it stood at the
// time of the handshake. A chain is built once for each of the roots.
func (s *Session) worth(e evidence) (chain func(string) enforce.ChainResult, revoked func(string, bool) enforce.RevocationResult) {
	type verified struct {
		enforce.ChainResult
		built []*x509.Certificate
	}
	now, known := time.Now(), make(map[string]verified, 1)
	look := func(roots string) verified {
		v, ok := known[roots]
		if !ok {
			v.ChainResult, v.built = s.snap.Verify(roots, e.chain, e.usage, now)
			known[roots] = v
		}
		return v
	}
	chain = func(roots string) enforce.ChainResult { return look(roots).ChainResult }
	revoked = func(roots string, wait bool) (r enforce.RevocationResult) {
		if v := look(roots); v.Verified && s.snap.Revoked != nil {
			ctx, done := s.patience()
			defer done()
			r = s.snap.Revoked(ctx, v.built, e.stapled, wait)
		}
		rec := &s.rec.UpstreamTLS
		if e.usage == x509.ExtKeyUsageClientAuth {
			rec = &s.rec.ClientTLS
		}
		rec.Revocation = r.State.String()
		return r
	}
	return chain, revoked
}

// issuersShown are the subjects of the certificates behind a leaf.
func issuersShown(chain []*x509.Certificate) (subjects []string) {
	const most = 5
	for _, c := range chain[:min(len(chain), most)] {
		subjects = append(subjects, record.Redact(c.Subject.String(), 200))
	}
	return subjects
}

// shown bounds the names of a certificate; some have hundreds.
func shown(names []string) []string {
	const most = 20
	out := make([]string, 0, min(len(names), most+1))
	for _, n := range names[:min(len(names), most)] {
		out = append(out, quote(n))
	}
	if len(names) > most {
		out = append(out, fmt.Sprintf("and %d more", len(names)-most))
	}
	return out
}

func keyOf(c *x509.Certificate) string {
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", key.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA " + key.Curve.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return c.PublicKeyAlgorithm.String()
}

// parse reads certificates that went in clear in a handshake that failed. What
// cannot be read is left out.
func parse(raw [][]byte) []*x509.Certificate {
	var chain []*x509.Certificate
	for _, der := range raw {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return chain
		}
		chain = append(chain, c)
	}
	return chain
}

func declined(err error) bool { return errors.Is(err, leg.ErrDeclined) }
