package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/http"
	"net/netip"
	"path/filepath"
	"postern/proxy/proxytest"
	"testing"
	"time"
)

// assemble builds the lab of every reason.
func assemble(t *testing.T) (context.Context, *court) {
	t.Helper()
	ctx, n := settle(t, []household{
		{domain: "plain.example"},
		{domain: "rolled.example", signed: true, tlsa: another},
		{domain: "norecords.example", signed: true},
		{domain: "bogus.example", bogus: true},
		{domain: "nobody.example", null: true},
		{domain: "policy.example", policy: enforcing("*.policy.example")},
		{domain: "wrongmx.example", policy: enforcing("mx.elsewhere.example")},
		{domain: "off.example", policy: policyOf("none")},
		{domain: "nopolicy.example"},
		{domain: "stripped.example", signed: true, tlsa: own},
	})
	c := &court{neighbourhood: n, t: t, root: &n.pki.Root}
	c.revoked, c.unasked = c.listed("http://203.0.113.200/crl"), c.listed("http://203.0.113.200:81/crl")
	c.serveList()
	for _, s := range []site{
		{name: "mx.partner.example", address: at("203.0.113.100"), temper: "no-starttls"},
		{name: "mx.untrusted.example", address: at("203.0.113.101"), temper: "self-signed"},
		{name: "mx.expired.example", address: at("203.0.113.102"), temper: "expired", adjust: justExpired},
		{name: "mx.revoked.example", address: at("203.0.113.103"), temper: "modern", adjust: shows(&c.revoked)},
		{name: "mx.unasked.example", address: at("203.0.113.104"), temper: "modern", adjust: shows(&c.unasked)},
		{name: "mx.refusing.example", address: at("203.0.113.105"), temper: "starttls-refused"},
		{name: "mx.old.example", address: at("203.0.113.106"), temper: "tls10"},
		{name: "mx.slow.example", address: at("203.0.113.107"), temper: "stalls-in-handshake"},
		{name: "mx.rsa.example", address: at("203.0.113.108"), temper: "tls12", adjust: rsaOnly},
		{name: "mx.strange.example", address: at("203.0.113.109"), temper: "modern", adjust: greetsStrangely},
		{name: "mx.fragile.example", address: at("203.0.113.110"), temper: "modern", adjust: hangsUp},
		{name: "mx.absent.example", address: at("203.0.113.111")},
	} {
		if err := n.serve(s); err != nil {
			t.Fatal(err)
		}
	}
	for _, client := range []string{"10.1.0.65", "10.1.0.66", "10.1.0.67", "10.1.0.81", "10.1.0.97"} {
		if err := n.addClients([]netip.Addr{at(client)}); err != nil {
			t.Fatal(err)
		}
	}
	limits := fmt.Sprintf("[limits]\nsessions_per_source = 3\n[memory]\nstore = \"bolt://%s\"\n", filepath.Join(n.dir, "memory.db"))
	if err := n.configure("enforce", timeouts, limits+reasonRules); err != nil {
		t.Fatal(err)
	}
	return ctx, c
}

func shows(c *tls.Certificate) func(*proxytest.PKI, *proxytest.ServerConfig) error {
	return func(_ *proxytest.PKI, config *proxytest.ServerConfig) error {
		config.TLS.Certificates = []tls.Certificate{*c}
		return nil
	}
}

func rsaOnly(pki *proxytest.PKI, c *proxytest.ServerConfig) error {
	certificate, err := pki.Issue(proxytest.Leaf{Names: []string{c.Name}, RSA: true})
	c.TLS.Certificates = []tls.Certificate{certificate}
	c.TLS.MaxVersion, c.TLS.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}
	return err
}

func greetsStrangely(_ *proxytest.PKI, c *proxytest.ServerConfig) error {
	c.On = map[proxytest.Stage]proxytest.Action{proxytest.AtBanner: proxytest.Say("220 mx.strange.example\r\n250 and more")}
	return nil
}

// listed makes a certificate of the root that says where its revocation list is.
func (c *court) listed(list string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		c.t.Fatal(err)
	}
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "mx.listed.example"}, DNSNames: []string{"mx.listed.example"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(60 * 24 * time.Hour), CRLDistributionPoints: []string{list},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, c.root.Certificate, key.Public(), c.root.Key)
	if err != nil {
		c.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// serveList serves the root's revocation list at port 80; at port 81 there is none.
func (c *court) serveList() {
	leaf, err := x509.ParseCertificate(c.revoked.Certificate[0])
	if err != nil {
		c.t.Fatal(err)
	}
	now := time.Now()
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: leaf.SerialNumber, RevocationTime: now.Add(-time.Minute)}},
	}, c.root.Certificate, c.root.Key)
	if err != nil {
		c.t.Fatal(err)
	}
	listener, err := c.network.Server.Listen(netip.AddrPortFrom(webAddress, 80))
	if err != nil {
		c.t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(list) })}
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(listener) }()
	c.t.Cleanup(func() { server.Close(); <-done })
}

// strip has a server be known for its TLS, by the records of its domain, and then
// take it away.
func (c *court) strip(ctx context.Context, d *daemon) {
	c.t.Helper()
	replies, r := c.send(ctx, c.t, d, "mx.stripped.example", "a@stripped.example")
	if !replies[0].OK() {
		c.t.Fatalf("%s\n%s", replies[0], r.raw)
	}
	c.servers["mx.stripped.example"].Configure(proxytest.ServerConfig{Name: "mx.stripped.example"})
}

// crowd opens as many sessions as one client may have.
func (c *court) crowd(ctx context.Context) {
	for range 3 {
		conn, err := c.dial(ctx, at("10.1.0.97"), "mx.plain.example")
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() { conn.Close() })
		if _, err := proxytest.NewClient(conn, patience).ReadReply(); err != nil {
			c.t.Fatal(err)
		}
	}
}
