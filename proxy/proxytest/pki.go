package proxytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 90 * 24 * time.Hour
	authorityAge  = 365 * 24 * time.Hour // so that a leaf that has expired was good once
	backdated     = time.Hour            // against clocks that differ a little
	rsaBits       = 2048
)

// Authority is a certificate that others are issued from, with its key.
type Authority struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
}

// PKI is a root and an intermediate authority that issues the leaves. Keys are
// ECDSA P-256, so that making one costs a millisecond.
type PKI struct {
	Root         Authority
	Intermediate Authority
}

// Leaf says what a certificate is to be like. The zero value is a good server
// certificate without any name.
type Leaf struct {
	Names      []string  // DNS names (wildcards too) and IP addresses
	CommonName string    // empty: the first name
	NotBefore  time.Time // zero: an hour ago
	NotAfter   time.Time // zero: 90 days from now
	CRL        []string  // addresses of the CRL
	OCSP       []string  // addresses of the OCSP responder
	RSA        bool      // a 2048 bit RSA key; slow to make
	SelfSigned bool      // signed by its own key, chaining to nobody
	SHA1       bool      // signed over SHA-1
	Client     bool      // for client authentication, and for nothing else
	Incomplete bool      // served without the intermediate, as is often seen
}

// NewPKI makes a root and an intermediate named after name.
func NewPKI(name string) (*PKI, error) {
	root, err := newAuthority(name+" Root", nil)
	if err != nil {
		return nil, fmt.Errorf("root authority: %w", err)
	}
	intermediate, err := newAuthority(name+" Intermediate", &root)
	if err != nil {
		return nil, fmt.Errorf("intermediate authority: %w", err)
	}
	return &PKI{Root: root, Intermediate: intermediate}, nil
}

func newAuthority(name string, parent *Authority) (Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Authority{}, err
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name, Organization: []string{"proxytest"}},
		NotBefore:             now.Add(-authorityAge),
		NotAfter:              now.Add(authorityLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	issuer := Authority{Certificate: template, Key: key}
	if parent != nil {
		issuer = *parent
	}
	cert, err := sign(template, issuer, key.Public())
	return Authority{Certificate: cert, Key: key}, err
}

func sign(template *x509.Certificate, issuer Authority, public crypto.PublicKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, issuer.Certificate, public, issuer.Key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// Issue makes a certificate and its key. Certificates[0] of the result is the
// leaf, followed by the intermediate unless there is none or it is left out.
func (p *PKI) Issue(l Leaf) (tls.Certificate, error) {
	key, err := newKey(l.RSA)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := l.template()
	issuer := p.Intermediate
	if l.SelfSigned {
		issuer = Authority{Certificate: template, Key: key}
	}
	if l.SHA1 {
		template.SignatureAlgorithm = x509.ECDSAWithSHA1
		if _, ok := issuer.Key.(*rsa.PrivateKey); ok {
			template.SignatureAlgorithm = x509.SHA1WithRSA
		}
	}
	leaf, err := sign(template, issuer, key.Public())
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate for %q: %w", l.Names, err)
	}
	chain := [][]byte{leaf.Raw}
	if !l.SelfSigned && !l.Incomplete {
		chain = append(chain, p.Intermediate.Certificate.Raw)
	}
	return tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}, nil
}

func (l Leaf) template() *x509.Certificate {
	t := &x509.Certificate{
		Subject:               pkix.Name{CommonName: l.CommonName, Organization: []string{"proxytest"}},
		NotBefore:             l.NotBefore,
		NotAfter:              l.NotAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		CRLDistributionPoints: l.CRL,
		OCSPServer:            l.OCSP,
	}
	if t.Subject.CommonName == "" && len(l.Names) > 0 {
		t.Subject.CommonName = l.Names[0]
	}
	now := time.Now()
	if t.NotAfter.IsZero() {
		t.NotAfter = now.Add(leafLife)
	}
	if t.NotBefore.IsZero() {
		t.NotBefore = now.Add(-backdated)
		// One that expired long ago must have begun before that.
		if !t.NotBefore.Before(t.NotAfter) {
			t.NotBefore = t.NotAfter.Add(-leafLife)
		}
	}
	if l.Client {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	for _, name := range l.Names {
		if ip := net.ParseIP(name); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, name)
		}
	}
	return t
}

func newKey(useRSA bool) (crypto.Signer, error) {
	if useRSA {
		return rsa.GenerateKey(rand.Reader, rsaBits)
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// Pool returns a pool that holds the root alone.
func (p *PKI) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.Root.Certificate)
	return pool
}

// WriteRoot writes the root's certificate as dir/root.pem and returns the path.
func (p *PKI) WriteRoot(dir string) (string, error) {
	return writePEM(filepath.Join(dir, "root.pem"), pemBlocks([][]byte{p.Root.Certificate.Raw}))
}

// Write writes an authority's certificate and key as dir/name.pem and
// dir/name.key and returns the paths.
func (a Authority) Write(dir, name string) (certFile, keyFile string, err error) {
	return WriteCertificate(dir, name, tls.Certificate{
		Certificate: [][]byte{a.Certificate.Raw}, PrivateKey: a.Key,
	})
}

// WriteCertificate writes a chain as dir/name.pem and its key, PKCS #8 and
// readable by the owner alone, as dir/name.key, and returns the paths.
func WriteCertificate(dir, name string, cert tls.Certificate) (certFile, keyFile string, err error) {
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return "", "", fmt.Errorf("key of %s: %w", name, err)
	}
	certFile, err = writePEM(filepath.Join(dir, name+".pem"), pemBlocks(cert.Certificate))
	if err != nil {
		return "", "", err
	}
	keyFile, err = writePEM(filepath.Join(dir, name+".key"), []pem.Block{{Type: "PRIVATE KEY", Bytes: key}})
	return certFile, keyFile, err
}

func pemBlocks(chain [][]byte) []pem.Block {
	var blocks []pem.Block
	for _, der := range chain {
		blocks = append(blocks, pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	return blocks
}

func writePEM(path string, blocks []pem.Block) (string, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	for i := range blocks {
		if err := pem.Encode(f, &blocks[i]); err != nil {
			return "", errors.Join(err, f.Close())
		}
	}
	return path, f.Close()
}
