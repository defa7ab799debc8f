package proxytest

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestACertificateIsWrongInTheOneWayAskedForAndInNoOther(t *testing.T) {
	names := []string{"mx.test", "*.example.test", "192.0.2.1"}
	cases := []struct {
		name string
		leaf Leaf
		want func(error) bool
	}{
		{"good", Leaf{}, nil},
		{"good with RSA", Leaf{RSA: true}, nil},
		{"expired", Leaf{NotAfter: time.Now().Add(-time.Minute)}, invalid(x509.Expired)},
		{"not yet valid", Leaf{NotBefore: time.Now().Add(time.Hour)}, invalid(x509.Expired)},
		{"self-signed", Leaf{SelfSigned: true}, as[x509.UnknownAuthorityError]},
		{"without its intermediate", Leaf{Incomplete: true}, as[x509.UnknownAuthorityError]},
		{"over SHA-1", Leaf{SHA1: true}, as[x509.UnknownAuthorityError]},
		{"for clients", Leaf{Client: true}, invalid(x509.IncompatibleUsage)},
		{"of somebody else", Leaf{Names: []string{"elsewhere.test"}}, as[x509.HostnameError]},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.leaf.Names == nil {
				c.leaf.Names = names
			}
			cert, err := pki(t).Issue(c.leaf)
			if err != nil {
				t.Fatal(err)
			}
			intermediates := x509.NewCertPool()
			for _, der := range cert.Certificate[1:] {
				parsed, err := x509.ParseCertificate(der)
				if err != nil {
					t.Fatal(err)
				}
				intermediates.AddCert(parsed)
			}
			_, err = cert.Leaf.Verify(x509.VerifyOptions{Roots: pki(t).Pool(), Intermediates: intermediates, DNSName: "mx.test"})
			if c.want == nil && err != nil || c.want != nil && !c.want(err) {
				t.Errorf("verification says: %v", err)
			}
			if !cert.Leaf.NotBefore.Before(cert.Leaf.NotAfter) {
				t.Errorf("valid from %s to %s", cert.Leaf.NotBefore, cert.Leaf.NotAfter)
			}
		})
	}
}

func as[E error](err error) bool {
	_, ok := err.(E)
	return ok
}

func invalid(reason x509.InvalidReason) func(error) bool {
	return func(err error) bool {
		e, ok := err.(x509.CertificateInvalidError)
		return ok && e.Reason == reason
	}
}

func TestSHA1IsReallyInTheSignature(t *testing.T) {
	for _, c := range []struct {
		leaf Leaf
		want x509.SignatureAlgorithm
	}{
		{Leaf{SHA1: true}, x509.ECDSAWithSHA1},
		{Leaf{SHA1: true, RSA: true}, x509.ECDSAWithSHA1}, // the issuer's key signs
		{Leaf{SHA1: true, RSA: true, SelfSigned: true}, x509.SHA1WithRSA},
	} {
		cert, err := pki(t).Issue(c.leaf)
		if err != nil {
			t.Fatal(err)
		}
		if got := cert.Leaf.SignatureAlgorithm; got != c.want {
			t.Errorf("%+v: %v", c.leaf, got)
		}
	}
}

func TestNamesAndAddressesOfALeafAreWhatWasAskedFor(t *testing.T) {
	cert, err := pki(t).Issue(Leaf{
		Names: []string{"mx.test", "*.example.test", "192.0.2.1"}, RSA: true,
		CRL: []string{"http://crl.test/1"}, OCSP: []string{"http://ocsp.test/"},
	})
	if err != nil {
		t.Fatal(err)
	}
	l := cert.Leaf
	if l.Subject.CommonName != "mx.test" || len(l.DNSNames) != 2 || len(l.IPAddresses) != 1 ||
		len(l.CRLDistributionPoints) != 1 || len(l.OCSPServer) != 1 {
		t.Errorf("%+v", l)
	}
	if _, ok := l.PublicKey.(*rsa.PublicKey); !ok {
		t.Errorf("key %T", l.PublicKey)
	}
}

func TestFilesAreWrittenSoThatTheyCanBeLoadedAndKeysAreKept(t *testing.T) {
	dir := t.TempDir()
	cert, err := pki(t).Issue(Leaf{Names: []string{"mx.test"}})
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile, err := WriteCertificate(dir, "edge", cert)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if len(loaded.Certificate) != 2 || !cert.PrivateKey.(*ecdsa.PrivateKey).Equal(loaded.PrivateKey) {
		t.Error("what was loaded is not what was written")
	}
	if info, err := os.Stat(keyFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info, err)
	}
	root, err := pki(t).WriteRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(root)
	if err != nil || !x509.NewCertPool().AppendCertsFromPEM(text) {
		t.Errorf("root file: %v", err)
	}
	if _, _, err := pki(t).Intermediate.Write(dir, "ca"); err != nil {
		t.Error(err)
	}
	if _, _, err := WriteCertificate(filepath.Join(dir, "missing"), "edge", cert); err == nil {
		t.Error("a directory that is not there was written to")
	}
}
