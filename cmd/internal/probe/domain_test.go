package probe

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/enforce"
	"postern/enforce/mtasts"
	"postern/enforce/resolver"
	"postern/proxy/proxytest"
	"postern/proxy/proxytest/dnslab"
)

// A street is a host and a port that several addresses of loopback share, as port 25
// is shared in the world.
func (w *world) street(servers map[string]proxytest.ServerConfig) uint16 {
	w.t.Helper()
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			w.t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		l.Close()
		var all []net.Listener
		for address := range servers {
			l, err := net.Listen("tcp", net.JoinHostPort(address, port))
			if err != nil {
				break
			}
			all = append(all, l)
		}
		if len(all) < len(servers) {
			for _, l := range all {
				l.Close()
			}
			continue
		}
		for _, l := range all {
			address, _, _ := net.SplitHostPort(l.Addr().String())
			s := proxytest.Serve(l, servers[address])
			w.t.Cleanup(func() { _ = s.Close() })
		}
		return netip.MustParseAddrPort(all[0].Addr().String()).Port()
	}
	w.t.Fatal("no port is free at all addresses")
	return 0
}

// policies has those of domains fetched from a web server on loopback.
func (w *world) policies(texts map[string]string) {
	w.t.Helper()
	var names []string
	for domain := range texts {
		names = append(names, "mta-sts."+domain)
	}
	cert, err := w.pki.Issue(proxytest.Leaf{Names: names})
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		w.t.Fatal(err)
	}
	web := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "text/plain")
		fmt.Fprint(rw, texts[strings.TrimPrefix(r.Host, "mta-sts.")])
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = web.Serve(l) })
	w.t.Cleanup(func() { _ = web.Close(); serving.Wait() })
	cache, err := mtasts.New(mtasts.Options{
		Roots: w.pki.Pool(),
		TXT: func(ctx context.Context, name string) ([]string, error) {
			txt, err := w.Known.Resolver.TXT(ctx, name)
			return txt.Records, err
		},
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, l.Addr().String())
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = cache.Close() })
	w.Known.Policies = cache
}

// server is one with a certificate for a name.
func (w *world) server(name string) (proxytest.ServerConfig, tls.Certificate) {
	w.t.Helper()
	cert, err := w.pki.Issue(proxytest.Leaf{Names: []string{name}})
	if err != nil {
		w.t.Fatal(err)
	}
	return proxytest.ServerConfig{Name: name, TLS: &tls.Config{Certificates: []tls.Certificate{cert}}}, cert
}

func tlsa(port uint16, host string, c tls.Certificate) string {
	sum := sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo)
	return fmt.Sprintf("_%d._tcp.%s TLSA 3 1 1 %s", port, host, hex.EncodeToString(sum[:]))
}

func TestADomainIsLookedAtHostByHostAndHeldToWhatItPublishes(t *testing.T) {
	w := newWorld(t)
	good, goodCert := w.server("a.dane.example")
	other, _ := w.server("b.dane.example")
	sts, _ := w.server("mx.sts.example")
	stray, _ := w.server("mx.other.sts.example")
	lonely, _ := w.server("alone.example")
	clear := proxytest.ServerConfig{Name: "c.dane.example"}
	port := w.street(map[string]proxytest.ServerConfig{"127.9.1.1": good, "127.9.1.2": other, "127.9.1.3": sts, "127.9.1.4": lonely, "127.9.1.5": clear, "127.9.1.8": stray})
	foreign := strings.Repeat("ab", 32)
	lab := dnslab.Start(t,
		dnslab.Zone{Name: "dane.example", Signed: true, Records: []string{
			"@ MX 10 a", "@ MX 20 b", "@ MX 30 gone", "@ MX 40 c", "a A 127.9.1.1", "b A 127.9.1.2", "c A 127.9.1.5",
			tlsa(port, "a", goodCert), fmt.Sprintf("_%d._tcp.b TLSA 3 1 1 %s", port, foreign)}},
		dnslab.Zone{Name: "sts.example", Records: []string{
			"@ MX 5 mx", "@ MX 9 mx.other.sts.example.", "mx A 127.9.1.3", "mx.other A 127.9.1.8", `_mta-sts TXT "v=STSv1; id=1"`}},
		dnslab.Zone{Name: "alone.example", Records: []string{"@ A 127.9.1.4"}},
		dnslab.Zone{Name: "null.example", Records: []string{"@ MX 0 ."}},
		dnslab.Zone{Name: "bogus.example", Bogus: true, Records: []string{"@ MX 5 mx", "mx A 127.9.1.4"}},
		dnslab.Zone{Name: "empty.example"},
	)
	w.Known.Resolver = resolver.New(resolver.Options{Servers: []netip.AddrPort{lab.Resolver()}, TrustAD: resolver.TrustLoopback})
	w.policies(map[string]string{"sts.example": "version: STSv1\nmode: enforce\nmx: mx.sts.example\nmax_age: 86400\n"})
	w.Policy = w.Policy.Verifying(enforce.Verification{Auto: enforce.Auto{DANE: true, MTASTS: true}})
	w.Port = port

	for _, c := range []struct{ domain, want string }{
		{"dane.example", `domain dane.example, mx found true, reached 3, refused 2, fine false
a.dane.example: dane usable, 1 record
 127.9.1.1 TLS 1.3: dane matched, name true, verdict allow
b.dane.example: dane usable, 1 record
 127.9.1.2 TLS 1.3: dane mismatch, name true, verdict 451 4.7.5 dane-mismatch
gone.dane.example: it has no address
c.dane.example: dane none
 127.9.1.5 none: dane none, verdict 451 4.7.4 starttls-not-offered
`},
		{"sts.example", `domain sts.example, mx found false, reached 2, refused 1, fine false
mta-sts found enforce mx.sts.example
mx.sts.example: dane none, mta-sts true
 127.9.1.3 TLS 1.3: dane none, mta-sts matched, name true, verdict allow
mx.other.sts.example: dane none, mta-sts false
 127.9.1.8 TLS 1.3: dane none, mta-sts mismatch, name true, verdict 451 4.7.5 mta-sts-mx-mismatch
`},
		{"alone.example", `domain alone.example, mx implicit false, reached 1, refused 0, fine true
alone.example: dane none
 127.9.1.4 TLS 1.3: dane none, name true, verdict allow
`},
		{"null.example", "domain null.example, mx null false, reached 0, refused 0, fine false\n"},
		{"bogus.example", "domain bogus.example, mx failed false, reached 0, refused 0, fine false\n"},
		{"empty.example", "domain empty.example, mx none false, reached 0, refused 0, fine false\n"},
	} {
		w.Domain, w.Host = c.domain, ""
		finished := 0
		w.Finished = func(string, *Address) { finished++ }
		if got := inWords(w.run()); got != c.want {
			t.Errorf("%s:\n%s\nexpected\n%s", c.domain, got, c.want)
		}
		if want := strings.Count(c.want, "\n 127."); finished != want {
			t.Errorf("%s: told of %d addresses, not of %d", c.domain, finished, want)
		}
	}
	// One host, and the domain that it is held against: its own records count as its
	// own, and the domain's decide.
	w.Domain, w.Host = "dane.example", "b.dane.example"
	if got := inWords(w.run()); !strings.Contains(got, "dane mismatch, name true, verdict 451 4.7.5 dane-mismatch") {
		t.Error(got)
	}
	w.Domain = ""
	if r := w.run(); !r.Fine || r.Hosts[0].Addresses[0].DANE.State != "mismatch" || len(r.Notes) != 1 {
		t.Error(inWords(r))
	}
	lab.StopResolver()
	w.Known.Resolver = resolver.New(resolver.Options{Servers: []netip.AddrPort{lab.Resolver()}})
	w.Domain, w.Host = "alone.example", ""
	if r := w.run(); r.Fine || r.MX.State != "failed" || !strings.Contains(r.MX.Detail, resolver.ErrUnavailable.Error()) {
		t.Errorf("%+v", r.MX)
	}
}

// inWords gives what is the same at each run.
func inWords(r *Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s, mx ", r.Kind, r.Target)
	if r.MX != nil {
		fmt.Fprintf(&b, "%s %v, ", r.MX.State, r.MX.Secure)
	}
	fmt.Fprintf(&b, "reached %d, refused %d, fine %v\n", r.Reached, r.Refused, r.Fine)
	if r.MTASTS != nil && r.MTASTS.State != "none" && r.MTASTS.State != "fetch failed" {
		fmt.Fprintf(&b, "mta-sts %s %s %s\n", r.MTASTS.State, r.MTASTS.Mode, strings.Join(r.MTASTS.MX, " "))
	}
	for _, h := range r.Hosts {
		fmt.Fprintf(&b, "%s: %s", h.Name, h.Detail)
		if h.DANE != nil && len(h.Addresses) > 0 {
			fmt.Fprintf(&b, "dane %s", h.DANE.State)
			if n := len(h.DANE.Records); n > 0 {
				fmt.Fprintf(&b, ", %d record", n)
			}
		}
		if h.MTASTS != nil {
			fmt.Fprintf(&b, ", mta-sts %v", *h.MTASTS)
		}
		b.WriteString("\n")
		for _, a := range h.Addresses {
			at, _, _ := strings.Cut(a.Address, ":")
			version := "none"
			if a.Session != nil {
				version = a.Session.Version
			}
			fmt.Fprintf(&b, " %s %s: dane %s, ", at, version, a.DANE.State)
			if a.MTASTS != nil {
				fmt.Fprintf(&b, "mta-sts %s, ", a.MTASTS.State)
			}
			if a.Chain != nil && a.Chain.NameMatches != nil {
				fmt.Fprintf(&b, "name %v, ", *a.Chain.NameMatches)
			}
			fmt.Fprintf(&b, "verdict %s\n", of(a.Verdict))
		}
	}
	return b.String()
}

func TestRulesForTheMXHostsOfADomainBindAsTheyWouldInTheDaemon(t *testing.T) {
	w := newWorld(t, enforce.Rule{Name: "partner", ToMXOf: []string{"partner.example"}, TLS: enforce.Forced, Auto: true,
		OnViolation: enforce.OnViolationReject})
	port := w.street(map[string]proxytest.ServerConfig{"127.9.1.6": {Name: "mx.partner.example"}})
	lab := dnslab.Start(t, dnslab.Zone{Name: "partner.example", Records: []string{"@ MX 5 mx", "mx A 127.9.1.6"}})
	w.Known.Resolver = resolver.New(resolver.Options{Servers: []netip.AddrPort{lab.Resolver()}})
	w.Port, w.Address = port, netip.MustParseAddr("127.9.1.6")
	a := w.run().Hosts[0].Addresses[0]
	if a.Verdict.Rule != "partner" || of(a.Verdict) != "554 5.7.4 starttls-not-offered" {
		t.Errorf("%+v", a.Verdict)
	}
}

func TestAnInterruptedRunDoesNotTakeIgnoranceForARefusal(t *testing.T) {
	w := newWorld(t)
	port := w.street(map[string]proxytest.ServerConfig{"127.9.1.7": {Name: "mx.slow.example"}})
	lab := dnslab.Start(t, dnslab.Zone{Name: "slow.example", Dead: true})
	w.Known.Resolver = resolver.New(resolver.Options{Servers: []netip.AddrPort{lab.Resolver()}})
	w.Policy = w.Policy.Verifying(enforce.Verification{Auto: enforce.Auto{DANE: true, MTASTS: true}})
	w.Port, w.Address, w.Domain = port, netip.MustParseAddr("127.9.1.7"), "slow.example"
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	r, err := Run(ctx, w.Options)
	if err != nil || !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if v := r.Hosts[0].Addresses[0].Verdict; v.Verdict != unknown || v.Reason != "" || r.Refused != 0 || r.Unknown != 1 || r.Fine {
		t.Errorf("%+v %+v", v, r)
	}
}
