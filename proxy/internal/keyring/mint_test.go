package keyring

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// minting is a Ring that mints, with the authority's root.
func minting(t testing.TB, r request) (*Minter, *entity) {
	t.Helper()
	d := newDirectory(t)
	r.cn, r.ca = "gateway authority", true
	authority := issue(t, nil, r)
	pair := d.pair("ca", authority)
	ring, err := Load(Files{TrustCA: d.roots("roots.pem", authority), Authority: Authority{pair.Cert, pair.Key}}, noon)
	if err != nil {
		t.Fatal(err)
	}
	return ring.Minter(), authority
}

// handshake is that of a client that verifies by the roots and the name it asks for.
func handshake(t *testing.T, cert *tls.Certificate, roots *x509.CertPool, sni string) error {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // a pipe has no buffer, and both speak at once when it fails
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_ = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{*cert}}).Handshake()
	}()
	defer func() { l.Close(); <-done }()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return tls.Client(conn, &tls.Config{ServerName: sni, RootCAs: roots, Time: func() time.Time { return noon }}).Handshake()
}

func pool(all ...*entity) *x509.CertPool {
	p := x509.NewCertPool()
	for _, e := range all {
		p.AddCert(e.cert)
	}
	return p
}

func TestAClientThatTrustsTheAuthorityAcceptsWhatVerifiedAndNothingElse(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	like := issue(t, nil, request{cn: "mx.example", names: []string{"mx.example", "*.mx.example"}}).cert
	for name, r := range map[string]request{"ECDSA": {}, "RSA": {key: newRSA(t, 2048)}, "Ed25519": {key: ed}} {
		m, authority := minting(t, r)
		yes, err := m.Mint(like, true, noon)
		if err != nil {
			t.Fatal(err)
		}
		no, err := m.Mint(like, false, noon)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			cert    *tls.Certificate
			sni     string
			accepts bool
		}{{yes, "mx.example", true}, {yes, "a.mx.example", true}, {yes, "other.example", false}, {no, "mx.example", false}} {
			if err := handshake(t, c.cert, pool(authority), c.sni); (err == nil) != c.accepts {
				t.Errorf("%s: %s by %s: %v", name, c.sni, c.cert.Leaf.Issuer, err)
			}
		}
		if no.Leaf.Issuer.String() != "CN=Postern: not verified" || len(no.Certificate) != 1 || len(yes.Certificate) != 2 {
			t.Errorf("%s: issuer %s, %d and %d certificates are shown", name, no.Leaf.Issuer, len(no.Certificate), len(yes.Certificate))
		}
		if err := no.Leaf.CheckSignatureFrom(authority.cert); err == nil {
			t.Errorf("%s: the authority signed what did not verify", name)
		}
	}
}

func TestOpenSSLVerifiesWhatIsMinted(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	d := newDirectory(t)
	root := issue(t, nil, request{cn: "root", ca: true})
	authority := issue(t, root, request{cn: "gateway authority", ca: true})
	pair := d.pair("ca", authority, root)
	ring, err := Load(Files{TrustCA: "system", Authority: Authority{pair.Cert, pair.Key}}, noon)
	if err != nil {
		t.Fatal(err)
	}
	like := issue(t, nil, request{cn: "mx.example", names: []string{"mx.example"}}).cert
	for _, trusted := range []bool{true, false} {
		cert, err := ring.Minter().Mint(like, trusted, noon)
		if err != nil {
			t.Fatal(err)
		}
		chain := make([]*entity, len(cert.Certificate))
		for i, raw := range cert.Certificate {
			x, err := x509.ParseCertificate(raw)
			if err != nil {
				t.Fatal(err)
			}
			chain[i] = &entity{cert: x}
		}
		if trusted && len(chain) != 3 {
			t.Errorf("%d certificates are shown", len(chain))
		}
		out, err := exec.CommandContext(t.Context(), openssl, "verify", "-x509_strict", "-attime", fmt.Sprint(noon.Unix()), "-purpose", "sslserver", "-verify_hostname", "mx.example",
			"-CAfile", d.roots("root.pem", root), "-untrusted", d.write("chain.pem", certPEM(chain...)), d.write("leaf.pem", certPEM(chain[0]))).CombinedOutput()
		if (err == nil) != trusted {
			t.Errorf("trusted %v: %v\n%s", trusted, err, out)
		}
	}
}

func extension(c *x509.Certificate, oid ...int) *pkix.Extension {
	for i, e := range c.Extensions {
		if e.Id.Equal(oid) {
			return &c.Extensions[i]
		}
	}
	return nil
}

func TestTheNamesAreCopiedToTheOctet(t *testing.T) {
	m, authority := minting(t, request{})
	for name, c := range map[string]struct {
		template x509.Certificate
		subject  string
	}{
		"names":             {x509.Certificate{Subject: pkix.Name{CommonName: "b.example"}, DNSNames: []string{"a.example", "b.example", "*.c.example"}}, "CN=b.example"},
		"another CN":        {x509.Certificate{Subject: pkix.Name{CommonName: "admin.example"}, DNSNames: []string{"a.example"}}, "CN=a.example"},
		"CN alone":          {x509.Certificate{Subject: pkix.Name{CommonName: "a.example"}}, "O=Postern"},
		"addresses":         {x509.Certificate{IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1), net.ParseIP("2001:db8::1")}}, "O=Postern"},
		"a long name":       {x509.Certificate{DNSNames: []string{strings.Repeat("a", 60) + ".example", "b.example"}}, "CN=b.example"},
		"what we never use": {x509.Certificate{EmailAddresses: []string{"x@a.example"}, DNSNames: []string{"a.example"}}, "CN=a.example"},
		"critical":          {x509.Certificate{ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: []byte("\x30\x0b\x82\x09a.example")}}}, "CN=a.example"},
	} {
		c.template.SerialNumber, c.template.NotBefore, c.template.NotAfter = big.NewInt(1), noon.AddDate(-1, 0, 0), noon.AddDate(1, 0, 0)
		key := newECDSA(t)
		der, err := x509.CreateCertificate(rand.Reader, &c.template, &c.template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		like, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		for _, trusted := range []bool{true, false} {
			cert, err := m.Mint(like, trusted, noon)
			if err != nil {
				t.Fatal(err)
			}
			want, got := extension(like, 2, 5, 29, 17), extension(cert.Leaf, 2, 5, 29, 17)
			if (want == nil) != (got == nil) || want != nil && (!bytes.Equal(want.Value, got.Value) || want.Critical != got.Critical) {
				t.Errorf("%s: %+v, want %+v", name, got, want)
			}
			if cert.Leaf.Subject.String() != c.subject {
				t.Errorf("%s: subject %s", name, cert.Leaf.Subject)
			}
			if trusted && !bytes.Equal(cert.Leaf.AuthorityKeyId, authority.cert.SubjectKeyId) || len(cert.Leaf.SubjectKeyId) != 20 ||
				cert.Leaf.SerialNumber.BitLen() < 64 || cert.Leaf.IsCA || extension(cert.Leaf, 2, 5, 29, 56) == nil || sameKey(cert.Leaf.PublicKey, like.PublicKey) {
				t.Errorf("%s: %+v", name, cert.Leaf)
			}
		}
	}
}

func TestNothingIsLaunderedByItsDates(t *testing.T) {
	week, year := 7*24*time.Hour, 365*24*time.Hour
	m, _ := minting(t, request{})
	ending, _ := minting(t, request{from: noon.Add(-time.Minute), to: noon.Add(48 * time.Hour)})
	for _, c := range []struct {
		name             string
		m                *Minter
		from, to         time.Duration // of like, from noon
		trusted          bool
		wantFrom, wantTo time.Duration
	}{
		{"valid", m, -year, year, true, -time.Hour, week},
		{"valid, not verified", m, -year, year, false, -time.Hour, week},
		{"ends soon", m, -year, 24 * time.Hour, true, -time.Hour, 24 * time.Hour},
		{"a young authority that ends soon", ending, -year, year, true, -time.Minute, 48 * time.Hour},
		{"expired", m, -year, -time.Hour, false, -year, -time.Hour},
		{"expired, and said to have verified", m, -year, -time.Hour, true, 0, 0},
		{"not begun", m, 24 * time.Hour, year, false, 24 * time.Hour, year},
		{"not begun, and said to have verified", m, 24 * time.Hour, year, true, 0, 0},
	} {
		like := issue(t, nil, request{names: []string{"a.example"}, from: noon.Add(c.from), to: noon.Add(c.to)}).cert
		cert, err := c.m.Mint(like, c.trusted, noon)
		if c.wantTo == 0 {
			if err == nil {
				t.Errorf("%s: minted", c.name)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if from, to := cert.Leaf.NotBefore.Sub(noon), cert.Leaf.NotAfter.Sub(noon); from != c.wantFrom || to != c.wantTo {
			t.Errorf("%s: from %v to %v", c.name, from, to)
		}
	}
	like := issue(t, nil, request{names: []string{"a.example"}}).cert
	if _, err := ending.Mint(like, true, noon.Add(49*time.Hour)); err == nil {
		t.Error("an authority minted beyond its end")
	}
	if _, err := m.Mint(nil, false, noon); err == nil {
		t.Error("minted without anything to mint the like of")
	}
}

func TestMintedCertificatesAreKeptSharedAndMadeAnewInTime(t *testing.T) {
	m, _ := minting(t, request{})
	like := issue(t, nil, request{names: []string{"a.example"}}).cert
	got := make([]*tls.Certificate, 32)
	var wait sync.WaitGroup
	for i := range got {
		wait.Go(func() {
			var err error
			if got[i], err = m.Mint(like, i%2 == 0, noon); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	for i := range got {
		if got[i] != got[i%2] {
			t.Errorf("caller %d has another certificate", i)
		}
	}
	if got[0] == got[1] || got[0].Leaf.Issuer.String() == got[1].Leaf.Issuer.String() {
		t.Error("what verified and what did not are one")
	}
	same := issue(t, nil, request{names: []string{"a.example"}}).cert
	if other, err := m.Mint(same, true, noon); err != nil || other == got[0] {
		t.Errorf("another certificate of the same names shares one: %v", err)
	}
	half := noon.Add(life / 2)
	if again, err := m.Mint(like, true, half.Add(-time.Second)); err != nil || again != got[0] {
		t.Errorf("made anew before its time: %v", err)
	}
	if again, err := m.Mint(like, true, half); err != nil || again == got[0] {
		t.Errorf("not made anew: %v", err)
	}
}

func TestWhatIsKeptOfMintedCertificatesIsBounded(t *testing.T) {
	m, _ := minting(t, request{})
	like := *issue(t, nil, request{names: []string{"a.example"}}).cert
	mint := func(i int) *tls.Certificate {
		other := like
		other.Raw = fmt.Appendf(nil, "certificate %d", i)
		cert, err := m.Mint(&other, false, noon)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	first := mint(0)
	for i := range maxMinted + 10 {
		mint(i)
		if i%100 == 0 {
			mint(0)
		}
	}
	if m.used.Len() != maxMinted || len(m.at) != maxMinted {
		t.Errorf("%d and %d are kept", m.used.Len(), len(m.at))
	}
	if mint(0) != first {
		t.Error("what was in use has gone")
	}
	large := like
	large.Raw = make([]byte, maxKept+1)
	a, err := m.Mint(&large, false, noon)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := m.Mint(&large, false, noon); err != nil || a == b || len(m.at) != maxMinted {
		t.Errorf("a large one is kept: %v", err)
	}
	bad := like
	bad.Raw, bad.NotAfter = []byte("bad"), noon.AddDate(9000, 0, 0) // no date of X.509
	bad.NotBefore = bad.NotAfter
	if _, err := m.Mint(&bad, false, noon); err == nil || m.at[likeness{}] != nil || len(m.at) != maxMinted-1 {
		t.Errorf("%d are kept: %v", len(m.at), err)
	}
}

func BenchmarkMint(b *testing.B) {
	m, _ := minting(b, request{})
	like := *issue(b, nil, request{names: []string{"mx.example"}}).cert
	b.Run("kept", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := m.Mint(&like, true, noon); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
	b.Run("new", func(b *testing.B) {
		other := like
		for i := 0; b.Loop(); i++ {
			other.Raw = fmt.Appendf(nil, "%d", i)
			if _, err := m.Mint(&other, true, noon); err != nil {
				b.Fatal(err)
			}
		}
	})
}
