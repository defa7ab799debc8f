package proxy_test

import (
	"crypto/tls"
	"net/netip"
	"strings"
	"testing"
	"time"

	"postern/proxy"
	"postern/proxy/proxytest"
)

// A sender that fails with TLS 1.0 and comes back in clear is refused by that
// reason, in another session, after a reload too, until a handshake succeeds.
func TestAHoldOutlivesItsSessionAndAReload(t *testing.T) {
	f := newFront(t, "modern", func(c *proxy.Config) {
		c.TLS.Hold, c.TLS.HoldFor = time.Hour, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	inClear := proxytest.Delivery{Mails: []proxytest.Mail{mail("in clear\r\n")}}
	if r := proxytest.Deliver(f.dial(), inClear); !r.Accepted(inClear) {
		t.Fatalf("before: %v", r.Transcript)
	}
	old := proxytest.Delivery{STARTTLS: proxytest.AlwaysTLS, Mails: []proxytest.Mail{mail("too old\r\n")},
		TLS: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}}
	if r := proxytest.Deliver(f.dial(), old); r.Accepted(old) {
		t.Fatal("TLS 1.0 was accepted")
	}
	refused := func(when string) {
		t.Helper()
		r := proxytest.Deliver(f.dial(), inClear)
		said := ""
		for _, line := range r.Transcript {
			said += line.Text + "\n"
		}
		if r.Accepted(inClear) || !strings.Contains(said, "451 4.7.5 ") || !strings.Contains(said, "offered TLS 1.0, which is below TLS 1.2 (client-tls-too-low)") {
			t.Errorf("%s: %v", when, r.Transcript)
		}
	}
	refused("after the handshake")
	if err := f.server.Reload(f.config, f.log.logger()); err != nil {
		t.Fatal(err)
	}
	refused("after a reload")
	good := proxytest.Delivery{STARTTLS: proxytest.AlwaysTLS, TLS: &tls.Config{InsecureSkipVerify: true}, Mails: []proxytest.Mail{mail("good\r\n")}}
	for _, d := range []proxytest.Delivery{good, inClear} {
		if r := proxytest.Deliver(f.dial(), d); !r.Accepted(d) {
			t.Errorf("after a success: %v", r.Transcript)
		}
	}
	f.shutdown()
}
