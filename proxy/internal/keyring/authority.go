package keyring

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"time"
)

// Authority names the files of [tls.authority]. The zero Authority is none.
type Authority struct {
	Cert, Key string
}

// An issuer signs certificates. Its key is in memory and goes nowhere else.
type issuer struct {
	cert  *x509.Certificate
	key   crypto.Signer
	shown [][]byte  // what is shown behind a leaf
	until time.Time // when the first of what is shown ends
}

// Format keeps the key out of whatever an issuer, or what holds one, is printed
// into. It gives the name.
func (i *issuer) Format(s fmt.State, _ rune) {
	_, _ = io.WriteString(s, i.cert.Subject.String())
}

// loadAuthority loads [tls.authority] and refuses what no client would take for an
// authority. One whose time is over or has not come is refused, too: all that it
// signed would be.
func loadAuthority(a Authority, now time.Time) (*issuer, []Warning, error) {
	const key = "tls.authority"
	pair, err := loadPair(key, Certificate{Cert: a.Cert, Key: a.Key})
	if err != nil {
		return nil, nil, err
	}
	cert := pair.Leaf
	if err := mayIssue(cert, now); err != nil {
		return nil, nil, &FileError{key + ".cert", fmt.Errorf("%s: %w", a.Cert, err)}
	}
	i := &issuer{cert: cert, key: pair.PrivateKey.(crypto.Signer), shown: pair.Certificate, until: cert.NotAfter}
	warnings := examineAuthority(key, a, i, now)
	issued := cert
	for n, x := range intermediates(pair) {
		if issued.CheckSignatureFrom(x) != nil {
			warnings = append(warnings, strangeChain(key, n+2))
			break
		}
		if x.NotAfter.Before(i.until) {
			i.until = x.NotAfter
		}
		issued = x
	}
	return i, warnings, nil
}

// mayIssue says why a certificate is not that of an authority for servers (RFC
// 5280 §4.2.1.3, §4.2.1.9).
func mayIssue(c *x509.Certificate, now time.Time) error {
	const day = "2006-01-02"
	switch {
	case !c.BasicConstraintsValid || !c.IsCA:
		return errors.New("not an authority: expected basic constraints with CA true")
	case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("the authority may not sign certificates: expected the key usage keyCertSign")
	case len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0 &&
		!slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny):
		return errors.New("the authority may not issue certificates for servers: expected the extended key usage serverAuth, or none")
	case now.After(c.NotAfter):
		return fmt.Errorf("the authority expired on %s", c.NotAfter.UTC().Format(day))
	case now.Before(c.NotBefore):
		return fmt.Errorf("the authority is not valid before %s", c.NotBefore.UTC().Format(day))
	}
	return nil
}

// notVerified is the common name of the authority that nobody trusts. It is for
// the eyes of who looks why a client refused a certificate.
const notVerified = "Postern: not verified"

// ephemeralLife is how long it is valid: longer than any process runs.
const ephemeralLife = 10 * 365 * 24 * time.Hour

// newEphemeral makes an authority that nobody trusts, and nobody can come to: its
// key is gone with the process, and its certificate is never shown.
func newEphemeral(now time.Time) (*issuer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	number, err := serialNumber()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: number,
		Subject:      pkix.Name{CommonName: notVerified},
		NotBefore:    now.Add(-backdated), NotAfter: now.Add(ephemeralLife),
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &issuer{cert: cert, key: key, until: cert.NotAfter}, nil
}

// serialNumber gives 128 random bits. RFC 5280 §4.1.2.2 has up to 20 octets, and
// the CA/Browser Forum asks for 64 bits that nobody can guess.
func serialNumber() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
}

// keyID names a key in the certificates that it signs (RFC 7093 §2, method 1).
func keyID(spki []byte) []byte {
	sum := sha256.Sum256(spki)
	return sum[:20]
}
