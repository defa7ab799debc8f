package keyring

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// An entity is a certificate with its key.
type entity struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// A request says what is out of the ordinary in a certificate.
type request struct {
	cn        string
	names     []string
	ca        bool
	key       crypto.Signer
	algorithm x509.SignatureAlgorithm
	usage     x509.ExtKeyUsage // 0: serverAuth
	from, to  time.Time
}

func newECDSA(t testing.TB) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newRSA(t testing.TB, bits int) crypto.Signer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var serial int64

// issue makes a certificate signed by the issuer, or by itself when that is nil.
func issue(t testing.TB, issuer *entity, r request) *entity {
	t.Helper()
	serial++
	e := &entity{key: r.key}
	if e.key == nil {
		e.key = newECDSA(t)
	}
	if r.from.IsZero() {
		r.from, r.to = noon.AddDate(-1, 0, 0), noon.AddDate(1, 0, 0)
	}
	usage := x509.ExtKeyUsageServerAuth
	if r.usage != 0 {
		usage = r.usage
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: r.cn, Organization: []string{"Klinikum Nord"}},
		NotBefore:    r.from, NotAfter: r.to,
		DNSNames: r.names, SignatureAlgorithm: r.algorithm,
		BasicConstraintsValid: true, IsCA: r.ca,
	}
	if r.ca {
		template.KeyUsage = x509.KeyUsageCertSign
	} else {
		template.ExtKeyUsage = []x509.ExtKeyUsage{usage}
	}
	parent, key := template, e.key
	if issuer != nil {
		parent, key = issuer.cert, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, e.key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if e.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return e
}

func certPEM(all ...*entity) []byte {
	var out []byte
	for _, e := range all {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.cert.Raw})...)
	}
	return out
}

func keyPEM(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// A directory of files.
type directory struct {
	testing.TB
	path string
}

func newDirectory(t testing.TB) directory { return directory{t, t.TempDir()} }

func (d directory) write(name string, data []byte) string {
	d.Helper()
	path := filepath.Join(d.path, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		d.Fatal(err)
	}
	return path
}

// pair writes certificate and key of the first entity, with the others behind it.
func (d directory) pair(name string, chain ...*entity) Certificate {
	d.Helper()
	return Certificate{Name: name, Cert: d.write(name+".pem", certPEM(chain...)), Key: d.write(name+".key", keyPEM(d, chain[0].key))}
}

// roots writes a file of roots.
func (d directory) roots(name string, all ...*entity) string {
	d.Helper()
	return d.write(name, certPEM(all...))
}
