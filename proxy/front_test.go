package proxy_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"postern/proxy"
	"postern/proxy/proxytest"
)

// A front is a server with method "none", in front of one upstream.
type front struct {
	t       *testing.T
	config  proxy.Config
	server  *proxy.Server
	to      *proxytest.Server
	pki     *proxytest.PKI
	address string
	log     *records
	served  chan error
}

type records struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(p)
}

func (r *records) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.String()
}

// sessions returns the records written so far.
func (r *records) sessions(t *testing.T) (all []map[string]any) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for line := range strings.Lines(r.b.String()) {
		var one map[string]any
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if one["msg"] == "session" {
			all = append(all, one)
		}
	}
	return all
}

func (r *records) logger() *zap.Logger {
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{MessageKey: "msg"}), zapcore.AddSync(r), zapcore.DebugLevel))
}

func newFront(t *testing.T, temper string, edit func(*proxy.Config)) *front {
	t.Helper()
	f := &front{t: t, log: new(records), served: make(chan error, 1)}
	var err error
	if f.pki, err = proxytest.NewPKI("test"); err != nil {
		t.Fatal(err)
	}
	f.to = f.upstream(temper)
	dir := t.TempDir()
	edge, err := f.pki.Issue(proxytest.Leaf{Names: []string{"edge.test"}})
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := proxytest.WriteCertificate(dir, "edge", edge)
	if err != nil {
		t.Fatal(err)
	}
	root, err := f.pki.WriteRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	f.config = proxy.Config{
		Intercept: proxy.Intercept{Method: "none"},
		Listen:    proxy.Listen{Addresses: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, Upstream: f.to.Addr().String()},
		TLS:       proxy.TLS{MinVersion: tls.VersionTLS12, TrustCA: root, Certificates: []proxy.Certificate{{Name: "edge", Cert: cert, Key: key}}},
		Limits:    proxy.Limits{Sessions: 100, SessionsPerSource: 100, Recipients: 100, Line: 2048, ReplyLines: 100},
		Timeouts: proxy.Timeouts{Connect: 5 * time.Second, Handshake: 5 * time.Second, Command: 20 * time.Second,
			Data: 20 * time.Second, Final: 20 * time.Second, Drain: 20 * time.Second},
	}
	if edit != nil {
		edit(&f.config)
	}
	if f.server, err = proxy.NewServer(f.config, f.log.logger()); err != nil {
		t.Fatal(err)
	}
	if err := f.server.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.address = f.server.Addresses()[0].String()
	go func() { f.served <- f.server.Serve() }()
	t.Cleanup(func() {
		f.to.Close()
		f.shutdown()
	})
	return f
}

func (f *front) upstream(temper string) *proxytest.Server {
	f.t.Helper()
	kind, err := proxytest.TemperNamed(temper)
	if err != nil {
		f.t.Fatal(err)
	}
	config, err := kind.Config(f.pki, "mx.test")
	if err != nil {
		f.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	return proxytest.Serve(l, config)
}

func (f *front) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := f.server.Shutdown(ctx); err != nil {
		f.t.Error(err)
	}
	select {
	case err := <-f.served:
		if err != nil {
			f.t.Error(err)
		}
		f.served <- nil
	case <-ctx.Done():
		f.t.Error("Serve does not return")
	}
}

func (f *front) dial() net.Conn {
	f.t.Helper()
	conn, err := net.Dial("tcp", f.address)
	if err != nil {
		f.t.Fatal(err)
	}
	return conn
}

// client has read the greeting and said EHLO.
func (f *front) client() *proxytest.Client {
	f.t.Helper()
	c := proxytest.NewClient(f.dial(), 20*time.Second)
	f.t.Cleanup(func() { c.Close() })
	if reply, err := c.ReadReply(); err != nil || reply.Code != 220 {
		f.t.Fatalf("%v, %v", reply, err)
	}
	if reply, err := c.Hello("EHLO", "client.test"); err != nil || reply.Code != 250 {
		f.t.Fatalf("%v, %v", reply, err)
	}
	return c
}

func mail(content string) proxytest.Mail {
	return proxytest.Mail{From: "a@client.test", To: []string{"b@mx.test"}, Content: []byte(content), Pipelined: true}
}
