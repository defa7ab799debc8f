package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"time"

	"postern/enforce"
	"postern/enforce/mtasts"
	"postern/enforce/resolver"
	"postern/enforce/revocation"
	"postern/proxy/internal/keyring"
)

// An Outlook is what a configuration says of whom to ask and what to trust, for who
// looks at servers without standing in the way to them: the roots and the resolver
// of the configuration, and caches of its own in memory. It reads no file that a
// running Server writes, and writes none.
type Outlook struct {
	Resolver *resolver.Resolver
	Policies *mtasts.Cache
	Revoked  *revocation.Checker

	ring *keyring.Ring
}

// NewOutlook reads the roots that config names, and those certificates that its
// rules show to servers: the keys of the others need not be readable. Its errors
// are located by their keys, as NewServer's.
func NewOutlook(config Config) (*Outlook, error) {
	shown := config
	shown.TLS.Authority = Authority{}
	shown.TLS.Certificates = slices.DeleteFunc(slices.Clone(config.TLS.Certificates), func(c Certificate) bool {
		return !slices.ContainsFunc(config.Rules, func(r enforce.Rule) bool { return r.ClientCertificate == c.Name })
	})
	ring, err := loadRing(shown)
	if err != nil {
		return nil, err
	}
	o := &Outlook{Resolver: newResolver(config.Resolver), ring: ring}
	o.Policies, err = mtasts.New(mtasts.Options{
		TXT: func(ctx context.Context, name string) ([]string, error) {
			txt, err := o.Resolver.TXT(ctx, name)
			return txt.Records, err
		},
		Dial: policyHosts{func() *resolver.Resolver { return o.Resolver }}.dial,
	})
	if err != nil {
		return nil, err
	}
	o.Revoked = revocation.New(revocation.Options{})
	return o, nil
}

// Verify builds a chain from what a server showed, the leaf first, to the roots
// that ca names: "" are those of [tls.trust], anything else is the ca of a rule. It
// checks no name. Of a chain that verifies the one that was built is given, leaf to
// root.
func (o *Outlook) Verify(ca string, chain []*x509.Certificate, now time.Time) (enforce.ChainResult, []*x509.Certificate) {
	return o.ring.Verify(ca, chain, x509.ExtKeyUsageServerAuth, now)
}

// Revocation says whether a certificate of a chain as Verify built it was revoked,
// in the form that is judged and with all that is known of it. It asks, within the
// context.
func (o *Outlook) Revocation(ctx context.Context, built []*x509.Certificate, stapled []byte, now time.Time) (enforce.RevocationResult, revocation.Result) {
	r := o.Revoked.Check(ctx, built, stapled, now)
	return revocationOf(r, built), r
}

// Certificate is the one that a rule has shown to servers that ask for one; nil
// where there is none of that name.
func (o *Outlook) Certificate(name string) *tls.Certificate { return o.ring.Named(name) }

// Close gives up what is being fetched, and waits for its end.
func (o *Outlook) Close() error {
	o.Revoked.Close()
	return o.Policies.Close()
}

// policyHosts connects to the hosts of MTA-STS policies, whose addresses a resolver
// knows: the one that is in force.
type policyHosts struct{ resolver func() *resolver.Resolver }

// dial connects to the first address of a policy host that answers.
func (p policyHosts) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	found, err := p.resolver().Addresses(ctx, host)
	if err != nil {
		return nil, err
	}
	last := errors.New("the policy host has no address")
	for _, a := range found.Addrs[:min(len(found.Addrs), 8)] {
		if a = a.Unmap(); a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() {
			continue // whoever owns the name would have us talk to ourselves
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(a.String(), port))
		if err == nil {
			return conn, nil
		}
		last = err
	}
	return nil, last
}
