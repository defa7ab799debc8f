package tlshello

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"
)

// block returns a length-prefixed list, for building messages by hand.
func block(prefix func(*cryptobyte.Builder, cryptobyte.BuilderContinuation), p ...byte) []byte {
	var b cryptobyte.Builder
	prefix(&b, func(c *cryptobyte.Builder) { c.AddBytes(p) })
	return b.BytesOrPanic()
}

var (
	len16 = (*cryptobyte.Builder).AddUint16LengthPrefixed
	len24 = (*cryptobyte.Builder).AddUint24LengthPrefixed
)

func join(parts ...[]byte) []byte { return slices.Concat(parts...) }

// ext returns an extension.
func ext(kind byte, data ...byte) []byte { return join([]byte{0, kind}, block(len16, data...)) }

// rec returns a record of version 3.1.
func rec(kind byte, body ...byte) []byte { return join([]byte{kind, 3, 1}, block(len16, body...)) }

// msg returns a handshake message in a record of its own.
func msg(kind byte, body ...byte) []byte {
	return rec(recordHandshake, join([]byte{kind}, block(len24, body...))...)
}

var random = make([]byte, randomLength)

func clientHelloBytes(suites []byte, extensions ...[]byte) []byte {
	return msg(typeClientHello, join([]byte{3, 3}, random, []byte{0}, block(len16, suites...), []byte{1, 0},
		block(len16, join(extensions...)...))...)
}

func serverHelloBytes(random []byte, extensions ...[]byte) []byte {
	return msg(typeServerHello, join([]byte{3, 3}, random, []byte{0}, []byte{0xC0, 0x2F}, []byte{0},
		block(len16, join(extensions...)...))...)
}

var (
	ccs      = rec(recordChangeCipherSpec, 1)
	data     = rec(recordApplicationData, 1, 2, 3)
	hello    = clientHelloBytes([]byte{0, 0x2F})
	answer   = serverHelloBytes(random)
	answer13 = serverHelloBytes(random, ext(extSupportedVersions, 3, 4), ext(extKeyShare, 0, 29, 0, 1, 9))
	retry    = serverHelloBytes(retryRandom[:], ext(extSupportedVersions, 3, 4), ext(extKeyShare, 0, 24))
)

func TestWhatIsNotTLSIsToldApartByItsFirstBytes(t *testing.T) {
	for _, first := range []string{
		"2", "4", "220 mx.test ESMTP\r\n", "454 4.7.0 not now\r\n", "EHLO a\r\n", "GET / HTTP/1.1\r\n", "\r\n",
		"\x00", "\x14\x03\x01\x00\x01\x01", "\x17\x03\x03\x00\x01x", "\x16\x02", "\x16\xfe\xff", "\x15S",
		"\x80\x2e\x02", "\x80\x2e\x01\x04", "\x80\x2e\x01\x00\x03", "\xc3\xa9\xc3",
	} {
		o := same(t, []byte(first))
		if !errors.Is(o.Err(), ErrNotTLS) || !o.Done() || o.ClientHello() != nil {
			t.Errorf("%q: %v", first, o.Err())
		}
	}
	for _, first := range []string{"", "\x16", "\x16\x03", "\x15\x03\x03", "\x80\x2e\x01\x03\x00", "\x80\x2e\x01\x00\x02"} {
		if o := same(t, []byte(first)); o.Err() != nil || o.Done() {
			t.Errorf("%q could still be TLS: %v", first, o.Err())
		}
	}
}

func TestWhatIsMalformedEndsTheObservationAndKeepsWhatWasReadBefore(t *testing.T) {
	tooMany := join(ext(extALPN, 0, 4, 1, 'a', 1, 'b'))
	cases := []struct {
		name   string
		stream []byte
		hello  bool // a hello was read before
	}{
		{"a record type that does not exist", join(hello, []byte{25, 3, 1, 0, 1, 0}), true},
		{"plaintext behind a record", join(hello, []byte("250 ok\r\n")), true},
		{"an empty handshake record", rec(recordHandshake), false},
		{"an oversized record", []byte{22, 3, 1, 0x40, 1}, false},
		{"application data before a hello", join(rec(recordAlert, 1, 0), data), false},
		{"a change of cipher before a hello", join(rec(recordAlert, 1, 0), ccs), false},
		{"a change of cipher within a message", join(rec(recordHandshake, 1, 0), ccs), false},
		{"a change of cipher of two bytes", join(hello, rec(recordChangeCipherSpec, 1, 1)), true},
		{"a Certificate before a hello", msg(typeCertificate, 0, 0, 0), false},
		{"an alert of an unknown level", join(hello, rec(recordAlert, 9, 9)), true},
		{"both hellos in one direction", join(hello, answer), true},
		{"both hellos, the other way round", join(answer, hello), true},
		{"two ServerHellos", join(answer, answer), true},
		{"two requests to retry", join(retry, retry), true},
		{"an older version after a request to retry", join(retry, answer), true},
		{"a request to retry without a version", serverHelloBytes(retryRandom[:]), false},
		{"TLS 1.2 chosen by the extension of 1.3", serverHelloBytes(random, ext(extSupportedVersions, 3, 3)), false},
		{"a version list that repeats", serverHelloBytes(random, ext(extSupportedVersions, 3, 4), ext(extSupportedVersions, 3, 4)), false},
		{"two protocols chosen", serverHelloBytes(random, tooMany), false},
		{"a short key share", serverHelloBytes(random, ext(extSupportedVersions, 3, 4), ext(extKeyShare, 0)), false},
		{"a key share cut short", serverHelloBytes(random, ext(extKeyShare, 0, 29, 0, 2, 1)), false},
		{"no cipher suites", clientHelloBytes(nil), false},
		{"half a cipher suite", clientHelloBytes([]byte{0, 1, 2}), false},
		{"an empty version list", clientHelloBytes([]byte{0, 1}, ext(extSupportedVersions, 0)), false},
		{"bytes behind a version list", clientHelloBytes([]byte{0, 1}, ext(extSupportedVersions, 2, 3, 4, 9)), false},
		{"an empty server name", clientHelloBytes([]byte{0, 1}, ext(extServerName, 0, 3, 0, 0, 0)), false},
		{"two server names", clientHelloBytes([]byte{0, 1}, ext(extServerName, 0, 8, 0, 0, 1, 'a', 0, 0, 1, 'b')), false},
		{"an empty protocol", clientHelloBytes([]byte{0, 1}, ext(extALPN, 0, 1, 0)), false},
		{"an extension cut short", clientHelloBytes([]byte{0, 1}, []byte{0, 10, 0}), false},
		{"a group list cut short", clientHelloBytes([]byte{0, 1}, ext(extSupportedGroups, 0, 4, 0, 1)), false},
		{"a scheme list cut short", clientHelloBytes([]byte{0, 1}, ext(extSignatureSchemes, 9)), false},
		{"an empty ClientHello", msg(typeClientHello), false},
		{"a chain with an empty certificate", join(answer, msg(typeCertificate, 0, 0, 3, 0, 0, 0)), true},
		{"a chain cut short", join(answer, msg(typeCertificate, 0, 0, 9, 0, 0, 1)), true},
		{"two chains", join(answer, msg(typeCertificate, 0, 0, 0), msg(typeCertificate, 0, 0, 0)), true},
		{"an SSLv2 hello without room", []byte{0x80, 3, 1, 3, 0}, false},
		{"an SSLv2 hello that lies about its lengths", []byte{0x80, 12, 1, 3, 1, 0, 3, 0, 9, 0, 0, 0, 0, 47}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			o := same(t, c.stream)
			if !errors.Is(o.Err(), ErrMalformed) || !o.Done() {
				t.Errorf("err %v, done %v", o.Err(), o.Done())
			}
			if got := o.ClientHello() != nil || o.ServerHello() != nil; got != c.hello {
				t.Errorf("a hello was kept: %v", got)
			}
		})
	}
}

func TestListsAreKeptInOrderWithoutGREASEAndWithoutEnd(t *testing.T) {
	suites := []byte{0x0A, 0x0A, 0x13, 0x01, 0xFA, 0xFA, 0x0A, 0x1A, 0x00, 0xFF}
	o := same(t, clientHelloBytes(suites,
		ext(extSupportedGroups, 0, 6, 0x3A, 0x3A, 0x11, 0xEC, 0, 29),
		ext(extSignatureSchemes, 0, 4, 8, 4, 4, 3),
		ext(extSupportedVersions, 6, 0x7A, 0x7A, 3, 4, 3, 3),
		ext(extALPN, 0, 8, 2, 0x8A, 0x8A, 4, 's', 'm', 't', 'p'),
		ext(extServerName, 0, 10, 0, 0, 7, 'm', 'x', '.', 't', 'e', 's', 't')))
	h := o.ClientHello()
	if h == nil || !slices.Equal(h.CipherSuites, []uint16{0x1301, 0x0A1A, 0x00FF}) ||
		!slices.Equal(h.Groups, []uint16{0x11EC, 29}) || !slices.Equal(h.SignatureSchemes, []uint16{0x0804, 0x0403}) ||
		!slices.Equal(h.Versions(), []uint16{VersionTLS13, VersionTLS12}) || !slices.Equal(h.ALPN, []string{"smtp"}) ||
		h.ServerName != "mx.test" {
		t.Fatalf("%+v, %v", h, o.Err())
	}
	long := observe(t, clientHelloBytes(make([]byte, 4*MaxList),
		ext(extServerName, block(len16, join([]byte{0}, block(len16, []byte(strings.Repeat("a", 256))...))...)...))).ClientHello()
	if len(long.CipherSuites) != MaxList || long.ServerName != "" {
		t.Errorf("%d suites, a name of %d bytes", len(long.CipherSuites), len(long.ServerName))
	}
}

func TestAnSSLv2CompatibleHelloIsRead(t *testing.T) {
	// Two suites of TLS and one of SSL 2.0, as old OpenSSL clients sent it.
	body := join([]byte{1, 3, 1, 0, 9, 0, 0, 0, 16, 0, 0, 0x2F, 1, 0, 0x80, 0, 0, 0x0A}, random[:16])
	o := same(t, join([]byte{0x80, byte(len(body))}, body, rec(recordAlert, 2, 70)))
	h := o.ClientHello()
	if o.Err() != nil || h == nil || !h.SSLv2 || h.Length != len(body) ||
		!slices.Equal(h.Versions(), []uint16{VersionTLS10}) || !slices.Equal(h.CipherSuites, []uint16{0x2F, 0x0A}) {
		t.Fatalf("%+v, %v", h, o.Err())
	}
	if len(o.Alerts()) != 1 {
		t.Errorf("alerts %v", o.Alerts())
	}
}

func TestARetryDoesNotHideTheServerHelloBehindIt(t *testing.T) {
	o := same(t, retry)
	if h := o.ServerHello(); h == nil || h.Final || !h.HelloRetryRequest || h.Version != VersionTLS13 || h.Group != 24 {
		t.Errorf("the request alone: %+v", h)
	}
	o = same(t, join(retry, ccs, answer13, ccs, data))
	if h := o.ServerHello(); h == nil || !h.Final || !h.HelloRetryRequest || h.Group != 29 || !o.Encrypted() || o.Err() != nil {
		t.Errorf("with the answer: %+v, %v", h, o.Err())
	}
	o = same(t, join(hello, ccs, hello, data))
	if o.Err() != nil || !o.Encrypted() || o.ClientHello() == nil {
		t.Errorf("the client's side: %v", o.Err())
	}
}

func TestAnAlertInClearIsReadBehindAChangeOfCipherAndAnEncryptedOneIsNot(t *testing.T) {
	o := same(t, join(hello, ccs, rec(recordAlert, 2, 47)))
	if !slices.Equal(o.Alerts(), []Alert{{2, 47}}) || o.Alerts()[0].String() != "fatal illegal_parameter" {
		t.Errorf("in clear: %v", o.Alerts())
	}
	o = same(t, join(hello, ccs, rec(recordAlert, slices.Repeat([]byte{1}, 26)...), rec(recordHandshake, 1, 2, 3)))
	if len(o.Alerts()) > 0 || o.Err() != nil {
		t.Errorf("encrypted: %v, %v", o.Alerts(), o.Err())
	}
	o = same(t, join(hello, rec(recordAlert, 1), rec(recordAlert, 0)))
	if len(o.Alerts()) > 0 {
		t.Errorf("halves of two records were joined: %v", o.Alerts())
	}
	o = same(t, join(hello, slices.Repeat(rec(recordAlert, 1, 112), 2*MaxAlerts)))
	if len(o.Alerts()) != MaxAlerts || o.Alerts()[0].String() != "warning unrecognized_name" {
		t.Errorf("%d alerts", len(o.Alerts()))
	}
}

func TestAChainIsKeptToItsBoundAndAnEmptyOneIsNotNone(t *testing.T) {
	one := block(len24, 0x30, 0)
	o := same(t, join(hello, msg(typeCertificate, block(len24, slices.Repeat(one, MaxCertificates+3)...)...)))
	if len(o.Certificates()) != MaxCertificates || o.Err() != nil {
		t.Errorf("%d certificates, %v", len(o.Certificates()), o.Err())
	}
	o = same(t, join(hello, msg(typeCertificate, 0, 0, 0)))
	if o.Certificates() == nil || len(o.Certificates()) != 0 {
		t.Errorf("%v", o.Certificates())
	}
}

func TestMoreThanTheLimitIsNotLookedAt(t *testing.T) {
	// A message that only says how long it will be is refused at once.
	o := observe(t, hello, rec(recordHandshake, typeCertificate, 1, 0, 0))
	if !errors.Is(o.Err(), ErrTooLong) || o.ClientHello() == nil {
		t.Errorf("announced: %v", o.Err())
	}
	// Small talk without end is cut off too, wherever the pieces end.
	chatter := slices.Repeat(rec(recordHandshake, typeHelloRequest, 0, 0, 0), Limit/9+1)
	for _, size := range []int{1, 1000, len(chatter)} {
		o := observe(t, slices.Collect(slices.Chunk(chatter, size))...)
		if !errors.Is(o.Err(), ErrTooLong) || o.seen != Limit || o.message != nil {
			t.Errorf("pieces of %d: %v after %d bytes", size, o.Err(), o.seen)
		}
	}
}

func TestNothingIsKeptOfWhatIsFed(t *testing.T) {
	p := join(hello, msg(typeCertificate, block(len24, block(len24, 0x30, 0)...)...))
	o := observe(t, p)
	for i := range p {
		p[i] = byte(rand.N(256))
	}
	if h := o.ClientHello(); h.CipherSuites[0] != 0x2F || o.Certificates()[0][0] != 0x30 {
		t.Error("facts changed with the buffer")
	}
}
