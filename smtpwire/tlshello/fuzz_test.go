package tlshello

import (
	"bytes"
	"reflect"
	"testing"
)

// weight is how many bytes an Observer holds on to.
func weight(o *Observer) int {
	n := cap(o.message) + 2*cap(o.alerts)
	for _, der := range o.certificates {
		n += cap(der)
	}
	if h := o.client; h != nil {
		n += 2*(cap(h.CipherSuites)+cap(h.Groups)+cap(h.SignatureSchemes)+cap(h.SupportedVersions)) +
			len(h.ServerName) + cap(h.SessionID)
		for _, p := range h.ALPN {
			n += len(p)
		}
	}
	if h := o.server; h != nil {
		n += cap(h.SessionID) + len(h.ALPN)
	}
	return n
}

// maxWeight: the certificates, a message that grew by a quarter beyond what it
// had to hold, the lists, and the protocols of at most 255 bytes each.
const maxWeight = Limit + Limit*3/2 + 4*2*MaxList + MaxList*255

func FuzzObserver(f *testing.F) {
	for _, c := range tlsCases(f) {
		h := record(f, c[0], c[1])
		f.Add(h.fromClient, 11)
		f.Add(h.fromServer, 1)
	}
	f.Add(join(retry, ccs, answer13, data), 3)
	f.Add([]byte("220 mx.test ESMTP\r\n"), 2)
	f.Fuzz(func(t *testing.T, stream []byte, cut int) {
		whole := observe(t, stream)
		if w := weight(whole); w > maxWeight {
			t.Fatalf("%d bytes kept of %d", w, len(stream))
		}
		if whole.seen > Limit || whole.Done() && whole.message != nil {
			t.Fatalf("%d bytes looked at, done %v, %d bytes waiting", whole.seen, whole.Done(), len(whole.message))
		}
		if whole.Err() != nil && !whole.Done() {
			t.Fatal("failed, but not done")
		}
		if len(stream) > 0 {
			cut = int(uint(cut) % uint(len(stream)))
			if got, want := factsOf(observe(t, stream[:cut], stream[cut:])), factsOf(whole); !reflect.DeepEqual(got, want) {
				t.Fatalf("cut at %d:\ngot  %+v\nwant %+v", cut, got, want)
			}
		}
	})
}

func FuzzClientHello(f *testing.F) {
	f.Add(hello[recordHeader+messageHeader:])
	f.Fuzz(func(t *testing.T, body []byte) {
		h := parseClientHello(body)
		if h == nil {
			return
		}
		if len(h.CipherSuites) > MaxList || len(h.Groups) > MaxList || len(h.ALPN) > MaxList ||
			len(h.SignatureSchemes) > MaxList || len(h.SupportedVersions) > MaxList || len(h.ServerName) > maxServerName {
			t.Fatalf("a list without bound: %+v", h)
		}
		for _, v := range h.Versions() {
			if isGREASE(v) && v != h.LegacyVersion {
				t.Fatalf("a version that is none: %x", v)
			}
		}
	})
}

func FuzzServerHello(f *testing.F) {
	f.Add(answer[recordHeader+messageHeader:])
	f.Add(answer13[recordHeader+messageHeader:])
	f.Add(retry[recordHeader+messageHeader:])
	f.Fuzz(func(t *testing.T, body []byte) {
		h := parseServerHello(body)
		if h == nil {
			return
		}
		if h.Final == h.HelloRetryRequest {
			t.Fatalf("%+v", h)
		}
		if h.HelloRetryRequest && h.Version < VersionTLS13 {
			t.Fatalf("a retry below TLS 1.3: %+v", h)
		}
	})
}

// A chain is kept as it was sent, up to so many certificates, or not at all.
func FuzzCertificate(f *testing.F) {
	f.Add([]byte{0, 0, 5, 0, 0, 2, 0x30, 0})
	f.Add([]byte{0, 0, 0})
	f.Add(bytes.Repeat([]byte{0, 0, 1, 0x30}, 100))
	f.Fuzz(func(t *testing.T, body []byte) {
		var o Observer
		o.certificate(body)
		if (o.Certificates() == nil) != (o.Err() != nil) {
			t.Fatalf("%d certificates, %v", len(o.Certificates()), o.Err())
		}
		if len(o.Certificates()) > MaxCertificates || weight(&o) > 2*len(body)+64 {
			t.Fatalf("%d certificates, %d bytes kept of %d", len(o.Certificates()), weight(&o), len(body))
		}
		rest := body[min(3, len(body)):]
		for _, der := range o.Certificates() {
			if len(der) == 0 || !bytes.HasPrefix(rest[3:], der) {
				t.Fatalf("%x is not what was sent", der)
			}
			rest = rest[3+len(der):]
		}
	})
}

func FuzzSSLv2(f *testing.F) {
	f.Add([]byte{1, 3, 1, 0, 3, 0, 0, 0, 1, 0, 0, 0x2F, 7})
	f.Fuzz(func(t *testing.T, message []byte) {
		if h := parseSSLv2(message); h != nil && (len(h.CipherSuites) > MaxList || len(h.SessionID) > maxSessionID) {
			t.Fatalf("%+v", h)
		}
	})
}
