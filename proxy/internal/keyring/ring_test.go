package keyring

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"net"
	"reflect"
	"testing"
)

// helloFor is what a client of today says, asking for a name.
func helloFor(name string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{
		ServerName:        name,
		SupportedVersions: []uint16{tls.VersionTLS13, tls.VersionTLS12},
		SignatureSchemes:  []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256, tls.PSSWithSHA256, tls.PKCS1WithSHA256},
		SupportedCurves:   []tls.CurveID{tls.X25519, tls.CurveP256},
		SupportedPoints:   []uint8{0},
		CipherSuites:      []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256},
	}
}

// onlyRSA is what a client says that knows no ECDSA.
func onlyRSA(name string) *tls.ClientHelloInfo {
	h := helloFor(name)
	h.SupportedVersions = []uint16{tls.VersionTLS12}
	h.SignatureSchemes = []tls.SignatureScheme{tls.PKCS1WithSHA256}
	h.CipherSuites = []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	return h
}

func TestTheCertificateIsChosenByNameAndThenByWhatTheClientKnows(t *testing.T) {
	d := newDirectory(t)
	key := newRSA(t, 2048)
	cert := func(name string, r request) Certificate { r.cn = name; return d.pair(name, issue(t, nil, r)) }
	r, err := Load(Files{TrustCA: "system", Certificates: []Certificate{
		cert("default", request{names: []string{"mx.example"}}),
		cert("star", request{names: []string{"*.a.example"}}),
		cert("exact", request{names: []string{"mx.a.example", "MX.B.example"}}),
		cert("exact rsa", request{names: []string{"mx.a.example"}, key: key}),
		cert("nameless rsa", request{key: key}),
	}}, noon)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		hello *tls.ClientHelloInfo
		want  string
	}{
		{helloFor(""), "default"},
		{helloFor("mx.example"), "default"},
		{helloFor("unknown.example"), "default"},
		{helloFor("mx.a.example"), "exact"}, // though a wildcard stands before it
		{helloFor("MX.A.Example."), "exact"},
		{helloFor("mx.b.example"), "exact"},
		{helloFor("mx2.a.example"), "star"},
		{helloFor("x.mx.a.example"), "default"}, // a wildcard covers one label
		{helloFor("a.example"), "default"},
		{helloFor("example"), "default"},
		{helloFor("*.a.example"), "star"},
		{onlyRSA("mx.a.example"), "exact rsa"},
		{onlyRSA("mx2.a.example"), "exact rsa"}, // none of that name: the first it knows
		{onlyRSA(""), "exact rsa"},
		{&tls.ClientHelloInfo{SupportedVersions: []uint16{tls.VersionTLS10}}, "default"}, // fails, and says why
	} {
		got, err := r.Server(c.hello)
		if err != nil {
			t.Fatal(err)
		}
		if got.Leaf.Subject.CommonName != c.want {
			t.Errorf("%q, versions %x: %q, want %q", c.hello.ServerName, c.hello.SupportedVersions, got.Leaf.Subject.CommonName, c.want)
		}
	}
	if r.Named("star") == nil || r.Named("star").Leaf.Subject.CommonName != "star" || r.Named("none") != nil {
		t.Error("certificates by name")
	}
}

func TestAHandshakeSucceedsWithWhatTheRingChose(t *testing.T) {
	d := newDirectory(t)
	root := issue(t, nil, request{cn: "root", ca: true})
	middle := issue(t, root, request{cn: "middle", ca: true})
	leaf := issue(t, middle, request{cn: "leaf", names: []string{"mx.example"}})
	r, err := Load(Files{TrustCA: d.roots("roots.pem", root), Certificates: []Certificate{d.pair("edge", leaf, middle)}}, noon)
	if err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	server := tls.Server(a, &tls.Config{GetCertificate: r.Server})
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	var shown []*x509.Certificate
	client := tls.Client(b, &tls.Config{ServerName: "mx.example", InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
		shown = s.PeerCertificates
		return nil
	}})
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got, _ := r.Verify("", shown, x509.ExtKeyUsageServerAuth, noon); !got.Verified {
		t.Errorf("%+v", got)
	}
}

func TestASheetTellsWhatAPartnerHasToKnow(t *testing.T) {
	d := newDirectory(t)
	root := issue(t, nil, request{cn: "root", ca: true})
	middle := issue(t, root, request{cn: "middle", ca: true})
	leaf := issue(t, middle, request{cn: "leaf", names: []string{"mx.example", "*.mx.example"}, key: newRSA(t, 2048)})
	alone := issue(t, nil, request{cn: "alone"})
	r, err := Load(Files{TrustCA: d.roots("roots.pem", root), Certificates: []Certificate{d.pair("edge", leaf, middle), d.pair("alone", alone)}}, noon)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(leaf.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	want := Sheet{
		Name: "edge", Subject: "CN=leaf,O=Klinikum Nord", Issuer: "CN=middle,O=Klinikum Nord", Root: "CN=root,O=Klinikum Nord",
		Organisation: "Klinikum Nord", Key: "RSA", KeyBits: 2048, NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(1, 0, 0),
		Names: []string{"mx.example", "*.mx.example"}, SHA256: sha256.Sum256(leaf.cert.Raw), SPKISHA256: sha256.Sum256(spki),
		Chain: []string{"CN=middle,O=Klinikum Nord"},
	}
	sheets := r.Sheets(noon)
	if !reflect.DeepEqual(sheets[0], want) {
		t.Errorf("%+v\nand not\n%+v", sheets[0], want)
	}
	if s := sheets[1]; s.Name != "alone" || s.Root != "" || s.Key != "ECDSA P-256" || s.KeyBits != 256 {
		t.Errorf("%+v", s)
	}
}
