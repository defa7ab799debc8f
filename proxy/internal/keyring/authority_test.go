package keyring

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"
)

func TestTheKeyOfTheAuthorityIsNotPrinted(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m, _ := minting(t, request{key: ed})
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		for _, what := range []any{m, m.trusted, struct{ M *Minter }{m}, &Ring{minter: m}} {
			got := fmt.Sprintf(verb, what)
			for _, form := range []string{"%x", "%d", "%v"} {
				if secret := strings.Trim(fmt.Sprintf(form, ed.Seed()[:8]), "[]"); strings.Contains(got, secret) {
					t.Errorf("%s: %s", verb, got)
				}
			}
		}
	}
}

func TestAnAuthorityThatNoClientWouldTakeForOneIsRefused(t *testing.T) {
	d := newDirectory(t)
	load := func(name string, e *entity) error {
		pair := d.pair(name, e)
		ring, err := Load(Files{TrustCA: "system", Authority: Authority{pair.Cert, pair.Key}}, noon)
		if (ring == nil) == (err == nil) {
			t.Errorf("%s: %v, %v", name, ring, err)
		}
		return err
	}
	altered := func(change func(*x509.Certificate)) *entity {
		key := newECDSA(t)
		template := &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(1, 0, 0),
			Subject: pkix.Name{CommonName: "ca"}, BasicConstraintsValid: true, IsCA: true}
		change(template)
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return &entity{cert, key}
	}
	year := noon.AddDate(-1, 0, 0)
	for name, c := range map[string]struct {
		e    *entity
		want string
	}{
		"leaf":     {issue(t, nil, request{cn: "leaf"}), "tls.authority.cert: DIR/leaf.pem: not an authority: expected basic constraints with CA true"},
		"past":     {issue(t, nil, request{cn: "past", ca: true, from: year, to: noon.Add(-time.Hour)}), "tls.authority.cert: DIR/past.pem: the authority expired on 2026-11-24"},
		"to come":  {issue(t, nil, request{cn: "x", ca: true, from: noon.Add(time.Hour), to: noon.AddDate(1, 0, 0)}), "tls.authority.cert: DIR/to come.pem: the authority is not valid before 2026-11-24"},
		"no usage": {altered(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), "tls.authority.cert: DIR/no usage.pem: the authority may not sign certificates: expected the key usage keyCertSign"},
		"mail":     {altered(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection} }), "tls.authority.cert: DIR/mail.pem: the authority may not issue certificates for servers: expected the extended key usage serverAuth, or none"},
		"good":     {altered(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), ""},
		"any":      {altered(func(c *x509.Certificate) {}), ""},
	} {
		err := load(name, c.e)
		if got := strings.ReplaceAll(fmt.Sprint(err), d.path, "DIR"); got != c.want && (err != nil || c.want != "") {
			t.Errorf("%s: %s", name, got)
		}
	}
	ca := issue(t, nil, request{cn: "ca", ca: true})
	pair, other := d.pair("ca", ca), d.write("other.key", keyPEM(t, newECDSA(t)))
	for _, a := range []Authority{{pair.Cert, other}, {pair.Cert, ""}, {"", pair.Key}} {
		_, err := Load(Files{TrustCA: "system", Authority: a}, noon)
		if err == nil || !strings.HasPrefix(err.Error(), "tls.authority.") {
			t.Errorf("%+v: %v", a, err)
		}
	}
	if r, err := Load(Files{TrustCA: "system"}, noon); err != nil || r.Minter() != nil {
		t.Errorf("minting without an authority: %v", err)
	}
}

func TestTheAuthorityIsWarnedOfAndHasASheet(t *testing.T) {
	d := newDirectory(t)
	ca := issue(t, nil, request{cn: "ca", ca: true, from: noon.AddDate(-1, 0, 0), to: noon.AddDate(0, 0, 89)})
	pair := d.pair("ca", ca, issue(t, nil, request{cn: "stranger", ca: true}))
	if err := os.Chmod(pair.Key, 0o644); err != nil {
		t.Fatal(err)
	}
	edge := d.pair("edge", issue(t, nil, request{cn: "edge", names: []string{"edge.example"}}))
	r, err := Load(Files{TrustCA: "system", Certificates: []Certificate{edge}, Authority: Authority{pair.Cert, pair.Key}}, noon)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range r.Warnings() {
		got = append(got, w.Error())
	}
	want := []string{"tls.authority.cert: expires on 2027-02-21", "tls.authority.key: everybody on this machine can use it (mode 0644)",
		"tls.authority.cert: certificate 2 of the file did not issue the one before it: clients may find no chain"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
	sheets := r.Sheets(noon)
	if len(sheets) != 2 || sheets[0].Authority || !sheets[1].Authority || sheets[1].Name != "" || sheets[1].Subject != "CN=ca,O=Klinikum Nord" {
		t.Errorf("%+v", sheets)
	}
}
