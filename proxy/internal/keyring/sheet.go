package keyring

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"strings"
	"time"
)

// A Sheet is what a partner needs to know of a certificate that it will be shown.
type Sheet struct {
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

// Sheets gives one sheet for each certificate, in the order of the configuration.
// The root is looked for as of now.
func (r *Ring) Sheets(now time.Time) []Sheet {
	sheets := make([]Sheet, len(r.shown))
	for i, c := range r.shown {
		leaf := c.Leaf
		kind, bits := describeKey(leaf.PublicKey)
		sheets[i] = Sheet{
			Name:         r.names[i],
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
			sheets[i].Chain = append(sheets[i].Chain, x.Subject.String())
		}
		sheets[i].Root = r.root(leaf, rest, now)
	}
	return sheets
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
