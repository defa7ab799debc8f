package session

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"postern/enforce"
)

// rsaOnly is a server with TLS 1.2 and no forward secrecy.
func rsaOnly(t *testing.T) *tls.Config {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mx"}, DNSNames: []string{"mx.example.net"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256},
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// A session above the floor must not become cleartext, and what is only logged
// must not cost mail: an offer that was narrowed for nothing is made again whole.
func TestAServerWithoutForwardSecrecyIsOfferedAllWhereThatIsOnlyLoggedOrWouldEndInClear(t *testing.T) {
	for _, tc := range []struct {
		name  string
		rule  enforce.Rule
		reply string
		want  map[string]string
	}{
		{"logged", enforce.Rule{Name: "trial", ForwardSecrecy: true, OnViolation: enforce.OnViolationLog}, "250 mx.example.net",
			map[string]string{"verdict": "allow", "reason": "tls-no-forward-secrecy", "upstream_tls.forward_secrecy": "false"}},
		{"cleartext", enforce.Rule{Name: "old", ForwardSecrecy: true, OnHandshakeFailure: enforce.Cleartext}, "421 4.7.5 …",
			map[string]string{"verdict": "defer", "reason": "tls-no-forward-secrecy", "upstream_tls.state": "ok"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, options{rules: []enforce.Rule{tc.rule}, edit: func(s *Snapshot) { s.Certificate = nil }})
			up := upToHandshake(b)
			up.say("220 go\n")
			if err := up.acceptTLS(rsaOnly(t)); err == nil {
				t.Fatal("the first offer was not narrow")
			}
			again := b.server()
			again.say("220 mx.example.net ESMTP\n")
			again.hears("EHLO client.example")
			again.say("250-mx.example.net\n250 STARTTLS\n")
			again.hears("STARTTLS")
			again.say("220 go\n")
			if err := again.acceptTLS(rsaOnly(t)); err != nil {
				t.Fatal(err)
			}
			again.hears("EHLO client.example")
			again.say("250 mx.example.net\n")
			b.client.hears(tc.reply)
			b.client.conn.Close()
			wantFields(t, b.record(), tc.want)
		})
	}
}

// REQUIRETLS is judged by what the upstream offers now.
func TestREQUIRETLSIsJudgedByTheLastEHLO(t *testing.T) {
	b := newBench(t, options{})
	up := b.greeted(true, "REQUIRETLS")
	b.client.say("STARTTLS\n")
	b.client.hears("220 2.0.0 …")
	if err := b.client.startTLS(nil); err != nil {
		t.Fatal(err)
	}
	b.client.say("EHLO other.example\n")
	up.hears("EHLO other.example")
	up.say("250 mx.example.net\n") // and no longer REQUIRETLS
	b.client.hears("250 mx.example.net")
	b.client.say("MAIL FROM:<a@x.example> REQUIRETLS\nNOOP\n")
	if got := up.line(); got != "NOOP" {
		t.Errorf("forwarded to a server that does not offer REQUIRETLS: %q", got)
	}
}

// manual makes a session whose upstream address is that of the dialled socket.
func manual(t *testing.T, rules []enforce.Rule, addresses ...string) (*peer, []*peer, *Session, func()) {
	t.Helper()
	policy, errs := enforce.Compile(rules, tls.VersionTLS12)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	snap := &Snapshot{Generation: 1, Policy: policy,
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return testCertificate("edge.example"), nil },
		Verify: func(string, []*x509.Certificate, x509.ExtKeyUsage, time.Time) (enforce.ChainResult, []*x509.Certificate) {
			return enforce.ChainResult{Verified: true}, nil
		},
		Limits:   Limits{Recipients: 100, Line: 2048, ReplyLines: 64},
		Timeouts: Timeouts{Connect: 5 * time.Second, Handshake: 5 * time.Second, Command: 5 * time.Second, Data: 5 * time.Second, Final: 5 * time.Second}}
	var servers []*peer
	var nears []net.Conn
	for _, a := range addresses {
		l, err := net.Listen("tcp", a+":0")
		if err != nil {
			t.Fatal(err)
		}
		near, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		far, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		servers, nears = append(servers, newPeer(t, a, far)), append(nears, near)
	}
	n := 0
	dial := func(context.Context, netip.AddrPort) (net.Conn, error) { n++; return nears[n-1], nil }
	ours, theirs := tcpPair(t)
	log := zap.New(zapcore.NewNopCore())
	s := New(snap, Arrival{Conn: ours, Client: netip.MustParseAddrPort("10.1.0.2:40000")}, dial, log)
	done := make(chan struct{})
	go func() { defer close(done); s.Run() }()
	return newPeer(t, "client", theirs), servers, s, func() { theirs.Close(); s.Abort(); <-done }
}

// With [listen].upstream by name a second lookup could give another address,
// for which other rules hold.
func TestASecondConnectionGoesToTheAddressThatTheRuleWasChosenFor(t *testing.T) {
	var dialled []netip.AddrPort
	servers := make(chan *peer, 2)
	b := newBench(t, options{
		rules: []enforce.Rule{{Name: "old", OnHandshakeFailure: enforce.Cleartext}},
		dial: func(_ context.Context, to netip.AddrPort) (net.Conn, error) {
			dialled = append(dialled, to)
			near, far := tcpPair(t)
			servers <- newPeer(t, "server", far)
			return near, nil
		},
	})
	first := <-servers
	first.say("220 one.example.net ESMTP\n")
	b.client.hears("220 one.example.net ESMTP")
	b.client.say("EHLO a\n")
	first.hears("EHLO a")
	first.say("250-one.example.net\n250 STARTTLS\n")
	first.hears("STARTTLS")
	first.say("454 not now\n")
	second := <-servers
	second.say("220 one.example.net ESMTP\n")
	second.hears("EHLO a")
	second.say("250 one.example.net\n")
	b.client.hears("250 one.example.net")
	b.client.conn.Close()
	b.record()
	if want := netip.MustParseAddrPort("203.0.113.5:25"); len(dialled) != 2 || dialled[1] != want {
		t.Errorf("dialled %v", dialled)
	}
}
