package dane

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"
)

var noon = time.Now().Truncate(time.Second)

const day = 24 * time.Hour

// A pair is a certificate and its key.
type pair struct {
	*x509.Certificate
	key crypto.Signer
}

// issue makes a certificate; the template's gaps are filled with what is good at
// noon. Without an issuer it signs itself.
func issue(tb testing.TB, template x509.Certificate, by *pair) *pair {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template.SerialNumber, _ = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if template.NotBefore.IsZero() {
		template.NotBefore = noon.Add(-day)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = noon.Add(day)
	}
	if by == nil {
		by = &pair{&template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, by.Certificate, key.Public(), by.key)
	if err != nil {
		tb.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return &pair{c, key}
}

func authority(name string) x509.Certificate {
	return x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
}

func server(names ...string) x509.Certificate {
	return x509.Certificate{Subject: pkix.Name{CommonName: "server"}, DNSNames: names, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true}
}

// A ladder is a root, an intermediate authority and a server's certificate.
type ladder struct{ root, middle, leaf *pair }

func climb(tb testing.TB, root, middle, leaf x509.Certificate) ladder {
	l := ladder{root: issue(tb, root, nil)}
	l.middle = issue(tb, middle, l.root)
	l.leaf = issue(tb, leaf, l.middle)
	return l
}

func good(tb testing.TB) ladder {
	return climb(tb, authority("root"), authority("middle"), server("mx.example.org"))
}

func shown(pairs ...*pair) []*x509.Certificate {
	var chain []*x509.Certificate
	for _, p := range pairs {
		chain = append(chain, p.Certificate)
	}
	return chain
}

func (l ladder) chain() []*x509.Certificate { return shown(l.leaf, l.middle, l.root) }

// record makes the record of a certificate.
func record(usage, selector, matching uint8, p *pair) Record {
	data := p.Raw
	if selector == selectorSPKI {
		data = p.RawSubjectPublicKeyInfo
	}
	switch matching {
	case matchSHA256:
		sum := sha256.Sum256(data)
		data = sum[:]
	case matchSHA512:
		sum := sha512.Sum512(data)
		data = sum[:]
	}
	return Record{Usage: usage, Selector: selector, MatchingType: matching, Data: data}
}

func raw(usage, selector, matching uint8, data []byte) Record {
	return Record{Usage: usage, Selector: selector, MatchingType: matching, Data: data}
}
