package session

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"postern/enforce"
	"postern/proxy/internal/parking"
)

// A bench is one session with both its peers in the hands of a test.
type bench struct {
	t       *testing.T
	client  *peer
	servers chan *peer // upstream connections, in the order in which they were dialled
	session *Session
	log     *logBuffer
	done    chan struct{}
}

// options change what a bench's session goes by.
type options struct {
	rules    []enforce.Rule
	floor    uint16
	edit     func(*Snapshot)
	dial     Dial
	wrap     func(net.Conn) net.Conn // around the client's socket as the session has it
	noVerify bool
}

// newBench begins a session. A test has one, and runs beside the others: many
// wait for a peer that has been hung up on to notice.
func newBench(t *testing.T, o options) *bench {
	t.Helper()
	t.Parallel()
	return startBench(t, o)
}

// startBench begins another session in the same test.
func startBench(t *testing.T, o options) *bench {
	t.Helper()
	if o.floor == 0 {
		o.floor = tls.VersionTLS12
	}
	policy, errs := enforce.Compile(o.rules, o.floor)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	snap := &Snapshot{
		Generation:  7,
		Policy:      policy,
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return testCertificate("edge.example"), nil },
		Verify: func(string, []*x509.Certificate, x509.ExtKeyUsage, time.Time) (enforce.ChainResult, []*x509.Certificate) {
			return enforce.ChainResult{Verified: !o.noVerify, Reason: enforce.CertNotTrusted, Detail: "unknown authority"}, nil
		},
		// Far sooner than in earnest, so that every test has its sessions rest.
		Park: new(parking.Lot).Park, RestAfter: 3 * time.Millisecond,
		Limits:   Limits{Recipients: 100, Line: 2048, ReplyLines: 64},
		Timeouts: Timeouts{Connect: 5 * time.Second, Handshake: 5 * time.Second, Command: 5 * time.Second, Data: 5 * time.Second, Final: 5 * time.Second},
	}
	if o.edit != nil {
		o.edit(snap)
	}
	b := &bench{t: t, servers: make(chan *peer, 8), log: &logBuffer{}, done: make(chan struct{})}
	ours, theirs := tcpPair(t)
	if o.wrap != nil {
		ours = o.wrap(ours)
	}
	b.client = newPeer(t, "client", theirs)
	dial := o.dial
	if dial == nil {
		dial = func(context.Context, netip.AddrPort) (net.Conn, error) {
			near, far := tcpPair(t)
			b.servers <- newPeer(t, "server", far)
			return near, nil
		}
	}
	enc := zapcore.NewJSONEncoder(zapcore.EncoderConfig{MessageKey: "msg"})
	log := zap.New(zapcore.NewCore(enc, zapcore.AddSync(b.log), zapcore.DebugLevel))
	b.session = New(snap, Arrival{
		Conn:     ours,
		Client:   netip.MustParseAddrPort("10.1.0.2:40000"),
		Upstream: netip.MustParseAddrPort("203.0.113.5:25"),
	}, dial, log)
	go func() { defer close(b.done); b.session.Run() }()
	t.Cleanup(func() {
		b.client.conn.Close()
		b.session.Abort()
		select {
		case <-b.done:
		case <-time.After(10 * time.Second):
			t.Error("the session does not end")
		}
	})
	return b
}

func (b *bench) server() *peer {
	b.t.Helper()
	select {
	case p := <-b.servers:
		return p
	case <-time.After(5 * time.Second):
		b.t.Fatal("the upstream was not dialled")
		return nil
	}
}

// record waits for the session to end and returns its record, having checked
// that there is exactly one.
func (b *bench) record() map[string]any {
	b.t.Helper()
	select {
	case <-b.done:
	case <-time.After(10 * time.Second):
		b.t.Fatal("the session does not end")
	}
	var found map[string]any
	for line := range strings.Lines(b.log.String()) {
		var one map[string]any
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			b.t.Fatalf("%v in %q", err, line)
		}
		switch {
		case one["msg"] != "session":
			b.t.Errorf("unexpected log line %s", line)
		case found != nil:
			b.t.Errorf("a second record %s", line)
		default:
			found = one
		}
	}
	if found == nil {
		b.t.Fatal("no record")
	}
	return found
}

// field finds "upstream_tls.version" in a record; "" when it is not there.
func field(r map[string]any, path string) string {
	var at any = r
	for key := range strings.SplitSeq(path, ".") {
		m, ok := at.(map[string]any)
		if !ok {
			return ""
		}
		at = m[key]
	}
	switch v := at.(type) {
	case nil:
		return ""
	case string:
		return v
	default:
		text, _ := json.Marshal(v)
		return string(text)
	}
}

func wantFields(t *testing.T, r map[string]any, want map[string]string) {
	t.Helper()
	for path, value := range want {
		if got := field(r, path); got != value {
			t.Errorf("record: %s is %q, want %q", path, got, value)
		}
	}
	if t.Failed() {
		text, _ := json.MarshalIndent(r, "", " ")
		t.Logf("%s", text)
	}
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A peer speaks for one end.
type peer struct {
	t    *testing.T
	name string
	raw  net.Conn
	conn net.Conn
	r    *bufio.Reader
}

func newPeer(t *testing.T, name string, conn net.Conn) *peer {
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return &peer{t: t, name: name, raw: conn, conn: conn, r: bufio.NewReader(conn)}
}

// say sends text, of which "\n" stands for CRLF.
func (p *peer) say(text string) {
	p.t.Helper()
	p.raws(strings.ReplaceAll(text, "\n", "\r\n"))
}

func (p *peer) raws(text string) {
	p.t.Helper()
	if _, err := io.WriteString(p.conn, text); err != nil {
		p.t.Fatalf("%s says %q: %v", p.name, text, err)
	}
}

// hears expects these lines, of which "…" at the end stands for any.
func (p *peer) hears(lines ...string) {
	p.t.Helper()
	for _, want := range lines {
		got := p.line()
		if prefix, open := strings.CutSuffix(want, "…"); got != want && !(open && strings.HasPrefix(got, prefix)) {
			p.t.Fatalf("%s hears %q, want %q", p.name, got, want)
		}
	}
}

func (p *peer) line() string {
	p.t.Helper()
	got, err := p.r.ReadString('\n')
	if err != nil {
		p.t.Fatalf("%s hears %q and then: %v", p.name, got, err)
	}
	if !strings.HasSuffix(got, "\r\n") {
		p.t.Fatalf("%s hears %q without CRLF", p.name, got)
	}
	return strings.TrimSuffix(got, "\r\n")
}

// reply reads one whole reply.
func (p *peer) reply() (lines []string) {
	p.t.Helper()
	for {
		l := p.line()
		lines = append(lines, l)
		if len(l) < 4 || l[3] != '-' {
			return lines
		}
	}
}

// hearsEnd expects nothing but the end of the connection.
func (p *peer) hearsEnd() {
	p.t.Helper()
	rest, err := io.ReadAll(p.r)
	if len(rest) > 0 {
		p.t.Fatalf("%s hears %q, want the end (%v)", p.name, rest, err)
	}
	p.raw.Close()
}

// octets reads exactly what is wanted, byte for byte.
func (p *peer) octets(want string) {
	p.t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(p.r, got)
	if string(got[:n]) != want {
		p.t.Fatalf("%s gets %q (%v), want %q", p.name, got[:n], err, want)
	}
}

// startTLS runs the client's side of a handshake.
func (p *peer) startTLS(config *tls.Config) error {
	p.t.Helper()
	if p.r.Buffered() > 0 {
		p.t.Fatalf("%s has something in clear before the handshake", p.name)
	}
	if config == nil {
		config = &tls.Config{InsecureSkipVerify: true}
	}
	c := tls.Client(p.raw, config)
	err := c.Handshake()
	p.conn, p.r = c, bufio.NewReader(c)
	return err
}

// acceptTLS runs the server's side of a handshake.
func (p *peer) acceptTLS(config *tls.Config) error {
	p.t.Helper()
	if config == nil {
		config = &tls.Config{}
	}
	if len(config.Certificates) == 0 {
		config.Certificates = []tls.Certificate{*testCertificate("mx.example.net")}
	}
	c := tls.Server(p.raw, config)
	err := c.Handshake()
	p.conn, p.r = c, bufio.NewReader(c)
	return err
}

// greeted brings a session to the point where EHLO has been answered, with TLS
// upstream when secure.
func (b *bench) greeted(secure bool, capabilities ...string) *peer {
	b.t.Helper()
	up := b.server()
	up.say("220 mx.example.net ESMTP\n")
	b.client.hears("220 mx.example.net ESMTP")
	b.client.say("EHLO client.example\n")
	up.hears("EHLO client.example")
	list := append([]string{"mx.example.net hello"}, capabilities...)
	if secure {
		up.say(ehloReply(append(list, "STARTTLS")))
		up.hears("STARTTLS")
		up.say("220 go\n")
		if err := up.acceptTLS(nil); err != nil {
			b.t.Fatal(err)
		}
		up.hears("EHLO client.example")
	}
	up.say(ehloReply(list))
	b.client.reply()
	return up
}

// starts has the client begin TLS.
func (b *bench) starts(config *tls.Config) {
	b.t.Helper()
	b.client.say("STARTTLS\n")
	b.client.hears("220 2.0.0 …")
	if err := b.client.startTLS(config); err != nil {
		b.t.Fatal(err)
	}
}

// encrypted has the client begin TLS and say EHLO inside.
func (b *bench) encrypted() {
	b.t.Helper()
	b.starts(nil)
	b.client.say("EHLO client.example\n")
	b.client.reply()
}

func ehloReply(lines []string) string {
	var text strings.Builder
	for i, l := range lines {
		if i == len(lines)-1 {
			text.WriteString("250 " + l + "\n")
		} else {
			text.WriteString("250-" + l + "\n")
		}
	}
	return text.String()
}

func tcpPair(t testing.TB) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	return near, far
}

var certificates sync.Map

// testCertificate makes a self-signed certificate, once a name.
func testCertificate(name string) *tls.Certificate {
	if have, ok := certificates.Load(name); ok {
		return have.(*tls.Certificate)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	c := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	have, _ := certificates.LoadOrStore(name, c)
	return have.(*tls.Certificate)
}

func failingDial(context.Context, netip.AddrPort) (net.Conn, error) {
	return nil, &net.OpError{Op: "dial", Err: net.ErrClosed}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
