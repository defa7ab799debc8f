package leg

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestRecordsAreCountedHoweverTheyComeInPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.IntRange(0, 70), 1, 10).Draw(t, "sizes")
		var stream []byte
		for _, size := range sizes {
			stream = append(stream, 23, 3, 3, 0, byte(size))
			stream = append(stream, make([]byte, size)...)
		}
		var f framing
		n := 0
		for len(stream) > 0 {
			piece := rapid.IntRange(1, len(stream)).Draw(t, "piece")
			n += f.ends(stream[:piece])
			stream = stream[piece:]
		}
		if n != len(sizes) || f != (framing{}) {
			t.Fatalf("%d records, counted %d, %+v", len(sizes), n, f)
		}
	})
}

// The peer makes the side that reads write an alert, or the answer to a KeyUpdate,
// while the other writes what takes several records: under the race detector this
// shows whether they keep out of each other's way.
func TestWhoReadsMayWriteWhileContentIsWritten(t *testing.T) {
	for range 20 {
		near, far := securePair(t)
		content := bytes.Repeat([]byte("x"), 60<<10)
		written := make(chan struct{})
		go func() {
			defer close(written)
			for range 8 {
				if near.Write(content) != nil {
					return
				}
			}
		}()
		go io.Copy(io.Discard, far)
		io.WriteString(far.NetConn(), "\x17\x03\x03\x00\x20"+strings.Repeat("j", 32)) // a record that nobody sealed
		near.SetReplyDeadline(time.Now().Add(5 * time.Second))
		if _, err := near.ReadReply(1); err == nil {
			t.Error("junk was read as a reply")
		}
		<-written
		near.Close()
	}
}

// securePair is a leg in TLS and its peer.
func securePair(t *testing.T) (*Conn, *tls.Conn) {
	t.Helper()
	clear, raw := pair(t)
	config, err := selfSigned()
	if err != nil {
		t.Fatal(err)
	}
	far := tls.Server(raw, config)
	done := make(chan error, 1)
	go func() { done <- far.Handshake() }()
	near, _, err := clear.StartClient(&tls.Config{InsecureSkipVerify: true}, 10*time.Second)
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// Content in many records arrives as it was sent, in both directions of a relay.
func TestContentInManyRecordsArrivesAsItWas(t *testing.T) {
	in, sender := securePair(t)
	out, sink := securePair(t)
	content := make([]byte, 3<<20)
	for i := range content {
		content[i] = byte(i * 7 / 3)
	}
	go func() { sender.Write(content); sender.Close() }()
	got := make(chan []byte, 1)
	go func() { all, _ := io.ReadAll(sink); got <- all }()
	for {
		p, err := in.PeekContent(5 * time.Second)
		if err != nil {
			break
		}
		if err := out.Write(p); err != nil {
			t.Fatal(err)
		}
		in.Advance(len(p))
	}
	in.EndContent()
	out.Flush()
	out.Close()
	if all := <-got; !bytes.Equal(all, content) {
		t.Errorf("%d octets arrived of %d, the same: false", len(all), len(content))
	}
}

func selfSigned() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, nil
}
