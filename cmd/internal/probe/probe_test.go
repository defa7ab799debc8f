package probe

import (
	"context"
	"crypto/x509"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"postern/enforce"
	"postern/enforce/mtasts"
	"postern/enforce/resolver"
	"postern/enforce/revocation"
	"postern/proxy/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A world is whom a test trusts and asks.
type world struct {
	t   *testing.T
	pki *proxytest.PKI
	Options
}

// newWorld trusts an authority of its own, asks a DNS server that is not there, and
// judges by rules.
func newWorld(t *testing.T, rules ...enforce.Rule) *world {
	t.Helper()
	pki, err := proxytest.NewPKI("probe")
	if err != nil {
		t.Fatal(err)
	}
	policy, faults := enforce.Compile(rules, 0x0303)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	w := &world{t: t, pki: pki}
	w.Helo, w.Policy = "probe.test", policy
	w.dns(unused(t))
	revoked := revocation.New(revocation.Options{})
	t.Cleanup(revoked.Close)
	w.Known.Revoked = revoked
	w.Known.Revocation = func(ctx context.Context, built []*x509.Certificate, staple []byte, now time.Time) (enforce.RevocationResult, revocation.Result) {
		r := revoked.Check(ctx, built, staple, now)
		return enforce.RevocationResult{State: enforce.RevocationState(r.State), Detail: r.Detail}, r
	}
	w.Known.Verify = func(ca string, chain []*x509.Certificate, now time.Time) (enforce.ChainResult, []*x509.Certificate) {
		if len(chain) == 0 || ca != "" {
			return enforce.ChainResult{Reason: enforce.CertNotTrusted}, nil
		}
		options := x509.VerifyOptions{Roots: pki.Pool(), Intermediates: x509.NewCertPool(), CurrentTime: now}
		for _, c := range chain[1:] {
			options.Intermediates.AddCert(c)
		}
		built, err := chain[0].Verify(options)
		if err != nil {
			return enforce.ChainResult{Reason: enforce.CertNotTrusted, Detail: err.Error()}, nil
		}
		return enforce.ChainResult{Verified: true}, built[0]
	}
	return w
}

// dns has a DNS server asked, whose word for DNSSEC is taken.
func (w *world) dns(server netip.AddrPort) {
	w.Known.Resolver = resolver.New(resolver.Options{Servers: []netip.AddrPort{server}, Timeout: 5 * time.Second})
	policies, err := mtasts.New(mtasts.Options{
		TXT: func(ctx context.Context, name string) ([]string, error) {
			txt, err := w.Known.Resolver.TXT(ctx, name)
			return txt.Records, err
		},
		Dial: func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = policies.Close() })
	w.Known.Policies = policies
}

// unused is an address on loopback where nobody listens.
func unused(t *testing.T) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// look probes one server.
func (w *world) look(at netip.AddrPort) *Report {
	w.t.Helper()
	w.Address, w.Port = at.Addr(), at.Port()
	return w.run()
}

func (w *world) run() *Report {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 50*time.Second)
	defer cancel()
	r, err := Run(ctx, w.Options)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// serve runs a server of a temper.
func (w *world) serve(name string, change func(*proxytest.ServerConfig)) netip.AddrPort {
	w.t.Helper()
	temper, err := proxytest.TemperNamed(name)
	if err != nil {
		w.t.Fatal(err)
	}
	config, err := temper.Config(w.pki, "mx.test")
	if err != nil {
		w.t.Fatal(err)
	}
	if change != nil {
		change(&config)
	}
	return w.listen(config)
}

func (w *world) listen(config proxytest.ServerConfig) netip.AddrPort {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	s := proxytest.Serve(l, config)
	w.t.Cleanup(func() { _ = s.Close() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// by gives the names of those tries that had a result.
func by(result string, tries []Try) string {
	var names []string
	for _, t := range tries {
		if t.Result == result {
			names = append(names, t.Name)
		}
	}
	return strings.Join(names, " ")
}

func TestWhatOpenSSLWasLimitedToIsFoundAndNoMore(t *testing.T) {
	w := newWorld(t)
	rs, err := w.pki.Issue(proxytest.Leaf{Names: []string{"mx.test"}, RSA: true})
	if err != nil {
		t.Fatal(err)
	}
	cert, key := pemFiles(t, rs)
	for _, c := range []struct {
		name                              string
		args                              []string
		versions, suites, suite13, groups string
	}{
		{"TLS 1.2 with four suites, of which one cannot be spoken here", []string{"-tls1_2", "-groups", "P-384:X25519",
			"-cipher", "ECDHE-RSA-CHACHA20-POLY1305:ECDHE-RSA-AES128-SHA256:AES256-SHA:DHE-RSA-AES128-GCM-SHA256"},
			"TLS 1.2", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 TLS_RSA_WITH_AES_256_CBC_SHA TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", "",
			"x25519 secp384r1"},
		{"TLS 1.3 with one of each", []string{"-tls1_3", "-groups", "P-521", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"},
			"TLS 1.3", "", "TLS_CHACHA20_POLY1305_SHA256", "secp521r1"},
		{"TLS 1.0 and 1.1", []string{"-no_tls1_2", "-no_tls1_3", "-cipher", "AES128-SHA:@SECLEVEL=0"}, "TLS 1.0 TLS 1.1", "", "", ""},
		{"all", []string{"-cipher", "AES128-SHA:ECDHE-RSA-RC4-SHA:ECDHE-RSA-AES256-GCM-SHA384:@SECLEVEL=0", "-groups", "P-256"}, "TLS 1.0 TLS 1.1 TLS 1.2 TLS 1.3",
			"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 TLS_RSA_WITH_AES_128_CBC_SHA", "TLS_AES_128_GCM_SHA256", "secp256r1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			back := openssl(t, append([]string{"s_server", "-accept", "127.0.0.1:0", "-rev", "-cert", cert, "-cert_chain", cert, "-key", key}, c.args...)...)
			a := w.look(front(t, back)).Hosts[0].Addresses[0]
			slices.Sort(a.Suites.TLS12)
			want := strings.Fields(c.suites)
			slices.Sort(want)
			for _, d := range []string{
				cmp.Diff(c.versions, by(accepted, a.Versions)), cmp.Diff(want, a.Suites.TLS12, equal),
				cmp.Diff(c.suite13, strings.Join(a.Suites.TLS13, " ")), cmp.Diff(c.groups, by(accepted, a.Groups)),
				cmp.Diff("", by(unknown, slices.Concat(a.Versions, a.Groups))), cmp.Diff(true, a.Suites.Complete),
			} {
				if d != "" {
					t.Errorf("%s\n%+v %+v", d, a.Versions, a.Session)
				}
			}
			if a.Chain == nil || !a.Chain.Verified || a.Chain.Leaf.Key != "RSA 2048" {
				t.Errorf("chain %+v", a.Chain)
			}
		})
	}
}

// equal has no list equal an empty one.
var equal = cmp.Transformer("list", func(l []string) string { return strings.Join(l, " ") })
