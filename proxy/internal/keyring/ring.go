package keyring

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
)

// A Ring is a set of certificates and roots. Its methods may be called by any
// number of sessions at once.
type Ring struct {
	shown    []*tls.Certificate // in the order of the configuration
	names    []string           // of shown
	named    map[string]*tls.Certificate
	roots    map[string]*x509.CertPool  // by path; "" are those of [tls.trust]
	subjects map[string]map[string]bool // of roots, by the same, DER
	chains   chains
	minter   *Minter // nil: there is no authority
	warnings []Warning
}

func (r *Ring) add(name string, c *tls.Certificate) {
	r.shown = append(r.shown, c)
	r.names = append(r.names, name)
	r.named[name] = c
}

// Empty reports whether there is no certificate to show: STARTTLS then cannot be
// offered to a client.
func (r *Ring) Empty() bool { return len(r.shown) == 0 }

// Warnings tells what an administrator should know of the files, in their order.
func (r *Ring) Warnings() []Warning { return r.warnings }

// Named gives the certificate of that name, to be shown to an upstream that asks
// for one. It is nil when there is none.
func (r *Ring) Named(name string) *tls.Certificate { return r.named[name] }

// Server chooses the certificate for a client: of those with the exact name that
// it asked for by SNI, else of those with a wildcard for it (one label, RFC 9525
// §6.3), else of all, the first whose key and versions the client supports. If it
// supports none the first of all is shown, so that the handshake fails with an
// alert that says why. It has the form of tls.Config.GetCertificate. An empty Ring
// yields an error.
func (r *Ring) Server(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if r.Empty() {
		return nil, errors.New("no certificate to show")
	}
	sni := strings.TrimSuffix(strings.ToLower(hello.ServerName), ".")
	// The name is looked at here; SupportsCertificate would refuse the default
	// certificate because of it.
	nameless := *hello
	nameless.ServerName = ""
	for _, fits := range []func(*x509.Certificate) bool{
		func(c *x509.Certificate) bool { return sni != "" && hasName(c, sni) },
		func(c *x509.Certificate) bool { return hasName(c, wildcard(sni)) },
		func(*x509.Certificate) bool { return true },
	} {
		for _, c := range r.shown {
			if fits(c.Leaf) && nameless.SupportsCertificate(c) == nil {
				return c, nil
			}
		}
	}
	return r.shown[0], nil
}

// wildcard gives the name that covers all labels in the place of the first one of
// name; one that no certificate has if there is nothing below the first.
func wildcard(name string) string {
	_, rest, _ := strings.Cut(name, ".")
	return "*." + rest
}

func hasName(c *x509.Certificate, name string) bool {
	for _, n := range c.DNSNames {
		if strings.EqualFold(n, name) {
			return true
		}
	}
	return false
}

// Roots gives the roots that a rule's ca names, "" being those of [tls.trust]. A
// file that was not loaded yields a pool without roots and never nil, which
// crypto/x509 takes for the roots of the system.
func (r *Ring) Roots(ca string) *x509.CertPool {
	if pool := r.roots[ca]; pool != nil {
		return pool
	}
	return x509.NewCertPool()
}
