package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"postern/enforce"
	"postern/smtpwire"
	"postern/smtpwire/tlshello"
)

// A sitting is the time spent with one address.
type sitting struct {
	*prober
	name  string // of the host; "" where an address was asked for
	place int    // of the host
	to    netip.AddrPort
	out   *Address

	conn enforce.Connection
	rule *enforce.Rule
	sni  string

	first   *dialogue // that of a session
	facts   enforce.Facts
	shown   []*x509.Certificate
	widened bool

	tries    atomic.Int32
	failures atomic.Int32 // in a row
	enough   atomic.Bool  // of them: the address is left alone from then on
	mu       sync.Mutex
	spare    showing // of the highest version that was accepted
}

// sit does all that is to be done with the address.
func (s *sitting) sit(ctx context.Context) {
	began := time.Now()
	defer func() {
		s.out.duration = time.Since(began)
		s.out.Duration, s.out.Tries = s.out.duration.Milliseconds(), int(s.tries.Load())
		s.out.LeftAlone = s.enough.Load()
	}()
	s.session(ctx)
	if !s.out.Reached {
		return
	}
	var judging sync.WaitGroup
	judging.Go(func() { s.judge(ctx) })
	judging.Go(func() {
		if len(s.shown) > 0 {
			s.certificate(ctx, s.shown, s.first.state.OCSPResponse)
		}
		s.hold(ctx)
	})
	if s.first.caps.Has("STARTTLS") {
		s.survey(ctx)
	}
	judging.Wait()
	if s.out.Chain == nil && len(s.spare.chain) > 0 {
		s.certificate(ctx, s.spare.chain, s.spare.staple)
	}
}

// session makes the connection that a session of the proxy would make.
func (s *sitting) session(ctx context.Context) {
	d := s.try(ctx, ask{to: s.to, greet: true, config: func(d *dialogue) *tls.Config { s.choose(d); return s.offering(enforce.Offer(s.rule)) }})
	s.first = d
	s.out.Banner = quote(d.banner)
	s.out.Detail = d.detail
	if d.phase < atSTARTTLS || d.phase == atSTARTTLS && d.detail != "" && d.reply == 0 {
		return
	}
	s.out.Reached, s.out.Detail = true, ""
	s.choose(d)
	s.facts.Upstream, s.shown = legOf(d)
	if enforce.MayWiden(s.rule, s.facts.Upstream) {
		d = s.try(ctx, ask{to: s.to, greet: true, config: func(*dialogue) *tls.Config { return s.offering(enforce.Offered()) }})
		if d.phase >= inHandshake {
			s.first, s.widened = d, true
			s.facts.Upstream, s.shown = legOf(d)
		}
	}
	s.enter(s.first)
}

// choose settles by which connection rule the address is judged.
func (s *sitting) choose(d *dialogue) {
	client := s.Client
	if !client.IsValid() || client.Is4() != s.to.Addr().Is4() {
		client = d.local
	}
	s.conn = enforce.Connection{Client: client, Upstream: s.to.Addr(), MXOf: s.mxOf[s.to.Addr()]}
	s.rule = s.Policy.ConnectionRule(s.conn, s.now)
	switch {
	case s.rule.ServerName != "":
		s.sni = s.rule.ServerName
	case s.name != "":
		s.sni = s.name
	default:
		s.sni = bannerName(d.banner)
	}
}

// offering is what the proxy offers: from the floor to TLS 1.3.
func (s *sitting) offering(suites []uint16) *tls.Config {
	config := s.anything()
	config.MinVersion, config.CipherSuites = s.Policy.Floor(), suites
	return config
}

// anything is a configuration that takes whatever comes: the certificate is looked
// at afterwards.
func (s *sitting) anything() *tls.Config {
	config := &tls.Config{ServerName: s.sni, InsecureSkipVerify: true}
	if name := s.rule.ClientCertificate; name != "" && s.Known.Certificate != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if have := s.Known.Certificate(name); have != nil {
				return have, nil
			}
			return new(tls.Certificate), nil
		}
	}
	return config
}

// try opens a connection. After several that came to nothing it opens none.
func (s *sitting) try(ctx context.Context, a ask) *dialogue {
	if s.enough.Load() {
		return &dialogue{detail: fmt.Sprintf("not tried: %d connections before it came to nothing", mostFailures)}
	}
	s.tries.Add(1)
	d := s.call(ctx, a)
	switch {
	case d.phase >= inHandshake && !d.timeout:
		s.failures.Store(0)
	case ctx.Err() == nil && s.failures.Add(1) >= mostFailures:
		s.enough.Store(true)
	}
	return d
}

// enter copies what the session's connection came to.
func (s *sitting) enter(d *dialogue) {
	mark := smtpwire.StripMark([]byte(d.banner), d.caps, d.heloOnly)
	s.out.StartTLS = &StartTLS{Offered: d.caps.Has("STARTTLS"), HELOOnly: d.heloOnly}
	if !s.out.StartTLS.Offered {
		s.out.StartTLS.Mark, s.out.StartTLS.MarkWords = mark.String(), mark.Words()
		return
	}
	if d.reply != 220 {
		s.out.StartTLS.Reply = d.reply
		return
	}
	if d.inside != nil {
		offered := d.inside.Has("REQUIRETLS")
		s.facts.RequireTLSOffered, s.out.StartTLS.RequireTLS = offered, &offered
	}
	up := s.facts.Upstream
	s.out.Session = &Session{State: up.State.String(), ServerName: s.sni, Detail: up.Detail,
		ForwardSecrecy: up.State == enforce.StateOK && enforce.ForwardSecret(up.Version, up.Cipher)}
	if up.Version != 0 {
		s.out.Session.Version, s.out.Session.Cipher = tlshello.VersionName(up.Version), tlshello.CipherName(up.Cipher)
	}
	if up.Group != 0 {
		s.out.Session.Group = tlshello.GroupName(up.Group)
	}
}

// survey offers each thing alone.
func (s *sitting) survey(ctx context.Context) {
	if s.first.reply != 220 {
		return
	}
	s.out.Versions, s.out.Groups = make([]Try, len(versions)), make([]Try, len(groups))
	s.out.Suites = &Suites{TLS12: []string{}, TLS13: []string{}}
	var all errgroup.Group
	all.SetLimit(atOnceThere)
	for i, v := range versions {
		all.Go(func() error { s.out.Versions[i] = s.version(ctx, v); return nil })
	}
	all.Go(func() error { s.suites(ctx); return nil })
	for i, g := range groups {
		all.Go(func() error { s.out.Groups[i] = s.group(ctx, g); return nil })
	}
	_ = all.Wait()
	for _, v := range s.out.Versions {
		if v.Name == tlshello.VersionName(tls.VersionTLS13) && v.Cipher != "" {
			s.out.Suites.TLS13 = append(s.out.Suites.TLS13, v.Cipher)
		}
	}
}
