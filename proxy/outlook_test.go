package proxy_test

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/enforce"
	"postern/proxy"
	"postern/proxy/proxytest"
)

func TestAnOutlookNeedsNoKeyButThoseThatAreShownToServers(t *testing.T) {
	pki, err := proxytest.NewPKI("outlook")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	root, err := pki.WriteRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	config := proxy.Config{TLS: proxy.TLS{TrustCA: root, Authority: proxy.Authority{Cert: "/nonexistent/ca.pem", Key: "/nonexistent/ca.key"}},
		Rules: []enforce.Rule{{Name: "hybrid", ClientCertificate: "hybrid"}}, Verify: proxy.Verify{Cache: filepath.Join(dir, "policies")}}
	for _, name := range []string{"edge", "hybrid"} {
		cert, err := pki.Issue(proxytest.Leaf{Names: []string{name + ".test"}})
		if err != nil {
			t.Fatal(err)
		}
		c := proxy.Certificate{Name: name}
		if c.Cert, c.Key, err = proxytest.WriteCertificate(dir, name, cert); err != nil {
			t.Fatal(err)
		}
		config.TLS.Certificates = append(config.TLS.Certificates, c)
	}
	if err := os.Remove(config.TLS.Certificates[0].Key); err != nil {
		t.Fatal(err)
	}
	o, err := proxy.NewOutlook(config)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	hybrid := o.Certificate("hybrid")
	if hybrid == nil || o.Certificate("edge") != nil {
		t.Fatalf("shown to servers: %v, %v", hybrid, o.Certificate("edge"))
	}
	shown := []*x509.Certificate{hybrid.Leaf, pki.Intermediate.Certificate}
	if got, built := o.Verify("", shown, time.Now()); !got.Verified || len(built) != 3 {
		t.Errorf("%+v", got)
	}
	if got, built := o.Verify("/another/ca.pem", shown, time.Now()); got.Verified || built != nil {
		t.Errorf("%+v", got)
	}
	if _, err := os.Stat(config.Verify.Cache); err == nil {
		t.Error("a directory of policies was made")
	}
	if err := os.Remove(config.TLS.Certificates[1].Key); err != nil {
		t.Fatal(err)
	}
	if _, err := proxy.NewOutlook(config); err == nil || !strings.Contains(err.Error(), "hybrid.key") {
		t.Errorf("without the key of a certificate that a rule shows: %v", err)
	}
}
