package proxytest

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testPKI is made once; the authorities are never changed.
var testPKI = sync.OnceValues(func() (*PKI, error) { return NewPKI("test") })

func pki(t testing.TB) *PKI {
	t.Helper()
	p, err := testPKI()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// serve starts a server on loopback that ends with the test.
func serve(t testing.TB, cfg ServerConfig) *Server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := Serve(ln, cfg)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// secure returns a configuration with a good certificate.
func secure(t testing.TB) ServerConfig {
	t.Helper()
	cert, err := pki(t).Issue(Leaf{Names: []string{"mx.test"}})
	if err != nil {
		t.Fatal(err)
	}
	return ServerConfig{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}}
}

func trusting(t testing.TB) *tls.Config {
	return &tls.Config{RootCAs: pki(t).Pool(), ServerName: "mx.test"}
}

func dial(t testing.TB, s *Server) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// greeted returns a client that has been greeted.
func greeted(t testing.TB, s *Server) *Client {
	t.Helper()
	c := NewClient(dial(t, s), 10*time.Second)
	if _, err := c.ReadReply(); err != nil {
		t.Fatal(err)
	}
	return c
}

// ended waits for the one session of a server to end.
func ended(t testing.TB, s *Server) Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	sessions, err := s.WaitSessions(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	return sessions[0]
}

func mail(content string) Mail {
	return Mail{From: "a@client.test", To: []string{"b@mx.test"}, Content: []byte(content)}
}

// contents are messages that are easily got wrong.
var contents = map[string]string{
	"plain":               "Subject: hi\r\n\r\nhello\r\n",
	"empty":               "",
	"a dot alone":         ".\r\n",
	"dots":                ".\r\n..\r\n...\r\n.a\r\n",
	"bare newlines":       "a\n.\nb\n.\r\nc\r\n\n.\n\r\n",
	"bare returns":        "a\r.\r\rb\r.\r\n\r\r\n",
	"dot and return":      ".\rx\r\n.\r.\r\n",
	"eight bits and NUL":  "\x00\xff\x80\r\n",
	"larger than buffers": strings.Repeat(".0123456789\r\n", 100_000),
}

func TestAMessageArrivesByteForByteHoweverItIsSent(t *testing.T) {
	for name, content := range contents {
		for way, m := range map[string]Mail{
			"DATA":             {},
			"DATA, pipelined":  {Pipelined: true},
			"BDAT in one":      {Chunk: len(content) + 1},
			"BDAT in several":  {Chunk: max(1, len(content)/7)},
			"BDAT, pipelined":  {Chunk: max(1, len(content)/5), Pipelined: true},
			"DATA within TLS":  {ToParams: "NOTIFY=NEVER"},
			"BDAT within TLS":  {Chunk: 4096, FromParams: "BODY=BINARYMIME"},
			"two recipients":   {To: []string{"b@mx.test", `"a>b"@mx.test`}},
			"null sender":      {FromParams: "SIZE=1"},
			"DATA, SMTPUTF8":   {From: "ä@client.test", FromParams: "SMTPUTF8"},
			"content unwanted": {},
		} {
			t.Run(name+" by "+way, func(t *testing.T) {
				t.Parallel()
				base := mail(content)
				m.Content = base.Content
				if m.To == nil {
					m.To = base.To
				}
				if m.From == "" && way != "null sender" {
					m.From = base.From
				}
				cfg := secure(t)
				cfg.Discard = way == "content unwanted"
				s := serve(t, cfg)
				d := Delivery{TLS: trusting(t), Mails: []Mail{m, m}, Timeout: 10 * time.Second}
				if strings.HasSuffix(way, "TLS") {
					d.STARTTLS = AlwaysTLS
				}
				report := Deliver(dial(t, s), d)
				if !report.Accepted(d) {
					t.Fatalf("%v\n%v", report.Err, report.Transcript)
				}
				arrived(t, s, m, d.STARTTLS == AlwaysTLS, cfg.Discard)
			})
		}
	}
}

func arrived(t *testing.T, s *Server, m Mail, inTLS, discarded bool) {
	t.Helper()
	session := ended(t, s)
	if len(session.Messages) != 2 || len(session.Violations) > 0 || session.End != "quit" || session.Unfinished != nil {
		t.Fatalf("%d messages, violations %q, end %q", len(session.Messages), session.Violations, session.End)
	}
	got := session.Messages[1]
	if got.SHA256 != sha256.Sum256(m.Content) || got.Size != int64(len(m.Content)) {
		t.Errorf("%d bytes arrived of %d, or others", got.Size, len(m.Content))
	}
	if got.TLS != inTLS || (session.TLS != nil) != inTLS || got.From != m.From || got.FromParams != m.FromParams ||
		len(got.Recipients) != len(m.To) || got.Recipients[0] != (Recipient{m.To[0], m.ToParams}) {
		t.Errorf("envelope %+v", got)
	}
	wire := string(m.Content)
	if m.Chunk == 0 {
		wire = string(stuff(m.Content))
	}
	if discarded {
		if got.Content != nil || got.Wire != nil {
			t.Error("content was kept")
		}
	} else if string(got.Content) != string(m.Content) || string(got.Wire) != wire {
		t.Error("what was kept differs from the digest")
	}
	if (got.Chunks != nil) != (m.Chunk > 0) {
		t.Errorf("chunks %v", got.Chunks)
	}
}

func TestWaitingEndsWithItsContextAndSaysHowFarItGot(t *testing.T) {
	s := serve(t, ServerConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if list, err := s.WaitMessages(ctx, 1); err == nil || len(list) != 0 || !strings.Contains(err.Error(), "0 of 1") {
		t.Errorf("%v, %v", list, err)
	}
}

func TestAnotherTemperHoldsForTheNextConnection(t *testing.T) {
	s := serve(t, secure(t))
	first := greeted(t, s)
	s.Configure(ServerConfig{})
	second := greeted(t, s)
	for _, c := range []struct {
		client *Client
		want   bool
	}{{first, true}, {second, false}} {
		if _, err := c.client.Hello("EHLO", "client.test"); err != nil {
			t.Fatal(err)
		}
		if _, got := c.client.Offers("starttls"); got != c.want {
			t.Errorf("STARTTLS offered: %v", got)
		}
	}
}
