package session

import (
	"crypto/tls"
	"slices"
	"time"

	"postern/enforce"
	"postern/proxy/internal/leg"
	"postern/smtpwire"
)

// startTLS deals with the client's STARTTLS (RFC 3207); false ends the session.
func (s *Session) startTLS(cmd smtpwire.Command) bool {
	switch {
	case len(cmd.Arg) > 0:
		s.say([]byte(sayNoArgument))
		return true
	case s.facts.Client.State == enforce.StateOK:
		s.say([]byte(sayAlreadyTLS))
		return true
	case !s.greeted:
		s.say([]byte(sayHelloFirst))
		return true
	case !s.offersStartTLS():
		s.say([]byte(sayNotOffered))
		return true
	}
	// Whatever the client was promised in clear it hears in clear.
	if !s.settle() {
		return false
	}
	if s.current() != nil || s.doubtful() {
		s.say([]byte(sayInTransaction))
		return true
	}
	if s.client.Buffered() > 0 {
		v := fault(enforce.Reject, enforce.StartTLSInjection, "octets in clear behind STARTTLS")
		s.mu.Lock()
		s.enter(enforce.AfterClientTLS, v)
		s.mu.Unlock()
		s.end("starttls injection")
		s.lastWord(s.words(554, v.Reason, v.Action, v.Detail))
		return false
	}
	if s.leavesTLS() {
		return s.watchTLS()
	}
	return s.clientHandshake()
}

// clientHandshake ends the client's TLS. A handshake that fails has no reply:
// nothing is ever written in clear behind it.
func (s *Session) clientHandshake() bool {
	h, err := s.handOver()
	if h == nil {
		return false // the upstream has ended the session, and the client knows
	}
	s.clientFacts(h, err)
	s.learn()
	if err == nil {
		s.greeted, s.heard, s.wordless = false, false, true
		v := s.judge(enforce.AfterClientTLS, nil, false)
		if s.speak(v) {
			s.refuseConnection(v)
			return false
		}
		return true
	}
	f := s.facts.Client
	s.mu.Lock()
	s.stage = enforce.AfterClientTLS
	s.blameLocked(f.Failure, f.Detail)
	s.mu.Unlock()
	if s.snap.Observe && h.Hello != nil && !s.aborted.Load() && declined(err) {
		s.passThrough("EHLO "+s.helo, h.Hello)
		return false
	}
	s.end("client handshake failed")
	return false
}

// handOver runs the handshake and puts the TLS phase in place of the clear one.
// The lock is held all the while: a word of the upstream's in between would be
// written into the handshake, and one behind a failed handshake in clear.
func (s *Session) handOver() (*leg.Handshake, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return nil, leg.ErrAborted
	}
	s.toClient([]byte(sayReady))
	secure, h, err := s.client.StartServer(s.clientConfig(), s.snap.Timeouts.Handshake)
	if err == nil {
		s.ctl.Lock()
		defer s.ctl.Unlock()
		s.client = secure
		if s.aborted.Load() {
			secure.Abort()
		}
	}
	s.told = err != nil
	return h, err
}

// clientConfig is what the client leg accepts. No session tickets: senders of
// Microsoft's abort on those of crypto/tls.
func (s *Session) clientConfig() *tls.Config {
	config := &tls.Config{
		MinVersion:             s.snap.Policy.Floor(),
		CipherSuites:           enforce.Offered(),
		GetCertificate:         s.certificateForClient(),
		SessionTicketsDisabled: true,
	}
	if s.snap.Policy.RequestsClientCertificate(s.conn, time.Now()) {
		config.ClientAuth = tls.RequestClientCert // judged at MAIL; a missing one never fails the handshake
	}
	if s.snap.Observe {
		config.GetConfigForClient = s.declineWhatWouldFail
	}
	return config
}

// certificateForClient chooses what is shown to the client: one that is minted in
// the upstream's name, where there is an authority and the upstream has shown one,
// else of those that are configured. What the client asks for by SNI has no say in
// the first. One that did not verify, or of which it is not known whether it was
// revoked, is never made to look as if it did.
func (s *Session) certificateForClient() func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if !s.mints() {
		return s.snap.Certificate
	}
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		up := s.facts.Upstream
		trusted := up.Chain("").Verified
		if trusted && s.snap.Revoked != nil {
			r := up.Revoked("", true)
			trusted = r.State == enforce.RevocationGood || r.State == enforce.RevocationUnknown && r.NobodyToAsk
		}
		c, err := s.snap.Mint(s.shown[0], trusted)
		nameless := *hello // the name that it asks for has no say
		nameless.ServerName = ""
		if s.snap.Certificate != nil && (err != nil || nameless.SupportsCertificate(c) != nil) {
			return s.snap.Certificate(hello) // for who knows RSA alone
		}
		s.minted = err == nil
		return c, err
	}
}

// mints reports whether the client is shown a certificate in the upstream's name.
func (s *Session) mints() bool {
	return s.snap.Mint != nil && s.facts.Upstream.State == enforce.StateOK && len(s.shown) > 0
}

// declineWhatWouldFail gives up a handshake that could not succeed before a word
// of it is answered, so that the client can have it with the upstream itself:
// observing must not take away what worked without Postern.
func (s *Session) declineWhatWouldFail(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if len(hello.SupportedVersions) == 0 || slices.Max(hello.SupportedVersions) < s.snap.Policy.Floor() {
		return nil, leg.Decline(hello)
	}
	certificate, err := s.certificateForClient()(hello)
	if err != nil || hello.SupportsCertificate(certificate) != nil {
		return nil, leg.Decline(hello)
	}
	return nil, nil
}
