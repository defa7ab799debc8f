package wiretest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func pair(t *testing.T) (client, server net.Conn) {
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
	t.Cleanup(func() { _ = client.Close(); _ = server.Close() })
	return client, server
}

func configs(t *testing.T) (client, server *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"mx.test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(cert)
	return &tls.Config{RootCAs: roots, ServerName: "mx.test"},
		&tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

const whole = `
	# A session with everything in it.
	S: 220 mx.test ESMTP
	C: EHLO client.test
	S: 250-mx.test
	S: 250 STARTTLS
	C: STARTTLS
	S: 220 go ahead
	TLS
	C: MAIL FROM:<a@b.test>
	C: RCPT TO:<c@d.test>
	C> "DATA\r"
	C> "\n"
	S> "250 ok\r\n250"
	S:  ok
	S: 354 
	C> "\x00\xff.\n.\r\n.\r\n"
	S: 250 ok
	C half
	S: 421 bye
	S close
`

func TestBothSidesOfAScriptKeepToItHoweverTheirBytesAreCut(t *testing.T) {
	for _, piece := range []int{0, 1, 5} {
		client, server := pair(t)
		inClient, inServer := configs(t)
		wait := Start(t, server, Server, whole, Options{TLS: inServer, Piece: piece})
		got := Play(t, client, Client, whole, Options{TLS: inClient, Piece: piece})
		if state := wait().TLS; state == nil || got.TLS == nil || state.Version != got.TLS.Version {
			t.Errorf("pieces of %d: TLS %v and %v", piece, state, got.TLS)
		}
	}
}

func TestAPipeWillDoForAConnection(t *testing.T) {
	client, server := net.Pipe()
	wait := Start(t, server, Server, "S: 220 hi\nC: QUIT\nS: 221 bye\nS close", Options{})
	Play(t, client, Client, "S~ 220 [a-z]+\nC: QUIT\nS: 221 bye\nS close", Options{})
	wait()
}

func TestAHandshakeThatIsToFailIsReported(t *testing.T) {
	client, server := pair(t)
	_, inServer := configs(t)
	wait := Start(t, server, Server, "TLS fails", Options{TLS: inServer})
	got := Play(t, client, Client, "TLS fails", Options{TLS: &tls.Config{ServerName: "mx.test"}})
	if got.HandshakeErr == nil || got.TLS != nil {
		t.Errorf("%+v", got)
	}
	_ = client.Close()
	if wait().HandshakeErr == nil {
		t.Error("the server saw nothing of it")
	}
}

// against runs a script as the client and sends it what is given.
func against(t *testing.T, script, sent string, closed bool) error {
	t.Helper()
	client, server := pair(t)
	if _, err := server.Write([]byte(sent)); err != nil {
		t.Fatal(err)
	}
	if closed {
		if err := server.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Parse(script)
	if err != nil {
		t.Fatal(err)
	}
	inClient, _ := configs(t)
	_, err = s.Run(client, Client, Options{Timeout: 200 * time.Millisecond, TLS: inClient})
	return err
}

func TestWhoDoesNotKeepToTheScriptIsCaughtWhereItHappens(t *testing.T) {
	cases := []struct {
		name, script, sent string
		closed             bool
		line, at           int
	}{
		{"another text", "S: 220 a\nS: 250 ok", "220 a\r\n250 no\r\n", false, 2, 4},
		{"a bare LF", "S: 250 ok", "250 ok\n", false, 1, 6},
		{"one byte too many", "S: 250 ok", "250 ok \r\n", false, 1, 6},
		{"half a line", "S: 250 ok", "250", true, 1, 3},
		{"other bytes", `S> "\x00\x01"`, "\x00\x02", false, 1, 1},
		{"no match", "S~ 250 .*", "251 a\r\n", false, 1, -1},
		{"a match of a part", "S~ 250", "250 a\r\n", false, 1, -1},
		{"a match with a bare LF", "S~ 250 a", "250 a\n", false, 1, -1},
		{"nothing", "S: 250 ok", "", false, 1, 0},
		{"the end", "S: 250 ok", "", true, 1, 0},
		{"more, instead of the end", "S: 250 ok\nS close", "250 ok\r\n250 ok\r\n", true, 2, -1},
		{"silence, instead of the end", "S half", "", false, 1, -1},
		{"more behind the script", "S: 250 ok\n", "250 ok\r\nx", false, 2, -1},
		{"bytes in front of the handshake", "S: 220 go\nTLS", "220 go\r\n250 injected\r\n", false, 2, -1},
		{"no handshake", "TLS", "250 ok\r\n", false, 1, -1},
		{"a handshake cut off", "TLS fails\n", "", false, 1, -2},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := against(t, c.script, c.sent, c.closed)
			if c.at == -2 {
				if err != nil {
					t.Errorf("%v", err)
				}
				return
			}
			var m *Mismatch
			if !errors.As(err, &m) || m.Line != c.line || m.At != c.at || m.Side != Client {
				t.Fatalf("%#v", err)
			}
			if c.sent == "" && !c.closed && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("silence is not called that: %v", err)
			}
		})
	}
}

func TestAMismatchCanBeReadByAPerson(t *testing.T) {
	err := against(t, "S: 220 mx\n# a remark\nC: EHLO a\nS: 250 ok\n\nC: QUIT\nS: 221", "220 mx\r\n250 \tno\r\n", false)
	want := `wiretest: script line 4, as the client
    expected "250 ok\r\n"
    received "250 \tno\r\n"
                  ^ byte 4
       1  S: 220 mx
       2  # a remark
       3  C: EHLO a
  =>   4  S: 250 ok
       5  
       6  C: QUIT
       7  S: 221`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	long := against(t, "S: 220 mx", strings.Repeat("a", 1000)+"\r\n", false)
	if long == nil || !strings.Contains(long.Error(), "… (1002 bytes)") {
		t.Errorf("%v", long)
	}
}

func TestAScriptThatMakesNoSenseIsRefusedWithItsLine(t *testing.T) {
	for script, want := range map[string]string{
		"S: 220\nQ: a":  `line 2: "Q: a" begins with neither`,
		"C":             `line 1: "C" begins with neither`,
		"C> DATA":       "line 1: DATA is no Go string",
		"S~ (":          "line 1: error parsing regexp",
		"C hangs up":    `line 1: "hangs up" is neither close nor half`,
		"C! a":          `line 1: "C! a" is none of`,
		"TLS one two":   `line 1: "one two" is not the name`,
		"TLS cut none":  `line 1: "none" is no number of bytes`,
		"C* many \"a\"": `line 1: "many" is no number of times`,
		"C* 2 a":        "line 1: a is no Go string",
		"C record x":    `line 1: "x" is no type`,
		"C tells":       `line 1: "tells" is neither close nor half`,
	} {
		if _, err := Parse(script); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", script, err)
		}
	}
	// Some of it shows only when it is known who plays.
	for script, want := range map[string]string{
		"C~ a": "line 1: a pattern cannot be sent", "TLS": "line 1: TLS without a configuration", "TLS 1.0": "line 1: TLS without a configuration", "C half": "line 1: a *net.pipe cannot",
	} {
		s, err := Parse(script)
		if err != nil {
			t.Fatal(err)
		}
		client, server := net.Pipe()
		if _, err := s.Run(client, Client, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", script, err)
		}
		_, _ = client.Close(), server.Close()
	}
}

func TestAConnectionThatCannotBeWrittenToIsAMismatch(t *testing.T) {
	client, server := pair(t)
	_ = client.Close()
	_ = server.Close()
	s, err := Parse("C: EHLO a")
	if err != nil {
		t.Fatal(err)
	}
	var m *Mismatch
	if _, err := s.Run(client, Client, Options{}); !errors.As(err, &m) || !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
}

// failing stands in for a test that is expected to fail.
type failing struct {
	testing.TB
	message  string
	cleanups []func()
}

func (f *failing) Helper()           {}
func (f *failing) Fatal(args ...any) { f.message = args[0].(error).Error(); panic(f) }
func (f *failing) Cleanup(c func())  { f.cleanups = append(f.cleanups, c) }

func TestPlayFailsTheTestAndLeavesNothingRunning(t *testing.T) {
	play := func(script string, f *failing) {
		defer func() { _ = recover() }()
		client, _ := pair(t)
		Play(f, client, Client, script, Options{Timeout: 50 * time.Millisecond})
	}
	for script, want := range map[string]string{"Q": "neither C nor S", "S: 220": "received nothing"} {
		f := &failing{TB: t}
		play(script, f)
		if !strings.Contains(f.message, want) {
			t.Errorf("%q: %q", script, f.message)
		}
	}
	f := &failing{TB: t}
	client, _ := pair(t)
	Start(f, client, Client, "S: 220", Options{Timeout: time.Hour})
	for _, cleanup := range f.cleanups {
		cleanup()
	}
	// That nothing is left is for goleak to see.
}

func FuzzParse(f *testing.F) {
	f.Add(whole)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		for _, st := range s.steps {
			if st.line < 1 || st.line > len(s.lines) {
				t.Fatalf("line %d of %d", st.line, len(s.lines))
			}
		}
	})
}
