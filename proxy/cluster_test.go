package proxy_test

import (
	"crypto/tls"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"postern/enforce"
	"postern/enforce/cluster"
	"postern/proxy"
	"postern/proxy/proxytest"
	"postern/proxy/proxytest/redislab"
)

// sharing starts a gateway with a server, before the same destination as another if
// that is given.
func sharing(t *testing.T, s *redislab.Server, beside *front) *front {
	t.Helper()
	address, err := cluster.ParseAddress("redis://:sesame@" + s.Address)
	if err != nil {
		t.Fatal(err)
	}
	return newFront(t, "modern", func(c *proxy.Config) {
		c.TLS.Hold, c.TLS.HoldFor = time.Hour, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		c.Memory = proxy.Memory{Server: address, Downgrade: "block", Remember: 24 * time.Hour}
		if beside != nil {
			c.Listen.Upstream = beside.config.Listen.Upstream
			return
		}
		c.Rules = []enforce.Rule{{Name: "partner", ToNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, TLS: enforce.Forced,
			Verify: enforce.VerifyName, Names: []string{"mx.test"}}}
	})
}

var inClear = proxytest.Delivery{Mails: []proxytest.Mail{mail("in clear\r\n")}}

func TestGatewaysThatShareAServerHoldTheSameClientsAndKnowTheSameServers(t *testing.T) {
	s := redislab.Start(t, "--requirepass", "sesame")
	a := sharing(t, s, nil)
	b := sharing(t, s, a)
	through := func(f *front, d proxytest.Delivery, accepted bool) bool {
		return proxytest.Deliver(f.dial(), d).Accepted(d) == accepted
	}
	soon := func(what string, is func() bool) {
		t.Helper()
		for began := time.Now(); !is(); time.Sleep(50 * time.Millisecond) {
			if time.Since(began) > 5*time.Second {
				t.Fatal(what)
			}
		}
	}
	old := proxytest.Delivery{STARTTLS: proxytest.AlwaysTLS, Mails: []proxytest.Mail{mail("too old\r\n")},
		TLS: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}}
	if !through(a, old, false) {
		t.Fatal("TLS 1.0 was accepted")
	}
	soon("the other gateway does not hold the client", func() bool { return through(b, inClear, false) })
	good := proxytest.Delivery{STARTTLS: proxytest.AlwaysTLS, TLS: &tls.Config{InsecureSkipVerify: true}, Mails: []proxytest.Mail{mail("good\r\n")}}
	if !through(b, good, true) {
		t.Fatal("not cleared")
	}
	soon("the first gateway still holds it", func() bool { return through(a, inClear, true) })

	s.Hang() // and sessions don't mind
	began := time.Now()
	if !through(a, good, true) || time.Since(began) > time.Second {
		t.Errorf("a session took %s", time.Since(began))
	}
	time.Sleep(3 * time.Second)

	// Who has no TLS any more was verified to have had it by the other gateway alone.
	a.to.Close()
	at, err := net.Listen("tcp", a.config.Listen.Upstream)
	if err != nil {
		t.Fatal(err)
	}
	stripped := proxytest.Serve(at, proxytest.ServerConfig{Name: "mx.test"})
	defer stripped.Close()
	s.Resume()
	soon("b lets mail go in clear to whom a saw with TLS", func() bool { return through(b, inClear, false) })
	soon("it is refused for another reason", func() bool { return strings.Contains(b.log.String(), "starttls-stripped") })
	for _, f := range []*front{a, b} {
		soon("it is not told", func() bool { return strings.Count(f.log.String(), "the shared memory is there again") == 1 })
		if n := strings.Count(f.log.String(), "the shared memory has a fault"); n != 1 || strings.Contains(f.log.String(), "sesame") {
			t.Errorf("%d warnings: %s", n, f.log)
		}
	}
}

func TestAServerThatIsNotThereKeepsNoGatewayFromStarting(t *testing.T) {
	s := redislab.Start(t)
	s.Hang()
	began := time.Now()
	f := sharing(t, s, nil)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	if r := proxytest.Deliver(f.dial(), inClear); !r.Accepted(inClear) {
		t.Errorf("%v", r.Transcript)
	}
	moved := f.config
	moved.Memory.Server, _ = cluster.ParseAddress("redis://elsewhere")
	if err := f.server.Reload(moved, f.log.logger()); err == nil || !strings.Contains(err.Error(), "memory.store") {
		t.Errorf("a reload moved it: %v", err)
	}
}
