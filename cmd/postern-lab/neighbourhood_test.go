package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"
	"postern/proxy/proxytest"
	"postern/proxy/proxytest/dnslab"
	"strings"
	"sync"
	"testing"
	"time"
)

// A neighbourhood is a lab with domains: a name server and a resolver that
// validates, real both, on the gateway, and a web server with their policies.
type neighbourhood struct {
	*lab
	dns   *dnslab.Lab
	shown map[string]tls.Certificate // by site

	mu       sync.Mutex
	policies map[string]string // by domain; "" is one that cannot be had
}

// webAddress is where mta-sts.* are.
var webAddress = at("203.0.113.200")

// A household is a domain and its one mail server.
type household struct {
	domain string
	leaf   proxytest.Leaf // what its server shows
	hosted map[string]proxytest.Leaf
	signed bool
	bogus  bool
	// tlsa gives its TLSA records, "3 1 1 …"; nil: none.
	tlsa   func(tls.Certificate) []string
	policy *string // its MTA-STS policy; nil: none
	null   bool    // it takes no mail
	plain  bool    // no TLS
}

func (h household) site() string { return "mx." + h.domain }

// settle builds the lab and starts everything but Postern.
func settle(t *testing.T, households []household) (context.Context, *neighbourhood) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	n := &neighbourhood{shown: map[string]tls.Certificate{}, policies: map[string]string{}}
	var sites []site
	for i, h := range households {
		sites = append(sites, site{name: h.site(), address: netip.AddrFrom4([4]byte{203, 0, 113, byte(50 + i)}), temper: "modern", adjust: n.furnish(h)})
	}
	var err error
	if n.lab, err = newLab(program("postern"), sites); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.close(); err != nil {
			t.Error(err)
		}
	})
	var zones []dnslab.Zone
	for _, h := range households {
		zones = append(zones, n.zone(h))
	}
	n.serveWeb(t)
	n.dns = dnslab.Options{Listen: netip.MustParseAddrPort("127.0.0.1:53"), Place: n.network.Gateway}.Start(t, zones...)
	// The policy hosts' certificates are held against the roots of the system.
	t.Setenv("SSL_CERT_FILE", filepath.Join(n.dir, "root.pem"))
	return ctx, n
}

// furnish gives a household's server its certificates.
func (n *neighbourhood) furnish(h household) func(*proxytest.PKI, *proxytest.ServerConfig) error {
	return func(pki *proxytest.PKI, c *proxytest.ServerConfig) error {
		if h.plain {
			c.TLS = nil
			return nil
		}
		leaf := h.leaf
		if leaf.Names == nil {
			leaf.Names = []string{h.site()}
		}
		usual, err := pki.Issue(leaf)
		if err != nil {
			return err
		}
		n.shown[h.site()] = usual
		c.TLS.Certificates = []tls.Certificate{usual}
		if h.hosted == nil {
			return nil
		}
		c.Name = leaf.Names[0] // which its banner gives, and SNI goes by
		byName := map[string]*tls.Certificate{}
		for name, l := range h.hosted {
			one, err := pki.Issue(l)
			if err != nil {
				return err
			}
			n.shown[name], byName[name] = one, &one
		}
		c.TLS.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) { return byName[hello.ServerName], nil }
		return nil
	}
}

func (n *neighbourhood) zone(h household) dnslab.Zone {
	z := dnslab.Zone{Name: h.domain, Signed: h.signed, Bogus: h.bogus}
	if h.null {
		z.Records = []string{"@ MX 0 ."}
		return z
	}
	z.Records = []string{"@ MX 10 mx", "mx A " + n.sites[h.site()].address.String()}
	if h.tlsa != nil {
		for _, record := range h.tlsa(n.shown[h.site()]) {
			z.Records = append(z.Records, "_25._tcp.mx TLSA "+record)
		}
	}
	if h.policy != nil {
		n.policies[h.domain] = *h.policy
		z.Records = append(z.Records, `_mta-sts TXT "v=STSv1; id=1;"`, "mta-sts A "+webAddress.String())
	}
	return z
}

// serveWeb serves the policies over HTTPS.
func (n *neighbourhood) serveWeb(t *testing.T) {
	t.Helper()
	if err := n.network.Server.AddAddress("eth0", subnet(webAddress)); err != nil {
		t.Fatal(err)
	}
	listener, err := n.network.Server.Listen(netip.AddrPortFrom(webAddress, 443))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		defer n.mu.Unlock()
		policy := n.policies[strings.TrimPrefix(r.Host, "mta-sts.")]
		if policy == "" || r.URL.Path != "/.well-known/mta-sts.txt" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprint(w, policy)
	})}
	server.TLSConfig = &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		c, err := n.pki.Issue(proxytest.Leaf{Names: []string{h.ServerName}})
		return &c, err
	}}
	done := make(chan struct{})
	go func() { defer close(done); server.ServeTLS(listener, "", "") }()
	t.Cleanup(func() { server.Close(); <-done })
}

func enforcing(patterns ...string) *string { return policyOf("enforce", patterns...) }
func policyOf(mode string, mx ...string) *string {
	text := "version: STSv1\nmode: " + mode + "\nmax_age: 86400\n"
	for _, p := range mx {
		text += "mx: " + p + "\n"
	}
	return &text
}

// own is the record for the key that a server shows.
func own(c tls.Certificate) []string {
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	return []string{"3 1 1 " + hex.EncodeToString(sum[:])}
}

// another is the record for some other key.
func another(tls.Certificate) []string { return []string{"3 1 1 " + strings.Repeat("ab", 32)} }

// anchor is the record for the authority that the server's chain ends with.
func anchor(c tls.Certificate) []string {
	sum := sha256.Sum256(c.Certificate[len(c.Certificate)-1])
	return []string{"2 0 1 " + hex.EncodeToString(sum[:])}
}

// opens starts postern, and ends it with the test.
func (n *neighbourhood) opens(ctx context.Context, t *testing.T) *daemon {
	t.Helper()
	d := n.starts(ctx, t)
	t.Cleanup(func() {
		if err := d.stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return d
}

// send opens a session with a site and offers mail for recipients; it gives the
// replies to RCPT, or, where the session ends before, that to EHLO.
func (n *neighbourhood) send(ctx context.Context, t *testing.T, d *daemon, to string, recipients ...string) ([]proxytest.Reply, record) {
	t.Helper()
	conn, err := n.dial(ctx, n.network.Client4, to)
	if err != nil {
		t.Fatal(err)
	}
	v := visit{proxytest.NewClient(conn, patience), t, netip.MustParseAddrPort(conn.LocalAddr().String())}
	before := d.recorded()
	v.hears(220)
	reply, err := v.Hello("EHLO", "client.example")
	if err != nil {
		t.Fatal(err)
	}
	var replies []proxytest.Reply
	accepted := false
	if !reply.OK() {
		replies = append(replies, reply)
	} else {
		v.says("MAIL FROM:<doctor@hospital.example>", 250)
		for _, r := range recipients {
			if _, err := v.Write([]byte("RCPT TO:<" + r + ">\r\n")); err != nil {
				t.Fatal(err)
			}
			reply, err := v.ReadReply()
			if err != nil {
				t.Fatal(err)
			}
			replies, accepted = append(replies, reply), accepted || reply.OK()
		}
		if accepted {
			v.says("DATA", 354)
			v.says("Subject: x\r\n\r\nx\r\n.", 250)
		}
		v.says("QUIT", 221)
	}
	v.closes()
	r, err := d.recordAfter(ctx, v.address, before)
	if err != nil {
		t.Fatal(err)
	}
	return replies, r
}
