package keyring

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestWhatCannotBeLoadedIsNamedAllAtOnceByKey(t *testing.T) {
	d := newDirectory(t)
	good := issue(t, nil, request{cn: "good", names: []string{"good.example"}})
	weak := issue(t, nil, request{cn: "weak", names: []string{"weak.example"}, key: newRSA(t, 1024)})
	goodCert, goodKey := d.write("good.pem", certPEM(good)), d.write("good.key", keyPEM(t, good.key))
	broken := append(certPEM(good), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("no DER")})...)
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("secret")})
	old := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED"}, Bytes: []byte("secret")})

	ring, err := Load(Files{
		Certificates: []Certificate{
			{"good", goodCert, goodKey},
			{"both missing", filepath.Join(d.path, "none.pem"), filepath.Join(d.path, "none.key")},
			{"swapped", goodKey, goodCert},
			{"another's key", goodCert, d.write("other.key", keyPEM(t, newECDSA(t)))},
			{"weak", d.write("weak.pem", certPEM(weak)), d.write("weak.key", keyPEM(t, weak.key))},
			{"broken chain", d.write("broken.pem", broken), goodKey},
			{"encrypted", goodCert, d.write("encrypted.key", encrypted)},
			{"encrypted as of old", goodCert, d.write("old.key", old)},
			{"no file", goodCert, d.path},
			{"a key for agreement only", goodCert, d.write("odd.key", pem.EncodeToMemory(&pem.Block{Type: "DSA PRIVATE KEY", Bytes: []byte("x")}))},
		},
		TrustCA: d.write("empty.pem", nil),
		RuleCAs: []RuleCA{{0, goodCert}, {3, d.write("text.pem", []byte("these are no roots"))}, {5, filepath.Join(d.path, "none.pem")}},
	}, noon)
	if ring != nil {
		t.Fatal("a ring of what could be loaded")
	}
	want := []string{
		"tls.certificate[1].cert: open DIR/none.pem: no such file or directory",
		"tls.certificate[1].key: open DIR/none.key: no such file or directory",
		"tls.certificate[2].cert: DIR/good.key: no certificate found, expected PEM with a CERTIFICATE block",
		"tls.certificate[2].key: DIR/good.pem: no private key found, expected PEM with a PRIVATE KEY block",
		"tls.certificate[3].key: DIR/other.key: the key is not that of the first certificate in DIR/good.pem",
		"tls.certificate[4].key: DIR/weak.key: an RSA key of 1024 bits found, expected 2048 or more",
		"tls.certificate[5].cert: DIR/broken.pem: certificate 2: x509: malformed certificate",
		"tls.certificate[6].key: DIR/encrypted.key: the key is encrypted, expected one that can be read without a passphrase",
		"tls.certificate[7].key: DIR/old.key: the key is encrypted, expected one that can be read without a passphrase",
		"tls.certificate[8].key: DIR: not a regular file",
		"tls.certificate[9].key: DIR/odd.key: a DSA PRIVATE KEY found, expected an RSA, ECDSA or Ed25519 key",
		"tls.trust.ca: DIR/empty.pem: no certificate found, expected PEM with a CERTIFICATE block",
		"rule[3].ca: DIR/text.pem: no certificate found, expected PEM with a CERTIFICATE block",
		"rule[5].ca: open DIR/none.pem: no such file or directory",
	}
	got := strings.Split(strings.ReplaceAll(err.Error(), d.path, "DIR"), "\n")
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("error %d of\n%s\nand not as in\n%s", i, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	var one *FileError
	if !errors.As(err, &one) || one.ConfigKey() != "tls.certificate[1].cert" || !errors.Is(err, fs.ErrNotExist) ||
		!strings.HasPrefix(one.Problem(), "open ") {
		t.Errorf("the first of them: %+v", one)
	}
}

func TestKeysOfEveryFormAreRead(t *testing.T) {
	d := newDirectory(t)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, e := newRSA(t, 2048).(*rsa.PrivateKey), newECDSA(t).(*ecdsa.PrivateKey)
	sec1, err := x509.MarshalECPrivateKey(e)
	if err != nil {
		t.Fatal(err)
	}
	// openssl ecparam writes the curve into a block of its own before the key.
	params := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7}})
	for what, file := range map[string]struct {
		owner *entity
		key   []byte
	}{
		"PKCS #8 ECDSA":   {issue(t, nil, request{key: e}), keyPEM(t, e)},
		"PKCS #8 RSA":     {issue(t, nil, request{key: r}), keyPEM(t, r)},
		"PKCS #8 Ed25519": {issue(t, nil, request{key: ed}), keyPEM(t, ed)},
		"PKCS #1":         {issue(t, nil, request{key: r}), pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(r)})},
		"SEC 1":           {issue(t, nil, request{key: e}), append(params, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})...)},
	} {
		text := append([]byte("subject=somebody\n"), certPEM(file.owner)...)
		_, err := Load(Files{TrustCA: "system", Certificates: []Certificate{{"a", d.write("a.pem", text), d.write("a.key", file.key)}}}, noon)
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestARingWithoutCertificatesShowsNone(t *testing.T) {
	r, err := Load(Files{TrustCA: "system"}, noon)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Empty() || r.Named("edge") != nil || len(r.Sheets(noon)) != 0 {
		t.Error("something is shown")
	}
	if c, err := r.Server(helloFor("")); c != nil || err == nil {
		t.Errorf("%v, %v", c, err)
	}
}

func TestWhatWillFailForSomePeerIsWarnedOf(t *testing.T) {
	d := newDirectory(t)
	root := issue(t, nil, request{cn: "root", ca: true})
	stranger := issue(t, nil, request{cn: "stranger", ca: true})
	year := noon.AddDate(-1, 0, 0)
	public := d.pair("public key file", issue(t, root, request{cn: "p", names: []string{"p.example"}}), root)
	if err := os.Chmod(public.Key, 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := Load(Files{TrustCA: d.roots("roots.pem", root), Certificates: []Certificate{
		d.pair("good", issue(t, root, request{cn: "good", names: []string{"good.example"}}), root),
		d.pair("past", issue(t, root, request{cn: "past", names: []string{"a.example"}, from: year, to: noon.Add(-time.Hour)})),
		d.pair("to come", issue(t, root, request{cn: "to come", names: []string{"a.example"}, from: noon.Add(48 * time.Hour), to: noon.AddDate(1, 0, 0)})),
		d.pair("soon", issue(t, root, request{cn: "soon", names: []string{"a.example"}, from: year, to: noon.Add(13 * 24 * time.Hour)})),
		d.pair("nameless", issue(t, root, request{cn: "nameless.example"})),
		d.pair("strange chain", issue(t, root, request{cn: "s", names: []string{"s.example"}}), stranger),
		public,
	}}, noon)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"tls.certificate[1].cert: expired on 2026-11-24",
		"tls.certificate[2].cert: not valid before 2026-11-26",
		"tls.certificate[3].cert: expires on 2026-12-07",
		"tls.certificate[4].cert: has no subject alternative name: no client can verify it by name",
		"tls.certificate[5].cert: certificate 2 of the file did not issue the one before it: clients may find no chain",
		"tls.certificate[6].key: everybody on this machine can use it (mode 0644)",
	}
	var got []string
	for _, w := range r.Warnings() {
		got = append(got, w.Error())
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s\nand not\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
