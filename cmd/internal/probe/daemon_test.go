package probe

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"regexp"
	"testing"
	"time"

	"go.uber.org/zap"

	"postern/enforce"
	"postern/proxy"
	"postern/proxy/proxytest"
)

// through is what the daemon itself says to mail that goes through it to a server:
// "allow", or the codes and the reason of its refusal.
func through(t *testing.T, config proxy.Config, to netip.AddrPort) string {
	t.Helper()
	config.Listen.Upstream = to.String()
	server, err := proxy.NewServer(config, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	conn, err := net.Dial("tcp", server.Addresses()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	c := proxytest.NewClient(conn, 20*time.Second)
	defer c.Close()
	reply, err := c.ReadReply()
	for _, say := range []string{"EHLO probe.test", "MAIL FROM:<a@client.test>", "RCPT TO:<b@mx.test>"} {
		if err != nil || reply.Code >= 400 {
			break
		}
		reply, err = c.Command(say)
	}
	if err != nil {
		t.Fatalf("%v\n%v", err, c.Transcript())
	}
	if reply.Code < 400 {
		return "allow"
	}
	if m := said.FindStringSubmatch(reply.String()); m != nil {
		return m[1] + " " + m[2]
	}
	return reply.String()
}

var said = regexp.MustCompile(`(?s)(\d{3} \d\.\d\.\d+) .*\(([a-z-]+)\) \[`)

// of is a verdict as through gives it.
func of(v *Verdict) string {
	switch {
	case v == nil:
		return "none"
	case v.Reason == "":
		return v.Verdict
	}
	return v.Reply + " " + v.Reason
}

func TestTheVerdictIsWhatTheDaemonSays(t *testing.T) {
	forced := func(edit func(*enforce.Rule)) []enforce.Rule {
		r := enforce.Rule{Name: "one", TLS: enforce.Forced, Auto: true}
		if edit != nil {
			edit(&r)
		}
		return []enforce.Rule{r}
	}
	rules := map[string][]enforce.Rule{
		"built-in": nil,
		"forced":   forced(nil),
		"named": forced(func(r *enforce.Rule) {
			r.Verify, r.Names, r.OnViolation = enforce.VerifyName, []string{"mx.test"}, enforce.OnViolationReject
		}),
		"logged": forced(func(r *enforce.Rule) { r.MinVersion, r.OnViolation = tls.VersionTLS13, enforce.OnViolationLog }),
		"narrow": {{Name: "one", Auto: true, Ciphers: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA}}},
		"widened": {{Name: "one", Auto: true, Ciphers: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA},
			OnViolation: enforce.OnViolationLog, Owner: "x"}},
		"open":    {{Name: "one", Auto: true, OnHandshakeFailure: enforce.Cleartext}},
		"watched": {{Name: "one", Auto: true, Inspect: enforce.Watch, Owner: "x"}},
		"off":     {{Name: "one", Auto: true, TLS: enforce.Off, Owner: "x"}},
		"mail": forced(func(r *enforce.Rule) {
			r.ToDomains, r.Verify, r.Names = []string{"mx.test"}, enforce.VerifyName, []string{"elsewhere.invalid"}
		}),
	}
	refusals := 0
	for name, list := range rules {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			root, err := w.pki.WriteRoot(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			config := proxy.Config{
				Intercept: proxy.Intercept{Method: "none"},
				Listen:    proxy.Listen{Addresses: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}},
				TLS:       proxy.TLS{MinVersion: tls.VersionTLS12, TrustCA: root},
				Resolver:  proxy.Resolver{Servers: []netip.AddrPort{unused(t)}, TrustAD: "loopback"},
				Limits:    proxy.Limits{Sessions: 100, SessionsPerSource: 100, Recipients: 100, Line: 2048, ReplyLines: 100},
				Timeouts: proxy.Timeouts{Connect: 5 * time.Second, Handshake: time.Second, Command: 20 * time.Second,
					Data: 20 * time.Second, Final: 20 * time.Second, Drain: 20 * time.Second},
				Rules: list,
			}
			policy, faults := enforce.Compile(list, tls.VersionTLS12)
			if len(faults) > 0 {
				t.Fatal(faults)
			}
			outlook, err := proxy.NewOutlook(config)
			if err != nil {
				t.Fatal(err)
			}
			defer outlook.Close()
			w.Policy, w.Domain, w.Patience = policy, "mx.test", 2*time.Second
			w.Known = Knowledge{outlook.Resolver, outlook.Policies, outlook.Revoked, outlook.Verify, outlook.Revocation, outlook.Certificate}
			for _, temper := range []string{"modern", "tls13", "tls12", "tls10", "tls10-alert", "no-starttls", "wrong-name", "expired", "self-signed",
				"helo-only", "starttls-refused", "stalls-in-handshake", "injects"} {
				if temper == "stalls-in-handshake" && name != "open" {
					continue // it takes its time
				}
				at := w.serve(temper, nil)
				want, got := through(t, config, at), of(w.look(at).Hosts[0].Addresses[0].Verdict)
				if got != want {
					t.Errorf("%s: the verdict is %q, the daemon says %q", temper, got, want)
				}
				if want != "allow" {
					refusals++
				}
			}
		})
	}
	if refusals < 30 {
		t.Errorf("only %d refusals", refusals)
	}
}
