package wiretest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

// both runs a script on both sides of a connection.
func both(t *testing.T, script string, client, server Options) (Result, Result) {
	t.Helper()
	near, far := pair(t)
	wait := Start(t, far, Server, script, server)
	got := Play(t, near, Client, script, client)
	return got, wait()
}

func TestBytesAreRepeatedAndAwaitedAsOften(t *testing.T) {
	both(t, "S* 3 \"250-a\\r\\n\"\nS: 250 b\nC* 20000 \"0123456789\"\nC close", Options{}, Options{})
	var m *Mismatch
	if err := against(t, `S* 3 "a"`, "aab", false); !errors.As(err, &m) || m.At != 0 || string(m.Got) != "b" {
		t.Errorf("%v", err)
	}
}

func TestAFloodEndsWithoutAMismatchWhenTheOtherEndHangsUp(t *testing.T) {
	client, server := pair(t)
	_ = server.Close()
	Play(t, client, Client, "C* 1000000 \"0123456789\"\nC: QUIT\nS close", Options{})
}

func TestBehindAHandshakeThatFailedTheConversationGoesOnInClear(t *testing.T) {
	_, inServer := configs(t)
	old := &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10, InsecureSkipVerify: true}
	near, far := pair(t)
	wait := Start(t, far, Server, "TLS fails\nC: MAIL FROM:<>\nS close", Options{TLS: inServer})
	Play(t, near, Client, "TLS 1.0 fails\nC: MAIL FROM:<>\nS close", Options{Named: map[string]*tls.Config{"1.0": old}})
	wait()
}

func TestBehindAHandshakeThatFailedRecordsAreNoWords(t *testing.T) {
	_, inServer := configs(t)
	for sent, want := range map[string]string{
		"": "", "\x15\x03\x03\x00\x02\x02\x28": "", "\x17\x03\x03\x00\x09abc": "", "\x15\x03": "",
		"\x15\x03\x03\x00\x02\x02\x28250 no\r\n": "250 no", "250 no\r\n": "250 no",
	} {
		near, far := pair(t)
		s, err := Parse("TLS fails\nC close")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := near.Write([]byte("\x15\x03\x03\x00\x02\x02\x28" + sent)); err != nil {
			t.Fatal(err)
		}
		_ = near.(*net.TCPConn).CloseWrite()
		_, err = s.Run(far, Server, Options{TLS: inServer})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", sent, err)
		}
	}
}

func TestBytesInClearBypassTLS(t *testing.T) {
	inClient, inServer := configs(t)
	near, far := pair(t)
	wait := Start(t, far, Server, "TLS\nS clear \"250 smuggled\\r\\n\"\nC close", Options{TLS: inServer})
	s, err := Parse("TLS\nS: 250 smuggled")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Run(near, Client, Options{TLS: inClient}); err == nil || !strings.Contains(err.Error(), "tls: ") {
		t.Errorf("%v", err)
	}
	near.Close()
	wait()
}

func TestAHandshakeInPiecesOfOneByteSucceeds(t *testing.T) {
	inClient, inServer := configs(t)
	got, _ := both(t, "TLS cut 1\nC: NOOP\nC close", Options{TLS: inClient}, Options{TLS: inServer})
	if got.TLS == nil {
		t.Error("no TLS")
	}
}

func TestScriptsWaitForEachOther(t *testing.T) {
	var signals Signals
	near, far := pair(t)
	wait := Start(t, far, Server, "C waits X\nS tells X\nS: 220 hi", Options{Signals: &signals})
	Play(t, near, Client, "C waits X\nS: 220 hi", Options{Signals: &signals})
	wait()
	s, err := Parse("C waits Y")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Run(near, Client, Options{Signals: &signals, Timeout: time.Millisecond}); err == nil || !strings.Contains(err.Error(), "to be told Y") {
		t.Errorf("%v", err)
	}
}

func TestWhatDripsEndsWhenTheOtherEndHangsUp(t *testing.T) {
	near, far := pair(t)
	wait := Start(t, far, Server, "C> \"ab\"\nS close", Options{})
	Play(t, near, Client, "C drips \"abcdefghijklmnopqrstuvwxyz\"\nS close", Options{})
	wait()
	if err := against(t, `C drips "ab"`, "", false); err == nil || !strings.Contains(err.Error(), "before the last byte") {
		t.Errorf("%v", err)
	}
	if err := against(t, `C drips "ab"`, "no\r\n", false); err == nil || !strings.Contains(err.Error(), `received "no\r\n"`) {
		t.Errorf("%v", err)
	}
}

// The other end is a tls.Conn, which believes a record only if it was encrypted
// with the right keys and numbered right.
func TestARecordMadeByHandIsTakenForOneOfTheOtherEnds(t *testing.T) {
	inClient, inServer := configs(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, suite := range []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384} {
			for _, side := range []Side{Client, Server} {
				by, to := inClient.Clone(), inServer.Clone()
				for _, c := range []*tls.Config{by, to} {
					c.MinVersion, c.MaxVersion, c.CipherSuites = version, version, []uint16{suite}
				}
				near, far := pair(t)
				hand, other, options := near, tls.Server(far, to), Options{TLS: by}
				if side == Server {
					hand, other, options = far, tls.Client(near, by), Options{TLS: to}
				}
				letter := string(rune(side))
				wait := Start(t, hand, side, "TLS\n"+letter+": one\n"+letter+` record 23 "two"`+"\n"+letter+` record 21 "\x02\x2a"`, options)
				got := make([]byte, 8)
				var read []byte
				err := other.SetDeadline(time.Now().Add(5 * time.Second))
				for n := 0; err == nil; read = append(read, got[:n]...) {
					n, err = other.Read(got)
				}
				if string(read) != "one\r\ntwo" || !strings.Contains(err.Error(), "bad certificate") {
					t.Errorf("%s, %s, from the %s: %q, %v", tls.VersionName(version), tls.CipherSuiteName(suite), side, read, err)
				}
				wait()
			}
		}
	}
}

func TestARecordInClearIsAwaitedByItsTypeOrWhole(t *testing.T) {
	both(t, "C record 22 \"\\x01\\x02\"\nS record 21 \"\\x02\\x46\"\nS close", Options{}, Options{})
	near, far := pair(t)
	wait := Start(t, far, Server, "C record 22\nS close", Options{})
	Play(t, near, Client, "C record 22 \"hello\"\nS close", Options{})
	wait()
	for script, want := range map[string]string{`S record 22`: "a TLS record of type 22", `S record 21 "\x02\x46"`: `expected "\x02F"`} {
		if err := against(t, script, "\x15\x03\x03\x00\x02\x01\x00", false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", script, err)
		}
	}
	for script, want := range map[string]string{
		"TLS\nC record 23 \"a\"": "for AES-GCM alone", "TLS\nS record 23": "in clear alone",
	} {
		inClient, inServer := configs(t)
		inClient.MaxVersion, inClient.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256}
		near, far := pair(t)
		wait := Start(t, far, Server, "TLS", Options{TLS: inServer})
		s, err := Parse(script)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Run(near, Client, Options{TLS: inClient}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", script, err)
		}
		wait()
	}
}

func TestWhatPassesIsTold(t *testing.T) {
	inClient, inServer := configs(t)
	near, far := pair(t)
	const script = "S: 220 hi\nTLS\nC: QUIT\nS: 221 bye\nS close"
	wait := Start(t, far, Server, script, Options{TLS: inServer})
	var told bytes.Buffer
	Play(t, near, Client, script, Options{TLS: inClient, Trace: func(e Event) {
		phase := ""
		if e.TLS {
			phase = " in TLS"
		}
		note, _, _ := strings.Cut(e.Note, ":")
		told.WriteString(strings.Trim(string(rune(e.From)), "\x00") + " " + string(e.Bytes) + note + phase + "\n")
	}})
	wait()
	want := "S 220 hi\r\n\n handshake\nC QUIT\r\n in TLS\nS 221 bye\r\n in TLS\nS has closed\n"
	if told.String() != want {
		t.Errorf("told\n%q, want\n%q", told.String(), want)
	}
}
