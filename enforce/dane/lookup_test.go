package dane

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"postern/enforce/resolver"
	"postern/proxy/proxytest/dnslab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	goodTLSA = "TLSA 3 1 1 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	pkixTLSA = "TLSA 1 1 1 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
)

var longLabels = strings.Repeat(strings.Repeat("l", 60)+".", 3) + strings.Repeat("l", 50)

// The domains of the lab; what each name is for stands in the test below.
var domains = []dnslab.Zone{
	{Name: "signed.test", Signed: true, Records: []string{
		"mx A 192.0.2.1", "mx AAAA 2001:db8::1", "_25._tcp.mx " + goodTLSA, "_25._tcp.mx " + pkixTLSA, "_465._tcp.mx " + pkixTLSA,
		"bare A 192.0.2.1", "unusable A 192.0.2.1", "_25._tcp.unusable " + pkixTLSA, "_25._tcp.unusable TLSA 3 1 1 aaaa",
		"nowhere TXT x", "_25._tcp.nowhere " + goodTLSA,
		"pointed A 192.0.2.1", "_25._tcp.pointed CNAME _25._tcp.mx", "outside A 192.0.2.1", "_25._tcp.outside CNAME _25._tcp.mx.plain.test.",
		"both CNAME mx", "_25._tcp.both " + pkixTLSA, "own CNAME bare", "_25._tcp.own " + goodTLSA, "neither CNAME bare",
		"away CNAME mx.plain.test.", "_25._tcp.away " + goodTLSA, "awaybare CNAME mx.plain.test.", "broken CNAME mx.bogus.test.", "_25._tcp.broken " + goodTLSA,
		"away2 CNAME away3", "_25._tcp.away2 " + goodTLSA, "away3 CNAME mx.plain.test.",
		"lame A 192.0.2.1", "_25._tcp.lame CNAME x.bogus.test.", "dangling CNAME none", "_25._tcp.dangling " + goodTLSA,
		longLabels + " A 192.0.2.1", "implicit A 192.0.2.1", "_25._tcp.implicit " + goodTLSA,
	}},
	{Name: "plain.test", Records: []string{"mx A 192.0.2.1", "_25._tcp.mx " + goodTLSA, "in CNAME mx.signed.test.", "_25._tcp.in " + goodTLSA}},
	{Name: "bogus.test", Bogus: true, Records: []string{"mx A 192.0.2.1", "_25._tcp.mx " + goodTLSA}},
}

func secureMX(hosts ...string) resolver.MX {
	mx := resolver.MX{Secure: true, Expires: time.Now().Add(time.Hour)}
	for i, h := range hosts {
		mx.Hosts = append(mx.Hosts, resolver.MXHost{Name: h, Preference: uint16(i)})
	}
	return mx
}

func TestWhereTheRecordsOfAHostAreFound(t *testing.T) {
	lab := dnslab.Start(t, domains...)
	r := resolver.New(resolver.Options{Servers: []netip.AddrPort{lab.Resolver()}, Timeout: 20 * time.Second})
	cases := []struct {
		host    string
		state   State
		base    string // empty: the host
		records int
		detail  string
	}{
		{"mx.signed.test", Usable, "", 2, ""},
		{"bare.signed.test", None, "", 0, "there are no TLSA records that DNSSEC secures"},
		{"unusable.signed.test", Unusable, "", 2, "none of its TLSA records can be used"},
		{"nowhere.signed.test", None, "", 0, "it has no address"},
		{"none.signed.test", None, "", 0, "it has no address"},
		{"pointed.signed.test", Usable, "", 2, ""},
		{"outside.signed.test", None, "", 0, "there are no TLSA records that DNSSEC secures"},
		{"both.signed.test", Usable, "mx.signed.test", 2, ""},
		{"own.signed.test", Usable, "", 1, ""},
		{"neither.signed.test", None, "", 0, "there are no TLSA records that DNSSEC secures"},
		{"away.signed.test", Usable, "", 1, ""},
		{"away2.signed.test", Usable, "", 1, ""},
		{"awaybare.signed.test", None, "", 0, "there are no TLSA records that DNSSEC secures"},
		{"dangling.signed.test", None, "", 0, "it has no address"},
		{"broken.signed.test", Failed, "", 0, "its addresses cannot be looked up: dns: the server failed: SERVFAIL"},
		{"lame.signed.test", Failed, "", 0, "its TLSA records cannot be looked up: dns: the server failed: SERVFAIL"},
		{longLabels + ".signed.test", None, "", 0, "there are no TLSA records that DNSSEC secures"},
		{"mx.plain.test", None, "", 0, "DNSSEC does not secure its addresses"},
		{"in.plain.test", None, "", 0, "DNSSEC does not secure its addresses"},
		{"mx.bogus.test", Failed, "", 0, "its addresses cannot be looked up: dns: the server failed: SERVFAIL"},
	}
	for chunk := range slices.Chunk(cases, MostHosts) {
		var names []string
		for _, c := range chunk {
			names = append(names, c.host)
		}
		for i, h := range Lookup(t.Context(), r, "signed.test", secureMX(names...), 25) {
			want := chunk[i]
			base := want.base
			if base == "" && want.records > 0 {
				base = want.host
			}
			if h.Name != want.host || h.State != want.state || h.Base != base || len(h.Records) != want.records || !strings.HasPrefix(h.Detail, want.detail) ||
				want.detail == "" && h.Detail != "" {
				t.Errorf("%s: %+v", want.host, h)
			}
			if fresh := time.Now().Before(h.Expires); fresh == (h.State == Failed) || time.Until(h.Expires) > 61*time.Second {
				t.Errorf("%s: expires in %v", want.host, time.Until(h.Expires))
			}
		}
	}
	others(t, r)
}

// others are the cases of which the hosts are not the point.
func others(t *testing.T, r *resolver.Resolver) {
	one := func(domain string, mx resolver.MX, port uint16) Host {
		return Lookup(t.Context(), r, domain, mx, port)[0]
	}
	insecure := secureMX("mx.signed.test")
	insecure.Secure = false
	if h := one("example.org", insecure, 25); h.State != None || h.Detail != "DNSSEC does not secure the MX records" || slices.Contains(h.Names, "example.org") {
		t.Errorf("behind insecure MX records: %+v", h)
	}
	if h := one("signed.test", secureMX("mx.signed.test"), 465); h.State != Unusable {
		t.Errorf("at another port: %+v", h)
	}
	for host, want := range map[string][]string{
		"mx.signed.test":   {"mx.signed.test", "example.org"},
		"both.signed.test": {"mx.signed.test", "both.signed.test", "example.org"},
		"away.signed.test": {"away.signed.test", "example.org"},
	} {
		if h := one("example.org", secureMX(host), 25); !slices.Equal(h.Names, want) {
			t.Errorf("%s: names %v, want %v", host, h.Names, want)
		}
	}
	mx, err := r.MX(t.Context(), "implicit.signed.test")
	if err != nil {
		t.Fatal(err)
	}
	if h := one("implicit.signed.test", mx, 25); h.State != Usable || !slices.Equal(h.Names, []string{"implicit.signed.test"}) {
		t.Errorf("without an MX record: %+v", h)
	}
	var many []string
	for i := range MostHosts {
		many = append(many, fmt.Sprintf("h%d.signed.test", i))
	}
	hosts := Lookup(t.Context(), r, "signed.test", secureMX(append(many, "mx.signed.test")...), 25)
	if last := hosts[MostHosts]; len(hosts) != MostHosts+1 || last.State != None || !strings.HasPrefix(last.Detail, "not looked up") {
		t.Errorf("%+v", last)
	}
	if hosts := Lookup(t.Context(), r, "signed.test", secureMX(), 25); len(hosts) != 0 {
		t.Errorf("%+v", hosts)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if h := Lookup(ended, r, "signed.test", secureMX("late.signed.test"), 25)[0]; h.State != Failed {
		t.Errorf("after its time: %+v", h)
	}
	// Its questions are on their way for who asks later.
	if h := one("signed.test", secureMX("late.signed.test"), 25); h.State != None {
		t.Errorf("later: %+v", h)
	}
}

func TestWithoutAResolverHostsAreUnavailable(t *testing.T) {
	lab := dnslab.Start(t, domains[0])
	lab.StopResolver()
	r := resolver.New(resolver.Options{Servers: []netip.AddrPort{lab.Resolver()}})
	h := Lookup(t.Context(), r, "signed.test", secureMX("mx.signed.test"), 25)[0]
	if h.State != Unavailable || h.Detail == "" || h.State.String() != "unavailable" {
		t.Errorf("%+v", h)
	}
}

func TestOfAResolverThatIsNotBelievedNothingBinds(t *testing.T) {
	lab := dnslab.Start(t, domains[0])
	r := resolver.New(resolver.Options{Servers: []netip.AddrPort{lab.Resolver()}, TrustAD: resolver.TrustNever})
	if h := Lookup(t.Context(), r, "signed.test", secureMX("mx.signed.test"), 25)[0]; h.State != None {
		t.Errorf("%+v", h)
	}
}
