package keyring

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"strings"
	"time"
)

// A Sheet is what a partner needs to know of a certificate that it will be shown,
// or of the authority that minted it.
type Sheet struct {
	Authority    bool   // it is that of [tls.authority], which clients have to trust
	Name         string // in the configuration
	Subject      string // distinguished names by RFC 2253, as crypto/x509 writes them
	Issuer       string
	Root         string // subject of the root; "" when the chain does not verify against [tls.trust]
	Organisation string // of the subject; "" when it has none
	Key          string // "RSA", "ECDSA P-256", "Ed25519"
	KeyBits      int
	NotBefore    time.Time
	NotAfter     time.Time
	Names        []string // subject alternative names of type dNSName
	SHA256       [32]byte // of the certificate
	SPKISHA256   [32]byte // of its SubjectPublicKeyInfo
	Chain        []string // subjects of the other certificates that are shown with it
}

// Sheets gives one sheet for each certificate, in the order of the configuration,
// and one for the authority behind them if there is one. The root is looked for as
// of now.
func (r *Ring) Sheets(now time.Time) []Sheet {
	sheets := make([]Sheet, len(r.shown), len(r.shown)+1)
	for i, c := range r.shown {
		sheets[i] = r.sheet(c, now)
		sheets[i].Name = r.names[i]
	}
	if r.minter != nil {
		a := r.minter.trusted
		s := r.sheet(&tls.Certificate{Certificate: a.shown, Leaf: a.cert}, now)
		s.Authority = true
		sheets = append(sheets, s)
	}
	return sheets
}

func (r *Ring) sheet(c *tls.Certificate, now time.Time) Sheet {
	leaf := c.Leaf
	kind, bits := describeKey(leaf.PublicKey)
	s := Sheet{
		Subject:      leaf.Subject.String(),
		Issuer:       leaf.Issuer.String(),
		Organisation: strings.Join(leaf.Subject.Organization, ", "),
		Key:          kind,
		KeyBits:      bits,
		NotBefore:    leaf.NotBefore,
		NotAfter:     leaf.NotAfter,
		Names:        leaf.DNSNames,
		SHA256:       sha256.Sum256(leaf.Raw),
		SPKISHA256:   sha256.Sum256(leaf.RawSubjectPublicKeyInfo),
	}
	rest := intermediates(c)
	for _, x := range rest {
		s.Chain = append(s.Chain, x.Subject.String())
	}
	s.Root = r.root(leaf, rest, now)
	return s
}

func (r *Ring) root(leaf *x509.Certificate, rest []*x509.Certificate, now time.Time) string {
	pool := x509.NewCertPool()
	for _, x := range rest {
		pool.AddCert(x)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: r.Roots(""), Intermediates: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return ""
	}
	return chains[0][len(chains[0])-1].Subject.String()
}

// intermediates gives what is shown behind the leaf. All of it was parsed when it
// was loaded.
func intermediates(c *tls.Certificate) []*x509.Certificate {
	var rest []*x509.Certificate
	for _, raw := range c.Certificate[1:] {
		if x, err := x509.ParseCertificate(raw); err == nil {
			rest = append(rest, x)
		}
	}
	return rest
}
