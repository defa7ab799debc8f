package session

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"postern/enforce"
)

// FuzzSession lets both peers say anything at all, in clear. Whatever they say,
// the session ends when they do, writes one record, does not crash, and the
// client hears of an accepted message only what the upstream said.
func FuzzSession(f *testing.F) {
	f.Add([]byte("EHLO a\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\n\r\n.\r\nQUIT\r\n"),
		[]byte("220 mx\r\n250-mx\r\n250 PIPELINING\r\n250 ok\r\n250 ok\r\n354 go\r\n250 queued\r\n221 bye\r\n"))
	f.Add([]byte("EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<b@y>\r\nBDAT 3\r\nabcBDAT 0 LAST\r\nRSET\r\nSTARTTLS\r\n"),
		[]byte("220 mx\r\n250-mx\r\n250 CHUNKING\r\n250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n"))
	f.Add([]byte("HELO a\r\nNOOP\r\nVRFY x\r\nHELP\r\nEHLO b\r\nXYZ\r\n"), []byte("220-mx\r\n220 mx\r\n502 no\r\n250 mx\r\n250 x\r\n252 y\r\n214 z\r\n"))
	f.Add([]byte("EHLO a\r\n"), []byte("220 mx\r\n250-mx\r\n250 STARTTLS\r\n220 go\r\n\x15\x03\x01\x00\x02\x02\x46"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), []byte("554 no\r\n421 bye\r\n"))
	policy, _ := enforce.Compile([]enforce.Rule{{Name: "y", ToDomains: []string{"y"}, MinVersion: tls.VersionTLS13}}, tls.VersionTLS12)
	f.Fuzz(func(t *testing.T, client, server []byte) {
		if len(client) > 1<<14 || len(server) > 1<<14 {
			return
		}
		log := new(logBuffer)
		logger := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{MessageKey: "msg"}), zapcore.AddSync(log), zapcore.DebugLevel))
		snap := &Snapshot{
			Policy:      policy,
			Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return testCertificate("edge.example"), nil },
			Verify: func(string, []*x509.Certificate, x509.ExtKeyUsage, time.Time) enforce.ChainResult {
				return enforce.ChainResult{}
			},
			Limits:   Limits{Recipients: 5, Line: 512, ReplyLines: 16},
			Timeouts: Timeouts{Connect: time.Second, Handshake: time.Second, Command: time.Second, Data: time.Second, Final: time.Second},
		}
		near, far := tcpPair(t)
		dial := func(context.Context, netip.AddrPort) (net.Conn, error) {
			ours, theirs := tcpPair(t)
			go play(theirs, server)
			return ours, nil
		}
		s := New(snap, Arrival{Conn: near, Client: netip.MustParseAddrPort("192.0.2.1:1"), Upstream: netip.MustParseAddrPort("192.0.2.2:25")}, dial, logger)
		heard := make(chan []byte, 1)
		go func() { heard <- play(far, client) }()
		done := make(chan struct{})
		go func() { defer close(done); s.Run() }()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatal("the session does not end")
		}
		said := <-heard
		if n := strings.Count(log.String(), `"msg":"session"`); n != 1 || strings.Contains(log.String(), "crashed") {
			t.Fatalf("%d records: %s", n, log.String())
		}
		if accepted := []byte("250 queued"); bytes.Count(said, accepted) > bytes.Count(server, accepted) {
			t.Fatalf("client hears %q of %q", said, server)
		}
	})
}

// play says everything, then reads until the other side ends.
func play(conn net.Conn, says []byte) []byte {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	go func() {
		conn.Write(says)
		conn.(*net.TCPConn).CloseWrite()
	}()
	heard, _ := io.ReadAll(conn)
	return heard
}
