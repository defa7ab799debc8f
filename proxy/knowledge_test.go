package proxy_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"postern/enforce"
	"postern/proxy"
	"postern/proxy/proxytest"
	"postern/proxy/proxytest/dnslab"
)

func TestAReloadAsksTheResolverThatIsNamedThen(t *testing.T) {
	lab := dnslab.Start(t, dnslab.Zone{Name: "partner.example", Signed: true, Records: []string{"@ MX 10 mx", "mx A 192.0.2.1",
		"_25._tcp.mx TLSA 3 1 1 " + strings.Repeat("ab", 32)}})
	f := newFront(t, "self-signed", nil)
	try := func() int {
		t.Helper()
		c := proxytest.NewClient(f.dial(), 30*time.Second)
		defer c.Close()
		c.ReadReply()
		if reply, err := c.Hello("EHLO", "client.test"); err != nil || !reply.OK() {
			t.Fatalf("%v %v", reply, err)
		}
		if reply, err := c.Command("MAIL FROM:<a@x.example>"); err != nil || !reply.OK() {
			t.Fatalf("%v %v", reply, err)
		}
		reply, err := c.Command("RCPT TO:<b@partner.example>")
		if err != nil {
			t.Fatal(err)
		}
		return reply.Code
	}
	asking := func(at netip.AddrPort, trust string) proxy.Config {
		c := f.config
		c.Verify.Auto = enforce.Auto{DANE: true}
		c.Resolver = proxy.Resolver{Servers: []netip.AddrPort{at}, TrustAD: trust}
		// The port that the front's server has is another than that of the records.
		c.Rules = []enforce.Rule{{Name: "dane", ToDomains: []string{"partner.example"}, TLS: enforce.Forced, Verify: enforce.VerifyDANE, Auto: true}}
		return c
	}
	for _, step := range []struct {
		name   string
		config proxy.Config
		want   int
	}{
		{"nobody there", asking(netip.MustParseAddrPort("127.0.0.1:1"), "loopback"), 451},
		{"one there", asking(lab.Resolver(), "loopback"), 451},
		{"as it was", f.config, 250},
	} {
		if err := f.server.Reload(step.config, f.log.logger()); err != nil {
			t.Fatal(err)
		}
		if got := try(); got != step.want {
			t.Errorf("%s: %d", step.name, got)
		}
	}
	var reasons []string
	f.shutdown()
	for _, r := range f.log.sessions(t) {
		if reason, _ := r["reason"].(string); reason != "" {
			reasons = append(reasons, reason)
		}
	}
	if got := strings.Join(reasons, " "); got != "dnssec-bogus dane-required" {
		t.Errorf("by the resolver that was named: %s", got)
	}
}

func TestWhatIsKeptOnDiskCannotMoveByAReload(t *testing.T) {
	f := newFront(t, "self-signed", nil)
	for key, edit := range map[string]func(*proxy.Config){
		"memory.store": func(c *proxy.Config) { c.Memory.Store = "/elsewhere/memory.db" },
		"verify.cache": func(c *proxy.Config) { c.Verify.Cache = "/elsewhere/policies" },
	} {
		moved := f.config
		edit(&moved)
		if err := f.server.Reload(moved, f.log.logger()); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
}
