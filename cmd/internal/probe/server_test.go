package probe

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"postern/enforce"
	"postern/proxy/proxytest"
)

func TestWhatServersOfEveryTemperAreLike(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		temper, versions, session, says string // says: a part of the JSON
	}{
		{"modern", "TLS 1.2 TLS 1.3", "TLS 1.3", `"verified":true`},
		{"tls13", "TLS 1.3", "TLS 1.3", `"tls1.2":[],"tls1.3":["TLS_AES_128_GCM_SHA256"],"complete":true`},
		{"tls12", "TLS 1.2", "TLS 1.2", `"X25519MLKEM768","result":"refused"`},
		{"tls10", "TLS 1.0", "TLS 1.0", `"reason":"tls-version-too-low","detail":"TLS 1.0 is below TLS 1.2","reply":"421 4.7.5"`},
		{"tls10-alert", "TLS 1.0", "", `"reason":"tls-version-too-low","detail":"TLS 1.2 and later was refused (alert protocol_version)"`},
		{"no-starttls", "", "", `"starttls":{"offered":false}`},
		{"helo-only", "", "", `"starttls":{"offered":false,"helo_only":true,"mark":"ehlo-refused"`},
		{"expired", "TLS 1.2 TLS 1.3", "TLS 1.3", `"days_left":-2`},
		{"self-signed", "TLS 1.2 TLS 1.3", "TLS 1.3", `"verified":false,"reason":"cert-not-trusted"`},
		{"starttls-refused", "", "", `"starttls":{"offered":true,"reply":454}`},
		{"refuses", "", "", `"reached":false,"detail":"it greets with 554"`},
		{"injects", "", "", `"reason":"starttls-injection"`},
	} {
		r := w.look(w.serve(c.temper, nil))
		a := r.Hosts[0].Addresses[0]
		printed, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		session := ""
		if a.Session != nil {
			session = a.Session.Version
		}
		if got := by(accepted, a.Versions); got != c.versions || session != c.session || !strings.Contains(string(printed), c.says) {
			t.Errorf("%s: accepts %q, a session gets %q\n%s", c.temper, got, session, printed)
		}
		if below := c.versions == "TLS 1.0"; below && (a.Chain == nil || !a.Chain.Verified) {
			t.Errorf("%s: the chain is not told of\n%s", c.temper, printed)
		}
		if r.Fine != (a.Reached && a.Verdict.Verdict == "allow") {
			t.Errorf("%s: fine %v\n%s", c.temper, r.Fine, printed)
		}
	}
}

func TestWhatIsOfferedInTLSAndWhoTookSTARTTLSOutIsTold(t *testing.T) {
	w := newWorld(t)
	a := w.look(w.serve("modern", func(c *proxytest.ServerConfig) { c.CapabilitiesTLS = []string{"REQUIRETLS"} })).Hosts[0].Addresses[0]
	if a.StartTLS.RequireTLS == nil || !*a.StartTLS.RequireTLS {
		t.Errorf("%+v", a.StartTLS)
	}
	a = w.look(w.serve("no-starttls", func(c *proxytest.ServerConfig) { c.Capabilities = []string{"SIZE", "XXXXXXXA"} })).Hosts[0].Addresses[0]
	if a.StartTLS.Mark != "xxxxxxxa" || a.StartTLS.MarkWords == "" {
		t.Errorf("%+v", a.StartTLS)
	}
}

// An authority's web servers: one that answers both ways, and one that is not there.
func TestEachAddressThatAChainNamesIsTried(t *testing.T) {
	w := newWorld(t)
	issuer := w.pki.Intermediate
	var mu sync.Mutex
	var leaf *x509.Certificate
	mux := http.NewServeMux()
	mux.HandleFunc("/ocsp", func(rw http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		der, err := ocsp.CreateResponse(issuer.Certificate, issuer.Certificate, ocsp.Response{Status: ocsp.Good, SerialNumber: leaf.SerialNumber,
			ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}, issuer.Key)
		if err != nil {
			t.Error(err)
		}
		_, _ = rw.Write(der)
	})
	mux.HandleFunc("/crl", func(rw http.ResponseWriter, _ *http.Request) {
		der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1),
			ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}, issuer.Certificate, issuer.Key)
		if err != nil {
			t.Error(err)
		}
		_, _ = rw.Write(der)
	})
	up := httptest.NewServer(mux)
	defer up.Close()
	down := httptest.NewServer(mux)
	down.Close()
	cert, err := w.pki.Issue(proxytest.Leaf{Names: []string{"mx.test"}, OCSP: []string{up.URL + "/ocsp", down.URL + "/ocsp"}, CRL: []string{up.URL + "/crl", up.URL + "/gone"}})
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	leaf = cert.Leaf
	mu.Unlock()
	a := w.look(w.listen(proxytest.ServerConfig{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}})).Hosts[0].Addresses[0]
	if len(a.Reach) != 4 {
		t.Fatalf("%+v", a.Reach)
	}
	for i, want := range []struct {
		kind, path, detail string
		ok                 bool
	}{
		{"ocsp", "/ocsp", "good", true}, {"ocsp", "/ocsp", "connection refused", false}, {"crl", "/crl", "good", true}, {"crl", "/gone", "HTTP 404", false},
	} {
		if e := a.Reach[i]; e.Kind != want.kind || !strings.HasSuffix(e.URL, want.path) || e.OK != want.ok || !strings.Contains(e.Detail, want.detail) {
			t.Errorf("%d: %+v", i, e)
		}
	}
	// The intermediate names nobody, so that of the whole chain nothing is known.
	if a.Revoked == nil || a.Revoked.State != "unknown" {
		t.Errorf("%+v", a.Revoked)
	}
	// Anybody may have written the addresses in a chain that does not verify.
	cert, err = w.pki.Issue(proxytest.Leaf{Names: []string{"mx.test"}, OCSP: []string{up.URL + "/ocsp"}, SelfSigned: true})
	if err != nil {
		t.Fatal(err)
	}
	if a := w.look(w.listen(proxytest.ServerConfig{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}})).Hosts[0].Addresses[0]; a.Reach != nil || a.Revoked != nil {
		t.Errorf("%+v %+v", a.Reach, a.Revoked)
	}
}

func TestAStapledAnswerIsToldByItself(t *testing.T) {
	w := newWorld(t)
	issuer := w.pki.Intermediate
	for state, status := range map[string]int{"good": ocsp.Good, "revoked": ocsp.Revoked, "invalid": -1, "none": -2} {
		cert, err := w.pki.Issue(proxytest.Leaf{Names: []string{"mx.test"}})
		if err != nil {
			t.Fatal(err)
		}
		switch status {
		case -1:
			cert.OCSPStaple = []byte("\x30\x03\x0a\x01\x06")
		case -2:
		default:
			cert.OCSPStaple, err = ocsp.CreateResponse(issuer.Certificate, issuer.Certificate, ocsp.Response{Status: status, SerialNumber: cert.Leaf.SerialNumber,
				RevokedAt: time.Now().Add(-2 * time.Hour), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}, issuer.Key)
			if err != nil {
				t.Fatal(err)
			}
		}
		a := w.look(w.listen(proxytest.ServerConfig{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}})).Hosts[0].Addresses[0]
		if a.Chain.Staple != state {
			t.Errorf("%s: %q, %q", state, a.Chain.Staple, a.Chain.StapleWords)
		}
		if state == "revoked" && a.Revoked.State != "revoked" {
			t.Errorf("%+v", a.Revoked)
		}
	}
}

// A rude server does with each connection what it was told.
func (w *world) rude(do func(net.Conn)) netip.AddrPort {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	var all sync.WaitGroup
	w.t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { defer conn.Close(); do(conn) })
		}
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func TestHostileServersAreBoundedAndCannotSpeakToATerminal(t *testing.T) {
	w := newWorld(t)
	w.Patience = time.Second
	endless := func(line string) func(net.Conn) {
		return func(conn net.Conn) {
			for {
				if _, err := conn.Write([]byte(line)); err != nil {
					return
				}
			}
		}
	}
	after := func(said ...string) func(net.Conn) {
		return func(conn net.Conn) {
			lines := bufio.NewScanner(conn)
			for _, s := range said {
				fmt.Fprint(conn, s)
				if !lines.Scan() {
					return
				}
			}
		}
	}
	for name, do := range map[string]func(net.Conn){
		"says nothing":                func(conn net.Conn) { bufio.NewScanner(conn).Scan() },
		"closes":                      func(net.Conn) {},
		"greets without end":          endless("220-hello\r\n"),
		"greets with one line":        endless("2"),
		"is a web server":             after("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"clears the screen":           after("220 \x1b[2J\x1b]0;gotcha\x07 ESMTP\r\n", "250 \x1b[31mred\r\n"),
		"clears it in its capability": after("220 mx.test\r\n", "250-mx.test\r\n250-\x1b[2J\r\n250 STARTTLS\r\n", "454 \x1b[2J\r\n", "221\r\n"),
		"sends no TLS":                after("220 mx.test\r\n", "250-mx.test\r\n250 STARTTLS\r\n", "220 go\r\n", "\x1b[2J no TLS at all, it is\r\n"),
		"closes in the handshake":     after("220 mx.test\r\n", "250-mx.test\r\n250 STARTTLS\r\n", "220 go\r\n"),
	} {
		began := time.Now()
		r := w.look(w.rude(do))
		printed, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var back any
		if strings.ContainsAny(string(printed), "\x1b\x07") || strings.Contains(string(printed), `\u001b`) || json.Unmarshal(printed, &back) != nil {
			t.Errorf("%s: %s", name, printed)
		}
		if len(printed) > 8<<10 || time.Since(began) > 20*time.Second {
			t.Errorf("%s: %d octets, %s", name, len(printed), time.Since(began))
		}
		if refused := strings.Contains(name, "TLS") || strings.Contains(name, "handshake") || strings.Contains(name, "capability"); refused != (r.Refused == 1) {
			t.Errorf("%s: %s", name, printed)
		}
	}
}

func TestNoMoreConnectionsAreOpenThanOneServerAndAllTogetherMayHave(t *testing.T) {
	w := newWorld(t)
	cert, err := w.pki.Issue(proxytest.Leaf{Names: []string{"mx.test"}})
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{cert}}
	var mu sync.Mutex
	open, most, total := 0, 0, 0
	at := w.rude(func(conn net.Conn) {
		mu.Lock()
		open, total = open+1, total+1
		most = max(most, open)
		mu.Unlock()
		defer func() { mu.Lock(); open--; mu.Unlock() }()
		fmt.Fprint(conn, "220 mx.test\r\n")
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			switch lines.Text() {
			case "EHLO probe.test":
				fmt.Fprint(conn, "250-mx.test\r\n250 STARTTLS\r\n")
			case "STARTTLS":
				fmt.Fprint(conn, "220 go\r\n")
				_ = tls.Server(conn, config).Handshake()
				return
			default:
				return
			}
		}
	})
	a := w.look(at).Hosts[0].Addresses[0]
	// One that is closed here may not have been seen to be closed there yet.
	mu.Lock()
	defer mu.Unlock()
	if most > 3 || total != a.Tries || total < 12 || total > 40 {
		t.Errorf("%d at once, %d in all, %d told of", most, total, a.Tries)
	}
}

func TestAServerThatWantsNoMoreIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	cert, err := w.pki.Issue(proxytest.Leaf{Names: []string{"mx.test"}})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	total := 0
	at := w.rude(func(conn net.Conn) {
		mu.Lock()
		total++
		enough := total > 3
		mu.Unlock()
		if enough {
			fmt.Fprint(conn, "421 too many connections\r\n")
			return
		}
		introduceTLS(conn, &tls.Config{Certificates: []tls.Certificate{cert}})
	})
	a := w.look(at).Hosts[0].Addresses[0]
	mu.Lock()
	defer mu.Unlock()
	if !a.LeftAlone || total > 12 || a.Verdict.Verdict != "allow" || a.Suites.Complete || by(unknown, a.Groups) == "" || by(refused, a.Groups) != "" {
		t.Errorf("%d connections: %+v", total, a)
	}
}

// introduceTLS answers until the handshake is done.
func introduceTLS(conn net.Conn, config *tls.Config) {
	fmt.Fprint(conn, "220 mx.test\r\n")
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if lines.Text() == "STARTTLS" {
			fmt.Fprint(conn, "220 go\r\n")
			_ = tls.Server(conn, config).Handshake()
			return
		}
		fmt.Fprint(conn, "250-mx.test\r\n250 STARTTLS\r\n")
	}
}

func TestARunEndsWithItsContext(t *testing.T) {
	w := newWorld(t)
	at := w.serve("stalls", nil)
	w.Address, w.Port = at.Addr(), at.Port()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	r, err := Run(ctx, w.Options)
	if err != nil || r.Fine || r.Reached != 0 || time.Since(began) > 10*time.Second {
		t.Errorf("%v %+v, %s", err, r, time.Since(began))
	}
	if _, err := Run(ctx, Options{Policy: new(enforce.Policy)}); err == nil {
		t.Error("nothing to look at is no error")
	}
}
