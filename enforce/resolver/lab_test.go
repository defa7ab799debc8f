package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"postern/proxy/proxytest/dnslab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var world = []dnslab.Zone{
	{Name: "signed.test", Signed: true, Records: append([]string{
		"@ MX 20 mx2", "@ MX 10 MX1", "@ MX 30 mx1", `@ MX 40 we\ ird`,
		"mx1 A 192.0.2.1", "mx1 AAAA 2001:db8::1", "mx2 A 192.0.2.2",
		"_25._tcp.mx1 TLSA 3 1 1 " + strings.Repeat("ab", 32), "_25._tcp.mx1 TLSA 2 0 2 " + strings.Repeat("cd", 64),
		`text TXT "a \"quoted\" \\ word" " and \007\255 more"`, `text TXT "second"`,
		"alias CNAME chain", "chain CNAME mx1", "away CNAME mx.plain.test.", "lost CNAME nowhere",
		"null MX 0 .", "implicit A 192.0.2.3", "nothing TXT x", "short 1 A 192.0.2.9",
	}, many("big TXT", 100)...)},
	{Name: "plain.test", Records: []string{"@ MX 10 mx", "mx A 192.0.2.4", "null MX 0 .", "toalias CNAME mx1.signed.test."}},
	{Name: "bogus.test", Bogus: true, Records: []string{"@ MX 10 mx", "mx A 192.0.2.5"}},
	{Name: "dead.test", Dead: true},
}

// many are records that do not fit a datagram.
func many(head string, n int) []string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("%s %q", head, fmt.Sprint(i, strings.Repeat("x", 200))))
	}
	return all
}

func TestAnswersOfARealResolver(t *testing.T) {
	lab := dnslab.Start(t, world...)
	r := New(Options{Servers: []netip.AddrPort{lab.Resolver()}, Timeout: 20 * time.Second})
	t.Run("MX", func(t *testing.T) { answersMX(t, r) })
	t.Run("Addresses", func(t *testing.T) { answersAddresses(t, r) })
	t.Run("Records", func(t *testing.T) { answersRecords(t, r) })
	t.Run("Dead", func(t *testing.T) {
		short := New(Options{Servers: []netip.AddrPort{lab.Resolver()}, Timeout: 300 * time.Millisecond})
		if _, err := short.MX(t.Context(), "dead.test"); !errors.Is(err, ErrTimeout) && !errors.Is(err, ErrFailed) {
			t.Error(err)
		}
	})
}

func answersMX(t *testing.T, r *Resolver) {
	for _, tc := range []struct {
		domain         string
		hosts          string
		secure, null   bool
		implicit       bool
		failure        error
		atLeast, atMax time.Duration
	}{
		{domain: "signed.test", hosts: "mx1 10, mx2 20", secure: true},
		{domain: "plain.test", hosts: "mx.plain.test 10"},
		{domain: "null.signed.test", secure: true, null: true},
		{domain: "null.plain.test", null: true},
		{domain: "implicit.signed.test", hosts: "implicit 0", secure: true, implicit: true},
		{domain: "mx.plain.test", hosts: "mx.plain.test 0", implicit: true},
		{domain: "nothing.signed.test", secure: true},
		{domain: "none.signed.test", secure: true},
		{domain: "none.plain.test"},
		{domain: "example.org"},
		{domain: "bogus.test", failure: ErrFailed},
		{domain: "mx.bogus.test", failure: ErrFailed},
		{domain: "Capitals.test", failure: ErrFailed},
	} {
		mx, err := r.MX(t.Context(), tc.domain)
		var hosts []string
		for _, h := range mx.Hosts {
			hosts = append(hosts, fmt.Sprint(strings.TrimSuffix(h.Name, ".signed.test"), " ", h.Preference))
		}
		if !errors.Is(err, tc.failure) || strings.Join(hosts, ", ") != tc.hosts || mx.Secure != tc.secure || mx.Null != tc.null || mx.Implicit != tc.implicit {
			t.Errorf("%s: %+v, %v", tc.domain, mx, err)
		}
		if left := time.Until(mx.Expires); err == nil && (left < 0 || left > 61*time.Second) {
			t.Errorf("%s: expires in %v", tc.domain, left)
		}
	}
}

func answersAddresses(t *testing.T, r *Resolver) {
	for _, tc := range []struct {
		host, addrs, name string
		secure            bool
		failure           error
	}{
		{"mx1.signed.test", "192.0.2.1 2001:db8::1", "mx1.signed.test", true, nil},
		{"mx2.signed.test", "192.0.2.2", "mx2.signed.test", true, nil},
		{"alias.signed.test", "192.0.2.1 2001:db8::1", "mx1.signed.test", true, nil},
		{"away.signed.test", "192.0.2.4", "mx.plain.test", false, nil},
		{"toalias.plain.test", "192.0.2.1 2001:db8::1", "mx1.signed.test", false, nil},
		{"lost.signed.test", "", "nowhere.signed.test", true, nil},
		{"none.signed.test", "", "none.signed.test", true, nil},
		{"none.plain.test", "", "none.plain.test", false, nil},
		{"mx.bogus.test", "", "", false, ErrFailed},
	} {
		got, err := r.Addresses(t.Context(), tc.host)
		var addrs []string
		for _, a := range got.Addrs {
			addrs = append(addrs, a.String())
		}
		if !errors.Is(err, tc.failure) || strings.Join(addrs, " ") != tc.addrs || got.Secure != tc.secure || got.Name != tc.name ||
			err == nil && got.Aliased != (tc.name != tc.host) {
			t.Errorf("%s: %+v, %v", tc.host, got, err)
		}
	}
}

func answersRecords(t *testing.T, r *Resolver) {
	txt, err := r.TXT(t.Context(), "text.signed.test")
	slices.Sort(txt.Records)
	if want := []string{"a \"quoted\" \\ word and \x07\xff more", "second"}; err != nil || !txt.Secure || !slices.Equal(txt.Records, want) {
		t.Errorf("%+v, %v", txt, err)
	}
	if big, err := r.TXT(t.Context(), "big.signed.test"); err != nil || len(big.Records) != 100 || !big.Secure {
		t.Errorf("%d records that need TCP, %v", len(big.Records), err)
	}
	tlsa, err := r.TLSA(t.Context(), "_25._tcp.mx1.signed.test")
	slices.SortFunc(tlsa.Records, func(a, b TLSARecord) int { return int(a.Usage) - int(b.Usage) })
	if err != nil || !tlsa.Secure || len(tlsa.Records) != 2 || tlsa.Records[0].MatchingType != 2 || len(tlsa.Records[0].Data) != 64 || tlsa.Records[1].Data[0] != 0xab {
		t.Errorf("%+v, %v", tlsa, err)
	}
	for name, want := range map[string]Alias{
		"away.signed.test":   {Target: "mx.plain.test", Secure: true},
		"toalias.plain.test": {Target: "mx1.signed.test"},
		"mx1.signed.test":    {Secure: true},
	} {
		got, err := r.Alias(t.Context(), name)
		if got.Expires = (time.Time{}); err != nil || got != want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestOnlyTheWordOfAServerThatIsBelievedMakesAnswersSecure(t *testing.T) {
	lab := dnslab.Start(t, world[:1]...)
	for trust, want := range map[TrustAD]bool{TrustLoopback: true, TrustAlways: true, TrustNever: false} {
		r := New(Options{Servers: []netip.AddrPort{lab.Resolver()}, TrustAD: trust})
		mx, err := r.MX(t.Context(), "signed.test")
		if err != nil || mx.Secure != want || r.Believes() != want {
			t.Errorf("%d: %+v, %v", trust, mx, err)
		}
	}
	elsewhere := netip.MustParseAddrPort("192.0.2.1:53")
	if New(Options{Servers: []netip.AddrPort{elsewhere}}).Believes() {
		t.Error("a server elsewhere is believed")
	}
	if mapped := netip.MustParseAddrPort("[::ffff:127.0.0.1]:53"); !New(Options{Servers: []netip.AddrPort{mapped}}).Believes() {
		t.Error("loopback within IPv6 is not believed")
	}
}

func TestThatNobodyListensIsToldFromFailure(t *testing.T) {
	lab := dnslab.Start(t, world[:1]...)
	gone := lab.Resolver()
	lab.StopResolver()
	r := New(Options{Servers: []netip.AddrPort{gone}})
	if _, err := r.MX(t.Context(), "signed.test"); !errors.Is(err, ErrUnavailable) || strings.Contains(err.Error(), gone.Addr().String()) {
		t.Error(err)
	}
	// An authoritative server is there, and of no use.
	r = New(Options{Servers: []netip.AddrPort{gone, lab.Server()}})
	if _, err := r.MX(t.Context(), "example.org"); !errors.Is(err, ErrFailed) || errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	if r := New(Options{}); r.Believes() {
		t.Error("believes nobody at all")
	} else if _, err := r.MX(t.Context(), "example.org"); err == nil {
		t.Error("an answer from nobody")
	}
}

func TestASecondServerIsAskedWhereTheFirstIsAway(t *testing.T) {
	lab := dnslab.Start(t, world[:1]...)
	free, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := netip.MustParseAddrPort(free.LocalAddr().String())
	free.Close()
	r := New(Options{Servers: []netip.AddrPort{gone, lab.Resolver()}})
	if mx, err := r.MX(t.Context(), "signed.test"); err != nil || !mx.Secure {
		t.Errorf("%+v, %v", mx, err)
	}
}

func TestAnAnswerIsForgottenWithItsTTL(t *testing.T) {
	lab := dnslab.Start(t, world[0])
	r := New(Options{Servers: []netip.AddrPort{lab.Resolver()}})
	first, err := r.Addresses(t.Context(), "mx1.signed.test")
	if err != nil {
		t.Fatal(err)
	}
	lab.Update("signed.test", "mx1 A 198.51.100.1", "@ MX 10 mx1")
	kept, err := r.Addresses(t.Context(), "mx1.signed.test")
	if err != nil || !slices.Equal(kept.Addrs, first.Addrs) {
		t.Errorf("%+v, %v: it was to be kept", kept, err)
	}
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} { // a minute later
		if r.cache.find(question{"mx1.signed.test", kind}, time.Now().Add(61*time.Second)) != nil {
			t.Error("kept for longer than it holds")
		}
	}
	fresh, err := r.Addresses(t.Context(), "mx1.signed.test")
	if err != nil || len(fresh.Addrs) != 1 || fresh.Addrs[0].String() != "198.51.100.1" {
		t.Errorf("%+v, %v", fresh, err)
	}
}

func TestWhoseTimeIsUpStopsWaitingAndTheAnswerIsThereLater(t *testing.T) {
	f := newFake(t)
	r := New(Options{Servers: []netip.AddrPort{f.at}})
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan error)
	go func() {
		_, err := r.TXT(ctx, "slow.test")
		answered <- err
	}()
	query := <-f.queries
	cancel()
	if err := <-answered; !errors.Is(err, ErrTimeout) || !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	f.reply(query, text(query, "late"))
	if got, err := r.TXT(t.Context(), "slow.test"); err != nil || !slices.Equal(got.Records, []string{"late"}) {
		t.Errorf("%+v, %v", got, err)
	}
	if len(f.queries) > 0 {
		t.Error("asked twice")
	}
}
