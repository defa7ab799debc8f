package revocation

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ocsp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An entity is a certificate with its key.
type entity struct {
	*x509.Certificate
	key crypto.Signer
}

var serials = struct {
	sync.Mutex
	next int64
}{next: 0x1000}

// issue makes a certificate, signed by the issuer or by itself. What is out of the
// ordinary the caller changes.
func issue(t testing.TB, issuer *entity, cn string, change func(*x509.Certificate)) *entity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serials.Lock()
	serials.next++
	number := serials.next
	serials.Unlock()
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(number), Subject: pkix.Name{CommonName: cn},
		NotBefore: now.AddDate(0, -1, 0), NotAfter: now.AddDate(0, 1, 0), BasicConstraintsValid: true,
	}
	if change != nil {
		change(template)
	}
	parent, by := template, crypto.Signer(key)
	if issuer != nil {
		parent, by = issuer.Certificate, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &entity{cert, key}
}

func authority(c *x509.Certificate) {
	c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
}

func named(ocsp, crl string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		if ocsp != "" {
			c.OCSPServer = []string{ocsp}
		}
		if crl != "" {
			c.CRLDistributionPoints = []string{crl}
		}
	}
}

// A pki is root, issuing authority and leaf. The authority names its list, the leaf
// its responder and its list.
type pki struct{ root, middle, leaf *entity }

const (
	ocspAt   = "http://ocsp.example/"
	crlAt    = "http://crl.example/middle.crl"
	middleAt = "http://crl.example/root.crl"
)

func newPKI(t testing.TB) pki {
	t.Helper()
	var p pki
	p.root = issue(t, nil, "root", authority)
	p.middle = issue(t, p.root, "middle", func(c *x509.Certificate) { authority(c); named("", middleAt)(c) })
	p.leaf = issue(t, p.middle, "leaf", named(ocspAt, crlAt))
	return p
}

func (p pki) chain() []*x509.Certificate {
	return []*x509.Certificate{p.leaf.Certificate, p.middle.Certificate, p.root.Certificate}
}

// revoke makes a list of the issuer's.
func revoke(t testing.TB, issuer *entity, change func(*x509.RevocationList), revoked ...*entity) []byte {
	t.Helper()
	now := time.Now()
	template := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(48 * time.Hour)}
	for _, e := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: e.SerialNumber, RevocationTime: now.Add(-2 * time.Hour), ReasonCode: ocsp.KeyCompromise})
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, issuer.Certificate, issuer.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func with(id asn1.ObjectIdentifier, critical bool, value []byte) func(*x509.RevocationList) {
	return func(l *x509.RevocationList) {
		l.ExtraExtensions = append(l.ExtraExtensions, pkix.Extension{Id: id, Critical: critical, Value: value})
	}
}

// respond makes an OCSP answer about the leaf.
func respond(t testing.TB, p pki, signer *entity, change func(*ocsp.Response)) []byte {
	t.Helper()
	now := time.Now()
	template := ocsp.Response{Status: ocsp.Good, SerialNumber: p.leaf.SerialNumber, ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(48 * time.Hour)}
	if signer != p.middle {
		template.Certificate = signer.Certificate
	}
	if change != nil {
		change(&template)
	}
	der, err := ocsp.CreateResponse(p.middle.Certificate, signer.Certificate, template, signer.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// A net of names, each of which leads to a server on loopback, and a count of what
// each was asked.
type names struct {
	t  testing.TB
	mu sync.Mutex
	at map[string]string // host:port → address
	n  map[string]int    // by host and path
}

func newNames(t testing.TB) *names {
	return &names{t: t, at: make(map[string]string), n: make(map[string]int)}
}

// dial reaches nothing but the names.
func (n *names) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	n.mu.Lock()
	to := n.at[addr]
	n.mu.Unlock()
	if to == "" {
		return nil, fmt.Errorf("no such host: %s", addr)
	}
	return new(net.Dialer).DialContext(ctx, network, to)
}

// serve has a handler answer for a host.
func (n *names) serve(host string, h http.HandlerFunc) {
	n.t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		n.n[r.Host+r.URL.Path]++
		n.mu.Unlock()
		h(w, r)
	}))
	n.t.Cleanup(s.Close)
	n.mu.Lock()
	n.at[host+":80"] = s.Listener.Addr().String()
	n.mu.Unlock()
}

func (n *names) asked(what string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.n[what]
}

// files answers with files by path, and 404 for any other.
func files(all map[string][]byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, found := all[r.URL.Path]
		if !found {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(body)
	}
}

func answering(der []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(der) }
}

// checker gives a Checker that knows the names alone.
func (n *names) checker(o Options) *Checker {
	o.Dial = n.dial
	c := New(o)
	n.t.Cleanup(c.Close)
	return c
}

func writePEM(t testing.TB, name string, e *entity) (cert, key string) {
	t.Helper()
	dir := t.TempDir()
	cert, key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	der, err := x509.MarshalPKCS8PrivateKey(e.key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.Raw}))
	write(t, key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return cert, key
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
