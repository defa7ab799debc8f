package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"slices"

	"postern/enforce"
	"postern/smtpwire/tlshello"
)

// What is offered alone, in the order in which it is shown.
var (
	versions = [...]uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12, tls.VersionTLS13}
	groups   = [...]tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521}
)

// The results of a Try.
const (
	accepted = "accepted"
	refused  = "refused"
	unknown  = "unknown"
)

// suitesOf are all that crypto/tls can speak in a version before 1.3, the insecure
// ones too.
func suitesOf(version uint16) []uint16 {
	var all []uint16
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if slices.Contains(s.SupportedVersions, version) {
			all = append(all, s.ID)
		}
	}
	return all
}

// outcome says what became of an offer. A server that sends nothing at all has not
// refused it, nor has one that would not talk to us.
func outcome(d *dialogue) (result, detail string) {
	switch {
	case d.phase == inTLS:
		return accepted, ""
	case d.phase == inHandshake && !d.timeout:
		return refused, d.detail
	}
	return unknown, d.detail
}

// version offers one version with all suites that go with it.
func (s *sitting) version(ctx context.Context, v uint16) Try {
	d := s.try(ctx, ask{to: s.to, config: func(*dialogue) *tls.Config {
		config := s.anything()
		config.MinVersion, config.MaxVersion = v, v
		if v < tls.VersionTLS13 {
			config.CipherSuites = suitesOf(v)
		}
		return config
	}})
	t := Try{Name: tlshello.VersionName(v)}
	t.Result, t.Detail = outcome(d)
	if suite := chosen(d, v); suite != 0 {
		t.Result, t.Cipher = accepted, tlshello.CipherName(suite)
		s.keep(d, v)
	}
	return t
}

// chosen gives the suite that the server chose with the version, 0 where it did not.
// A handshake may fail for another reason afterwards, such as a client certificate
// that is not there.
func chosen(d *dialogue, version uint16) uint16 {
	switch {
	case d.phase == inTLS && d.state.Version == version:
		return d.state.CipherSuite
	case d.phase == inHandshake && d.chosen != nil && d.chosen.Version == version:
		return d.chosen.CipherSuite
	}
	return 0
}

// A showing is what a server showed in a version of TLS.
type showing struct {
	version uint16
	chain   []*x509.Certificate
	staple  []byte
}

// keep holds on to what a server showed that the proxy has no session with.
func (s *sitting) keep(d *dialogue, version uint16) {
	chain := d.state.PeerCertificates
	if len(chain) == 0 {
		chain = parse(d.raw)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(chain) > 0 && version > s.spare.version {
		s.spare = showing{version, chain, d.state.OCSPResponse}
	}
}

// suites finds those of TLS 1.2: each that is chosen is taken out of the next offer,
// until nothing of it is wanted.
func (s *sitting) suites(ctx context.Context) {
	left := suitesOf(tls.VersionTLS12)
	for len(left) > 0 {
		d := s.try(ctx, ask{to: s.to, config: func(*dialogue) *tls.Config {
			config := s.anything()
			config.MinVersion, config.MaxVersion, config.CipherSuites = tls.VersionTLS12, tls.VersionTLS12, left
			return config
		}})
		result, detail := outcome(d)
		if suite := chosen(d, tls.VersionTLS12); slices.Contains(left, suite) {
			s.out.Suites.TLS12 = append(s.out.Suites.TLS12, tlshello.CipherName(suite))
			left = slices.DeleteFunc(slices.Clone(left), func(id uint16) bool { return id == suite })
			continue
		}
		s.out.Suites.Complete = result == refused
		if result == unknown {
			s.out.Suites.Detail = detail
		}
		return
	}
	s.out.Suites.Complete = true
}

// group offers one group, and no suite of TLS 1.2 that could do without it.
func (s *sitting) group(ctx context.Context, g tls.CurveID) Try {
	ephemeral := slices.DeleteFunc(suitesOf(tls.VersionTLS12), func(id uint16) bool { return !enforce.ForwardSecret(tls.VersionTLS12, id) })
	d := s.try(ctx, ask{to: s.to, config: func(*dialogue) *tls.Config {
		config := s.anything()
		config.MinVersion, config.CipherSuites, config.CurvePreferences = tls.VersionTLS12, ephemeral, []tls.CurveID{g}
		return config
	}})
	t := Try{Name: tlshello.GroupName(uint16(g))}
	t.Result, t.Detail = outcome(d)
	return t
}
