package tlshello

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"
)

// tape is a connection that keeps what was written to it.
type tape struct {
	net.Conn
	mu      sync.Mutex
	written []byte
}

func (t *tape) Write(p []byte) (int, error) {
	t.mu.Lock()
	t.written = append(t.written, p...)
	t.mu.Unlock()
	return t.Conn.Write(p)
}

// handshake is what two crypto/tls ends said to each other.
type handshake struct {
	fromClient, fromServer []byte
	client, server         tls.ConnectionState
	clientErr, serverErr   error
}

// record lets two ends of crypto/tls shake hands and say a line each.
func record(t testing.TB, client, server *tls.Config) handshake {
	t.Helper()
	a, b := connected(t)
	deadline := time.Now().Add(10 * time.Second)
	for _, c := range []net.Conn{a, b} {
		if err := c.SetDeadline(deadline); err != nil {
			t.Fatal(err)
		}
	}
	ca, cb := &tape{Conn: a}, &tape{Conn: b}
	tc, ts := tls.Client(ca, client), tls.Server(cb, server)
	var h handshake
	var both sync.WaitGroup
	both.Go(func() {
		defer b.Close()
		if h.serverErr = ts.Handshake(); h.serverErr != nil {
			return
		}
		line := make([]byte, 6)
		if _, h.serverErr = io.ReadFull(ts, line); h.serverErr == nil {
			_, h.serverErr = ts.Write([]byte("250 go ahead\r\n"))
		}
		h.server = ts.ConnectionState()
	})
	both.Go(func() {
		defer a.Close()
		if h.clientErr = tc.Handshake(); h.clientErr != nil {
			// The other end may be writing its last flight still.
			_, _ = io.Copy(io.Discard, a)
			return
		}
		if _, h.clientErr = tc.Write([]byte("EHLO\r\n")); h.clientErr == nil {
			_, h.clientErr = io.ReadFull(tc, make([]byte, 14))
		}
		h.client = tc.ConnectionState()
	})
	both.Wait()
	h.fromClient, h.fromServer = ca.written, cb.written
	return h
}

// connected returns both ends of a connection. Not a net.Pipe: it holds a
// writer until it is read, and at a HelloRetryRequest both ends write.
func connected(t testing.TB) (client, server net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if client, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return client, server
}

// served returns a certificate for mx.test and its key.
func served(t testing.TB, useRSA bool) tls.Certificate {
	t.Helper()
	var key any
	var public any
	if useRSA {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		key, public = k, &k.PublicKey
	} else {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		key, public = k, &k.PublicKey
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "mx.test"},
		DNSNames:     []string{"mx.test"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// facts is everything an Observer can be asked, for comparison.
type facts struct {
	Client       *ClientHello
	Server       *ServerHello
	Certificates [][]byte
	Alerts       []Alert
	Encrypted    bool
	Done         bool
	Err          string
}

func factsOf(o *Observer) facts {
	f := facts{o.ClientHello(), o.ServerHello(), o.Certificates(), o.Alerts(), o.Encrypted(), o.Done(), ""}
	if o.Err() != nil {
		f.Err = o.Err().Error()
	}
	return f
}

func observe(t testing.TB, pieces ...[]byte) *Observer {
	t.Helper()
	o := new(Observer)
	for _, p := range pieces {
		if n, err := o.Write(p); n != len(p) || err != nil {
			t.Fatalf("Write of %d bytes returned %d, %v", len(p), n, err)
		}
	}
	return o
}

// same checks that the facts do not depend on how the bytes are cut: at every
// place in two, and into single bytes.
func same(t *testing.T, stream []byte) *Observer {
	t.Helper()
	whole := observe(t, stream)
	want := factsOf(whole)
	for i := 1; i < len(stream); i++ {
		if got := factsOf(observe(t, stream[:i], stream[i:])); !reflect.DeepEqual(got, want) {
			t.Fatalf("cut at %d of %d:\ngot  %+v\nwant %+v", i, len(stream), got, want)
		}
	}
	if got := factsOf(observe(t, slices.Collect(slices.Chunk(stream, 1))...)); !reflect.DeepEqual(got, want) {
		t.Fatalf("byte by byte:\ngot  %+v\nwant %+v", got, want)
	}
	return whole
}

// refragment cuts the handshake records of a stream into records of n bytes.
func refragment(t *testing.T, stream []byte, n int) []byte {
	t.Helper()
	var out []byte
	for len(stream) > 0 {
		length := int(stream[3])<<8 | int(stream[4])
		head, body := stream[:3], stream[recordHeader:recordHeader+length]
		stream = stream[recordHeader+length:]
		size := length
		if head[0] == recordHandshake {
			size = n
		}
		for piece := range slices.Chunk(body, size) {
			out = append(out, head...)
			out = append(out, byte(len(piece)>>8), byte(len(piece)))
			out = append(out, piece...)
		}
	}
	return out
}

// tlsCases are the handshakes that crypto/tls can make, by version and kind.
func tlsCases(t testing.TB) map[string][2]*tls.Config {
	t.Helper()
	ec, rs := served(t, false), served(t, true)
	client := func(version uint16) *tls.Config {
		return &tls.Config{InsecureSkipVerify: true, ServerName: "mx.test", MinVersion: tls.VersionTLS10,
			MaxVersion: version, NextProtos: []string{"smtp"}}
	}
	server := func(cert tls.Certificate, version uint16) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS10,
			MaxVersion: version, NextProtos: []string{"smtp"}}
	}
	cases := map[string][2]*tls.Config{
		"TLS 1.0":          {client(tls.VersionTLS13), server(ec, tls.VersionTLS10)},
		"TLS 1.1":          {client(tls.VersionTLS13), server(rs, tls.VersionTLS11)},
		"TLS 1.2":          {client(tls.VersionTLS13), server(ec, tls.VersionTLS12)},
		"TLS 1.3":          {client(tls.VersionTLS13), server(rs, tls.VersionTLS13)},
		"old client":       {client(tls.VersionTLS10), server(ec, tls.VersionTLS13)},
		"RSA key exchange": {client(tls.VersionTLS13), server(rs, tls.VersionTLS10)},
		"retry":            {client(tls.VersionTLS13), server(ec, tls.VersionTLS13)},
		"client cert 1.2":  {client(tls.VersionTLS13), server(ec, tls.VersionTLS12)},
		"client cert 1.3":  {client(tls.VersionTLS13), server(ec, tls.VersionTLS13)},
	}
	rsaOnly := []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}
	cases["RSA key exchange"][0].CipherSuites = rsaOnly
	cases["RSA key exchange"][1].CipherSuites = rsaOnly
	cases["retry"][1].CurvePreferences = []tls.CurveID{tls.CurveP521}
	for _, name := range []string{"client cert 1.2", "client cert 1.3"} {
		cases[name][0].Certificates = []tls.Certificate{rs}
		cases[name][1].ClientAuth = tls.RequireAnyClientCert
	}
	return cases
}

func TestAnObserverAgreesWithBothEndsOfEveryHandshakeHoweverItIsCut(t *testing.T) {
	for name, c := range tlsCases(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := record(t, c[0], c[1])
			if h.clientErr != nil || h.serverErr != nil {
				t.Fatalf("handshake: client %v, server %v", h.clientErr, h.serverErr)
			}
			agree(t, c, h, same(t, h.fromClient), same(t, h.fromServer))
			for _, n := range []int{1, 7, 200} {
				agree(t, c, h, observe(t, refragment(t, h.fromClient, n)), observe(t, refragment(t, h.fromServer, n)))
			}
		})
	}
}

// agree holds what was observed against what both ends know.
func agree(t *testing.T, c [2]*tls.Config, h handshake, client, server *Observer) {
	t.Helper()
	for side, o := range map[string]*Observer{"client": client, "server": server} {
		if o.Err() != nil || !o.Encrypted() || !o.Done() || len(o.Alerts()) > 0 {
			t.Fatalf("%s: err %v, encrypted %v, done %v, alerts %v", side, o.Err(), o.Encrypted(), o.Done(), o.Alerts())
		}
	}
	hello, answer := client.ClientHello(), server.ServerHello()
	if hello == nil || answer == nil || client.ServerHello() != nil || server.ClientHello() != nil {
		t.Fatal("a hello is missing, or on the wrong side")
	}
	if hello.ServerName != h.server.ServerName || !slices.Equal(hello.ALPN, c[0].NextProtos) {
		t.Errorf("SNI %q, ALPN %q", hello.ServerName, hello.ALPN)
	}
	if got, want := slices.Max(hello.Versions()), c[0].MaxVersion; got != want {
		t.Errorf("highest version offered %s, want %s", VersionName(got), VersionName(want))
	}
	if !answer.Final || answer.HelloRetryRequest != h.client.HelloRetryRequest {
		t.Errorf("final %v, retry %v", answer.Final, answer.HelloRetryRequest)
	}
	if answer.Version != h.client.Version || answer.CipherSuite != h.client.CipherSuite ||
		tls.CurveID(answer.Group) != h.client.CurveID {
		t.Errorf("chosen %s %s %s, the client says %s %s %v",
			VersionName(answer.Version), CipherName(answer.CipherSuite), GroupName(answer.Group),
			tls.VersionName(h.client.Version), tls.CipherSuiteName(h.client.CipherSuite), h.client.CurveID)
	}
	if !slices.Contains(hello.CipherSuites, answer.CipherSuite) || !slices.Contains(hello.Versions(), answer.Version) &&
		len(hello.SupportedVersions) > 0 {
		t.Errorf("chosen what was not offered")
	}
	wantServer, wantClient, wantALPN := chain(h.client.PeerCertificates), chain(h.server.PeerCertificates), "smtp"
	if answer.Version == VersionTLS13 {
		wantServer, wantClient, wantALPN = nil, nil, ""
	}
	if !slices.EqualFunc(server.Certificates(), wantServer, bytes.Equal) ||
		!slices.EqualFunc(client.Certificates(), wantClient, bytes.Equal) {
		t.Errorf("certificates: %d of the server, want %d; %d of the client, want %d",
			len(server.Certificates()), len(wantServer), len(client.Certificates()), len(wantClient))
	}
	if answer.ALPN != wantALPN {
		t.Errorf("ALPN %q, want %q", answer.ALPN, wantALPN)
	}
}

func chain(certs []*x509.Certificate) [][]byte {
	var list [][]byte
	for _, c := range certs {
		list = append(list, c.Raw)
	}
	return list
}

func TestAHandshakeThatFailsLeavesWhatWasChosenAndTheAlert(t *testing.T) {
	cert := served(t, true)
	old := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}
	modern := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS13}

	// A server that refuses says so with an alert and nothing else.
	h := record(t, modern, old)
	if h.clientErr == nil {
		t.Fatal("the handshake succeeded")
	}
	server := same(t, h.fromServer)
	if want := []Alert{{2, AlertProtocolVersion}}; !slices.Equal(server.Alerts(), want) || server.ServerHello() != nil {
		t.Errorf("alerts %v, hello %v", server.Alerts(), server.ServerHello())
	}
	client := same(t, h.fromClient)
	if hello := client.ClientHello(); hello == nil ||
		!slices.Equal(hello.Versions(), []uint16{VersionTLS13, VersionTLS12}) || hello.ServerName != "" {
		t.Errorf("offered %+v", hello)
	}

	// A client that does not trust what it is shown says which way.
	verifying := &tls.Config{ServerName: "mx.test", RootCAs: x509.NewCertPool(), MaxVersion: tls.VersionTLS12}
	h = record(t, verifying, &tls.Config{Certificates: []tls.Certificate{cert}})
	client, server = same(t, h.fromClient), same(t, h.fromServer)
	if want := []Alert{{2, AlertBadCertificate}}; !slices.Equal(client.Alerts(), want) {
		t.Errorf("alerts of the client %v (%v)", client.Alerts(), h.clientErr)
	}
	if s := server.ServerHello(); s == nil || s.Version != VersionTLS12 || s.Group == 0 || server.Encrypted() {
		t.Errorf("the server's side %+v", s)
	}
}

func TestARepeatedSessionIDTellsResumptionUpToTLS12(t *testing.T) {
	cert := served(t, false)
	server := &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: tls.VersionTLS12}
	client := &tls.Config{InsecureSkipVerify: true, ServerName: "mx.test", ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	first := record(t, client, server)
	second := record(t, client, server)
	if first.clientErr != nil || second.clientErr != nil || !second.client.DidResume {
		t.Fatalf("%v, %v, resumed %v", first.clientErr, second.clientErr, second.client.DidResume)
	}
	for _, c := range []struct {
		h    handshake
		want bool
	}{{first, false}, {second, true}} {
		hello, answer := same(t, c.h.fromClient).ClientHello(), same(t, c.h.fromServer)
		echoed := len(hello.SessionID) > 0 && bytes.Equal(hello.SessionID, answer.ServerHello().SessionID)
		if echoed != c.want || (answer.Certificates() == nil) != c.want {
			t.Errorf("echoed %v, certificates %d, resumed %v", echoed, len(answer.Certificates()), c.want)
		}
	}
}
