package record

import (
	"bytes"
	"crypto/tls"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"postern/enforce"
)

var write = flag.Bool("write", false, "write testdata/records.json anew")

// usual is the record of a session that went as most do.
func usual() *Record {
	day := time.Date(2026, 11, 24, 12, 34, 56, 0, time.UTC)
	certificate := &Certificate{Subject: "CN=mx.example.net", Issuer: "CN=R11,O=Let's Encrypt,C=US", Names: []string{"mx.example.net", "mail.example.net"},
		Chain: []string{"CN=R11,O=Let's Encrypt,C=US"}, NotBefore: day.AddDate(0, -1, 0), NotAfter: day.AddDate(0, 2, 0), Key: "ECDSA P-256"}
	for i := range certificate.SHA256 {
		certificate.SHA256[i], certificate.SPKISHA256[i] = byte(i), byte(255-i)
	}
	return &Record{
		Session: "7KQ2M4XA", Start: day, Mode: "enforce", Generation: 3,
		Client:   Peer{Address: netip.MustParseAddrPort("10.1.0.2:40000"), Helo: "printer.example"},
		Upstream: Peer{Address: netip.MustParseAddrPort("[2001:db8::25]:25"), Banner: "mx.example.net ESMTP"}, Interface: "lan0",
		Rule: "default", Verdict: enforce.Allow, Stage: enforce.AtRcpt, TLS: "may:TLSv1.3",
		ClientTLS: Leg{State: enforce.StateOK, Version: tls.VersionTLS13, Cipher: tls.TLS_AES_128_GCM_SHA256, Group: uint16(tls.X25519MLKEM768), SNI: "mx.example.net",
			OfferedVersions: []uint16{tls.VersionTLS13, tls.VersionTLS12},
			OfferedCiphers:  []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}},
		UpstreamTLS: Leg{State: enforce.StateOK, Version: tls.VersionTLS13, Cipher: tls.TLS_AES_256_GCM_SHA384, Group: uint16(tls.X25519), SNI: "mx.example.net",
			ForwardSecrecy: true, Verified: true, Certificate: certificate, DANE: "none", MTASTS: "none"},
		Transactions: []*Transaction{{MailDomain: "a.example", RcptDomains: []string{"b.example"}, Accepted: 1, Bytes: 4096, Reply: "250 2.0.0 Ok: queued as 4F00B2"}},
		In:           4321, Out: 1234, Duration: 187654 * time.Microsecond, End: "quit",
	}
}

// odd has what a record can have besides, and what has to be escaped.
func odd() *Record {
	r := full()
	hold := &enforce.Hold{Offered: tls.VersionTLS10, Since: r.Start, Until: r.Start.Add(24 * time.Hour), Refused: 2}
	r.Client.Helo, r.Upstream.Banner = "a\"b\\c\td\x01<\u00fc\u2028\xff>", strings.Repeat("ß", 40)
	r.ClientTLS = Leg{State: enforce.StateFailed, Version: 0x0302, Cipher: 0xC0FF, Group: 0x4242, Failure: "remote error: \"bad\"", Hold: hold,
		OfferedVersions: make([]uint16, 70), OfferedCiphers: []uint16{0x1301, 0xFFFE, 0x0A0A}, Certificate: &Certificate{}}
	r.UpstreamTLS.Replaced = &Leg{State: enforce.StateOK, Resumed: true, Version: 0x0304, VerifyError: "no", Certificate: &Certificate{Names: []string{""}}, Revocation: "good"}
	r.UpstreamTLS.StrippedBy, r.UpstreamTLS.Revocation = "10.0.0.1", "unknown"
	r.Failures[1].Detail = strings.Repeat("x\n", 150)
	r.Transactions = append(r.Transactions, &Transaction{}, &Transaction{Refused: []Refused{{}}})
	r.omitted = 7
	return r
}

var when = regexp.MustCompile(`"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"`)

// Programs read the log by its keys, and some by its letters.
func TestTheRecordIsWrittenLetterByLetterAsItWas(t *testing.T) {
	var b bytes.Buffer
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(encoding), zapcore.AddSync(&b), zapcore.InfoLevel))
	for _, r := range []*Record{usual(), odd(), full(), {}, {UpstreamTLS: Leg{State: enforce.StateWatched, Certificate: &Certificate{}}}} {
		r.Emit(log)
	}
	got := when.ReplaceAll(b.Bytes(), []byte(`"time":""`))
	if *write {
		os.MkdirAll("testdata", 0o755)
		if err := os.WriteFile("testdata/records.json", got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/records.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// BenchmarkEmit writes records to a file: one after the other, and by many sessions
// at once. It ends when all are there, and leaves out how fast the disk is.
func BenchmarkEmit(b *testing.B) {
	for _, sessions := range []int{1, 64} {
		b.Run(fmt.Sprint(sessions), func(b *testing.B) {
			l, err := NewLog("json", filepath.Join(b.TempDir(), "log"), "info")
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.SetParallelism(sessions)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				r := usual()
				for pb.Next() {
					r.Emit(l.Logger)
					if behind(&l.sink.queue) {
						l.sink.queue.wait(func() {}) // or records would be lost
					}
				}
			})
			l.sink.queue.wait(func() {})
		})
	}
}

func behind(q *queue) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.size > queueLimit/2
}
