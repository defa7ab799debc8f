package session

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/enforce"
	"postern/smtpwire/tlshello"
)

// recorded is what two ends of crypto/tls say to each other, a line each at last.
func recorded(t testing.TB, client, server *tls.Config) (fromClient, fromServer []byte) {
	t.Helper()
	near, far := tcpPair(t)
	for _, c := range []net.Conn{near, far} {
		c.SetDeadline(time.Now().Add(5 * time.Second))
	}
	a, b := &kept{Conn: near}, &kept{Conn: far}
	if client == nil {
		client = &tls.Config{}
	}
	if server == nil {
		server = &tls.Config{}
	}
	client, server = client.Clone(), server.Clone()
	client.InsecureSkipVerify, server.Certificates = true, []tls.Certificate{*testCertificate("mx.example.net")}
	var both sync.WaitGroup
	both.Go(func() {
		defer far.Close()
		c := tls.Server(b, server)
		io.CopyN(c, c, 6)
	})
	c := tls.Client(a, client)
	if _, err := io.WriteString(c, "NOOP\r\n"); err == nil {
		io.CopyN(io.Discard, c, 6)
	}
	near.Close()
	both.Wait()
	return a.said, b.said
}

// kept keeps what was written.
type kept struct {
	net.Conn
	said []byte
}

func (k *kept) Write(p []byte) (int, error) {
	n, err := k.Conn.Write(p)
	k.said = append(k.said, p[:n]...)
	return n, err
}

// dialogues are handshakes to cut to pieces.
func dialogues(t testing.TB) (clients, servers [][]byte) {
	other := &tls.Config{CurvePreferences: []tls.CurveID{tls.CurveP384}}
	for _, configs := range [][2]*tls.Config{
		{},
		{{MaxVersion: tls.VersionTLS12}},
		{{CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP384}}, other}, // a HelloRetryRequest
		{{MinVersion: tls.VersionTLS10}, {MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}},
		{{MinVersion: tls.VersionTLS13}, {MaxVersion: tls.VersionTLS12}}, // an alert
	} {
		c, s := recorded(t, configs[0], configs[1])
		clients, servers = append(clients, c), append(servers, s)
	}
	return clients, servers
}

// pieces cuts p into pieces of these sizes, again and again.
func pieces(p, sizes []byte) (all [][]byte) {
	for i := 0; len(p) > 0; i++ {
		n := len(p)
		if len(sizes) > 0 {
			n = min(n, int(sizes[i%len(sizes)])+1)
		}
		all, p = append(all, p[:n]), p[n:]
	}
	return all
}

// checkServer feeds a gate what a server says and holds it to its promise. What
// passed before the verdict it returns, and whether there was one.
func checkServer(t *testing.T, said, sizes []byte, refuse bool) (passed []byte, judged bool) {
	g := newGate()
	g.chosen = func(*tlshello.ServerHello) error {
		judged = true
		if refuse {
			return errRefused
		}
		return nil
	}
	var all []byte
	send := func(p []byte) error {
		if !judged {
			passed = append(passed, p...)
		} else if refuse {
			t.Errorf("%q passes behind a refusal", p)
		}
		all = append(all, p...)
		return nil
	}
	var err error
	for _, p := range pieces(said, sizes) {
		if err = g.fromServer(p, send); err != nil {
			break
		}
	}
	if !bytes.HasPrefix(said, all) {
		t.Errorf("what passes is not what was said")
	}
	if len(all) > g.server.records.seen {
		t.Errorf("what has not the form of records passes")
	}
	var before tlshello.Observer
	before.Write(passed)
	if h := before.ServerHello(); h != nil && h.Final {
		t.Errorf("the ServerHello passes before it was judged")
	}
	if end := before.HelloEnd(); len(before.Alerts()) == 0 && len(passed) > end {
		t.Errorf("%d octets pass before the verdict, of which a retry are %d", len(passed), end)
	}
	return passed, judged
}

// checkClient is checkServer for what a client says.
func checkClient(t *testing.T, said, sizes []byte, refuse bool) (judged bool) {
	g := newGate()
	g.offered = func(*tlshello.ClientHello) error {
		judged = true
		if refuse {
			return errRefused
		}
		return nil
	}
	close(g.serverEnded) // it does not answer
	var passed []byte
	send := func(p []byte) error {
		if !judged || refuse {
			t.Errorf("%q passes before it was judged, or behind a refusal", p)
		}
		passed = append(passed, p...)
		return nil
	}
	var err error
	for _, p := range pieces(said, sizes) {
		if err = g.fromClient(p, send); err != nil {
			break
		}
	}
	if judged && err == nil {
		t.Error("the client goes on without an answer")
	}
	if want := g.client.observer.HelloEnd(); judged && !refuse && !bytes.Equal(passed, said[:want]) {
		t.Errorf("%d octets pass, and the hello has %d", len(passed), want)
	}
	return judged
}

func TestNoOctetOfTheChoicePassesBeforeItIsJudgedHoweverItIsCut(t *testing.T) {
	clients, servers := dialogues(t)
	for i := range servers {
		for _, sizes := range [][]byte{nil, {0}, {1}, {4}, {6, 0, 200}, {255}} {
			for _, refuse := range []bool{false, true} {
				passed, judged := checkServer(t, servers[i], sizes, refuse)
				if alert := i == 4; judged == alert || (len(passed) > 0) != (alert || i == 2 && sizes != nil) {
					t.Errorf("%d, %v: judged %v, before it pass %d octets", i, sizes, judged, len(passed))
				}
				if !checkClient(t, clients[i], sizes, refuse) {
					t.Errorf("%d, %v: the client's hello is not judged", i, sizes)
				}
			}
		}
	}
}

func FuzzGate(f *testing.F) {
	clients, servers := dialogues(f)
	for i := range servers {
		for _, sizes := range []string{"", "\x00", "\x06\x00\xc8"} {
			f.Add(clients[i], servers[i], []byte(sizes), i%2 == 0)
		}
	}
	f.Fuzz(func(t *testing.T, client, server, sizes []byte, refuse bool) {
		checkServer(t, server, sizes, refuse)
		checkClient(t, client, sizes, refuse)
	})
}

// early is a ClientHello with data behind it, as with early_data (RFC 8446 §2.3).
func TestWhatAClientSendsBehindItsHelloWaitsForTheAnswer(t *testing.T) {
	hello, _ := recorded(t, nil, nil)
	var o tlshello.Observer
	o.Write(hello)
	hello = hello[:o.HelloEnd()]
	data := []byte("\x17\x03\x03\x00\x04mail")
	g := newGate()
	g.offered = func(*tlshello.ClientHello) error { return nil }
	var passed []byte
	sent := make(chan struct{}, 2)
	send := func(p []byte) error { passed = append(passed, p...); sent <- struct{}{}; return nil }
	done := make(chan error)
	go func() { done <- g.fromClient(append(hello, data...), send) }()
	<-sent
	if !bytes.Equal(passed, hello) {
		t.Errorf("%q passes", passed)
	}
	g.answer()
	if err := <-done; err != nil || !bytes.HasSuffix(passed, data) {
		t.Errorf("%v, %q passes", err, passed)
	}
}

func TestRecordsAreToldApartFromWhatIsInClear(t *testing.T) {
	const record = "\x16\x03\x01\x00\x02hi\x17\x03\x03\x00\x00"
	for _, tc := range []struct {
		said   string
		broken bool
		whole  int
	}{
		{record, false, len(record)},
		{record + "\x15\x03", false, len(record)},
		{record + "MAIL FROM:<a@x>\r\n", true, len(record)},
		{record + "\x17\x03\x03\xff\xff", true, len(record)},
		{record + "\x17\x02", true, len(record)},
		{"250 ok", true, 0},
		{"\x80\x2e\x01", true, 0},
	} {
		for _, size := range []byte{0, 1, 2, 250} {
			var r records
			for _, p := range pieces([]byte(tc.said), []byte{size}) {
				r.take(p)
			}
			if r.broken != tc.broken || r.whole != tc.whole {
				t.Errorf("%q by %d: %+v", tc.said, size+1, r)
			}
		}
	}
}

func TestAnOldHelloAndOneWithoutEndAreCut(t *testing.T) {
	for name, tc := range map[string]struct{ said, reason, detail string }{
		"SSL 2.0": {"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10" + strings.Repeat("\x00\x00\x2f", 7) + strings.Repeat("c", 16),
			"client-tls-too-low", "TLS 1.0 is below TLS 1.2"},
		"SSL 2.0 that names TLS 1.2": {"\x80\x2e\x01\x03\x03\x00\x15\x00\x00\x00\x10" + strings.Repeat("\x00\x00\x2f", 7) + strings.Repeat("c", 16),
			"client-handshake-failed", "the TLS handshake failed: the client sent an SSL 2.0 hello"},
		"no end": {"\x16\x03\x01\x40\x00\x01\x00\xff\xf0" + strings.Repeat("x", 16380) +
			strings.Repeat("\x16\x03\x01\x40\x00"+strings.Repeat("x", 16384), 4), "client-handshake-failed", "the TLS handshake failed: tlshello: handshake too long"},
		"an alert in its place": {"\x15\x03\x01\x00\x02\x02\x28", "client-handshake-failed", "the TLS handshake failed: the client sent the alert handshake_failure"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, options{rules: watchingRule()})
			up := b.asked()
			go io.WriteString(b.client.raw, tc.said)
			if said, _ := io.ReadAll(up.raw); len(said) > 0 {
				t.Errorf("%d octets reach the server", len(said))
			}
			if said, _ := io.ReadAll(b.client.raw); len(said) > 0 {
				t.Errorf("the client hears %q", said)
			}
			b.client.raw.Close()
			wantFields(t, b.record(), map[string]string{"reason": tc.reason, "detail": tc.detail, "client_tls.state": "failed", "upstream_tls.state": "none"})
		})
	}
}

// The peers choose among all suites there are, so enforce has lists of them, and
// the names of the registry tell whether those are whole.
func TestTheListsOfSuitesAgreeWithTheirNames(t *testing.T) {
	for suite := range uint16(0xFFFF) {
		name := tlshello.CipherName(suite)
		if strings.HasPrefix(name, "0x") {
			continue
		}
		is := func(parts ...string) bool {
			for _, p := range parts {
				if strings.Contains(name+"_", p) {
					return true
				}
			}
			return false
		}
		if want := is("_NULL_", "_EXPORT_", "_RC4_", "_RC2_", "_DES_", "_DES40_", "TLS_SHA256_SHA256", "TLS_SHA384_SHA384"); enforce.Broken(suite) != want {
			t.Errorf("%s: broken is %v", name, !want)
		}
		l := enforce.Leg{State: enforce.StateWatched, Version: tls.VersionTLS12, Cipher: suite}
		if want := is("_DHE_", "_ECDHE_", "_anon_", "_ECCPWD_"); l.HasForwardSecrecy() != want {
			t.Errorf("%s: forward secrecy is %v", name, !want)
		}
	}
}

func TestASuiteThatProtectsNothingIsCutWhateverTheRuleSays(t *testing.T) {
	b := newBench(t, options{rules: watchingRule(func(r *enforce.Rule) { r.OnViolation = enforce.OnViolationLog })})
	up := b.asked()
	hello, _ := recorded(t, &tls.Config{MaxVersion: tls.VersionTLS12}, nil)
	var o tlshello.Observer
	o.Write(hello)
	b.client.raws(string(hello[:o.HelloEnd()]))
	if _, err := io.ReadFull(up.raw, make([]byte, o.HelloEnd())); err != nil {
		t.Fatal(err)
	}
	const rsaWithNull = "\x16\x03\x03\x00\x2a\x02\x00\x00\x26\x03\x03" + "0123456789abcdef0123456789abcdef" + "\x00\x00\x3b\x00"
	up.raws(rsaWithNull)
	b.client.hearsEnd()
	wantFields(t, b.record(), map[string]string{"reason": "tls-cipher-not-allowed", "detail": "0x003B is not allowed", "end": "cut", "tls": "may!cipher"})
}
