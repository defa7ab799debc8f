package published

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"postern/enforce"
	"postern/enforce/dane"
	"postern/enforce/mtasts"
	"postern/enforce/resolver"
	"postern/proxy/proxytest/dnslab"
)

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// certificate makes one signed by itself, and the TLSA record of its key.
func certificate(t testing.TB, names ...string) (chain []*x509.Certificate, record string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: names, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	return []*x509.Certificate{leaf}, "TLSA 3 1 1 " + hex.EncodeToString(sum[:])
}

var mail = enforce.Auto{DANE: true}

func TestAnAddressNarrowsTheChoiceAndExcusesNobody(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	one, first := certificate(t, "mx1.partner.example")
	two, second := certificate(t, "mx2.partner.example")
	stranger, _ := certificate(t, "mx1.partner.example")
	lab := dnslab.Start(t, dnslab.Zone{Name: "partner.example", Signed: true, Records: []string{
		"@ MX 10 mx1", "@ MX 20 mx2", "@ MX 30 plain",
		"mx1 A 192.0.2.1", "mx2 A 192.0.2.2", "plain A 192.0.2.3",
		"_25._tcp.mx1 " + first, "_25._tcp.mx2 " + second,
	}})
	d := New(resolver.New(resolver.Options{Servers: []netip.AddrPort{lab.Resolver()}}), nil)
	for _, c := range []struct {
		name    string
		address string
		chain   []*x509.Certificate
		state   enforce.DANEState
		names   []string
	}{
		{"its own", "192.0.2.1:25", one, enforce.DANEMatches, []string{"mx1.partner.example"}},
		{"that of the other host", "192.0.2.1:25", two, enforce.DANEMatches, []string{"mx1.partner.example"}},
		{"one at an address that DNS does not show", "192.0.2.99:25", two, enforce.DANEMatches, []string{"mx1.partner.example", "mx2.partner.example"}},
		{"a stranger's", "192.0.2.1:25", stranger, enforce.DANEDiffers, []string{"mx1.partner.example"}},
		{"a stranger's at the address of a host without records", "192.0.2.3:25", stranger, enforce.DANEDiffers, []string{"plain.partner.example"}},
		{"none", "192.0.2.1:25", nil, enforce.DANEDiffers, []string{"mx1.partner.example"}},
	} {
		l := d.Look(ctx, "partner.example", 25, mail)
		h := d.Hold(ctx, l, Server{Address: netip.MustParseAddrPort(c.address), Chain: c.chain}, time.Now())
		if h.MX != enforce.MXKnown || h.DANE.State != c.state || !slices.Equal(h.Names, c.names) {
			t.Errorf("%s: %v %s (%s), ask for %q", c.name, h.MX, h.DANE.State, h.DANE.Detail, h.Names)
		}
	}
	if got := d.Hosts(ctx, "partner.example", netip.MustParseAddr("192.0.2.2")); !slices.Equal(got, []string{"mx2.partner.example"}) {
		t.Errorf("hosts: %q", got)
	}
}

func TestWhatIsNotThereIsToldApart(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	lab := dnslab.Start(t,
		dnslab.Zone{Name: "null.example", Records: []string{"@ MX 0 ."}},
		dnslab.Zone{Name: "implicit.example", Records: []string{"@ A 192.0.2.1"}},
		dnslab.Zone{Name: "empty.example", Signed: true},
		dnslab.Zone{Name: "bogus.example", Bogus: true, Records: []string{"@ MX 10 mx", "mx A 192.0.2.1"}},
	)
	there := New(resolver.New(resolver.Options{Servers: []netip.AddrPort{lab.Resolver()}}), nil)
	nowhere := New(resolver.New(resolver.Options{Servers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")}}), nil)
	for _, c := range []struct {
		d      *Directory
		domain string
		mx     enforce.MXState
		dane   enforce.DANEState
		names  []string
	}{
		{there, "null.example", enforce.MXNone, enforce.DANENone, nil},
		{there, "implicit.example", enforce.MXKnown, enforce.DANENone, []string{"implicit.example"}},
		{there, "empty.example", enforce.MXNone, enforce.DANENone, nil},
		{there, "missing.empty.example", enforce.MXNone, enforce.DANENone, nil},
		{there, "bogus.example", enforce.MXFailed, enforce.DANEFailed, nil},
		{nowhere, "null.example", enforce.MXUnavailable, enforce.DANEUnavailable, nil},
	} {
		l := c.d.Look(ctx, c.domain, 25, mail)
		h := c.d.Hold(ctx, l, Server{Address: netip.MustParseAddrPort("192.0.2.1:25"), Named: true}, time.Now())
		if h.MX != c.mx || h.DANE.State != c.dane || !slices.Equal(h.Names, c.names) || c.mx != enforce.MXKnown && h.Detail == "" {
			t.Errorf("%s: %v (%s) %s, %q", c.domain, h.MX, h.Detail, h.DANE.State, h.Names)
		}
	}
}

func TestTheGravestOfWhatHostsComeToIsTold(t *testing.T) {
	host := func(name string, s dane.State) dane.Host {
		return dane.Host{Name: name, State: s, Records: []dane.Record{{Usage: 3, Selector: 1, MatchingType: 1, Data: make([]byte, 32)}}}
	}
	for _, c := range []struct {
		hosts []dane.State
		want  enforce.DANEState
	}{
		{nil, enforce.DANENone},
		{[]dane.State{dane.None, dane.None}, enforce.DANENone},
		{[]dane.State{dane.None, dane.Unusable}, enforce.DANEUnusable},
		{[]dane.State{dane.Unusable, dane.Usable}, enforce.DANEDiffers},
		{[]dane.State{dane.Usable, dane.None}, enforce.DANEDiffers},
		{[]dane.State{dane.Usable, dane.Failed}, enforce.DANEFailed},
		{[]dane.State{dane.None, dane.Failed}, enforce.DANEFailed},
		{[]dane.State{dane.Unavailable, dane.None}, enforce.DANEUnavailable},
	} {
		l := Listing{}
		for _, s := range c.hosts {
			l.Hosts = append(l.Hosts, host("mx", s))
		}
		chain, _ := certificate(t, "mx")
		if got := daneState(l, Server{Chain: chain}, time.Now()); got.State != c.want {
			t.Errorf("%v: %s, want %s", c.hosts, got.State, c.want)
		}
	}
}

func TestAPolicyIsHeldAgainstHostAndCertificate(t *testing.T) {
	found := func(mode mtasts.Mode, mx ...string) mtasts.Policy {
		return mtasts.Policy{State: mtasts.Found, Mode: mode, MX: mx}
	}
	chain, _ := certificate(t, "mx1.partner.example")
	wild, _ := certificate(t, "*.partner.example")
	for _, c := range []struct {
		name      string
		policy    mtasts.Policy
		here      []string
		chain     []*x509.Certificate
		state     enforce.MTASTSState
		mx, cert_ bool
	}{
		{"both", found(mtasts.ModeEnforce, "mx1.partner.example"), []string{"mx1.partner.example"}, chain, enforce.MTASTSEnforce, true, true},
		{"by a pattern", found(mtasts.ModeTesting, "*.partner.example"), []string{"mx1.partner.example"}, chain, enforce.MTASTSTesting, true, true},
		{"a wildcard certificate", found(mtasts.ModeEnforce, "mx1.partner.example"), nil, wild, enforce.MTASTSEnforce, true, true},
		{"another host at that address", found(mtasts.ModeEnforce, "mx1.partner.example"), []string{"mx.elsewhere.example"}, chain, enforce.MTASTSEnforce, false, true},
		{"one of several hosts there", found(mtasts.ModeEnforce, "mx1.partner.example"), []string{"a.example", "mx1.partner.example"}, chain, enforce.MTASTSEnforce, true, true},
		{"another certificate", found(mtasts.ModeEnforce, "mx2.partner.example"), nil, chain, enforce.MTASTSEnforce, true, false},
		{"none", found(mtasts.ModeEnforce, "mx1.partner.example"), nil, nil, enforce.MTASTSEnforce, true, false},
		{"mode none", found(mtasts.ModeNone), nil, chain, enforce.MTASTSModeNone, true, false},
		{"no policy", mtasts.Policy{State: mtasts.NoPolicy}, nil, chain, enforce.MTASTSNone, false, false},
		{"not to be had", mtasts.Policy{State: mtasts.FetchFailed}, nil, chain, enforce.MTASTSFailed, false, false},
		{"not a policy", mtasts.Policy{State: mtasts.Invalid}, nil, chain, enforce.MTASTSInvalid, false, false},
		{"nothing", mtasts.Policy{}, nil, chain, enforce.MTASTSNotAsked, false, false},
	} {
		got := policyState(c.policy, c.here, Server{Chain: c.chain})
		if got.State != c.state || got.MXMatches != c.mx || got.CertificateMatches != c.cert_ {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

func TestAddressesOfMXHostsAreFollowedAndKeptForAWeek(t *testing.T) {
	t.Parallel()
	lab := dnslab.Start(t, dnslab.Zone{Name: "partner.example", Records: []string{"@ MX 10 mx1", "@ MX 20 mx2", "mx1 A 192.0.2.1", "mx1 AAAA 2001:db8::1", "mx2 A 192.0.2.2"}},
		dnslab.Zone{Name: "other.example", Records: []string{"@ MX 10 mx.partner.example.", "@ MX 20 mx", "mx A 192.0.2.2"}})
	file := filepath.Join(t.TempDir(), "mx.json")
	var complaints []error
	f := NewFollower(resolver.New(resolver.Options{Servers: []netip.AddrPort{lab.Resolver()}}), file, func(err error) { complaints = append(complaints, err) })
	f.Follow([]string{"partner.example", "other.example"})
	follow(t, f)
	at := netip.MustParseAddr
	for _, c := range []struct {
		address string
		mxOf    []string
		host    string
	}{
		{"192.0.2.1", []string{"partner.example"}, "mx1.partner.example"},
		{"2001:db8::1", []string{"partner.example"}, "mx1.partner.example"},
		{"192.0.2.2", []string{"partner.example", "other.example"}, ""}, // by two names
		{"192.0.2.3", nil, ""},
	} {
		if got := f.MXOf(at(c.address)); !slices.Equal(got, c.mxOf) || f.Host(at(c.address)) != c.host {
			t.Errorf("%s: %q %q", c.address, got, f.Host(at(c.address)))
		}
	}
	for _, s := range f.Known()[0].Addresses {
		if left := time.Until(s.Until); left < 7*24*time.Hour-time.Minute || left > 7*24*time.Hour+time.Hour {
			t.Errorf("kept for %s", left)
		}
	}

	lab.Stop() // and what was known goes on to hold, after a restart too
	again := NewFollower(resolver.New(resolver.Options{Servers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")}}), file, func(err error) { complaints = append(complaints, err) })
	again.Follow([]string{"partner.example"})
	follow(t, again)
	if got := again.MXOf(at("192.0.2.1")); !slices.Equal(got, []string{"partner.example"}) {
		t.Errorf("after a restart: %q", got)
	}
	if known := again.Known(); len(known) != 1 || known[0].Failed == "" {
		t.Errorf("%+v", known)
	}
	if len(complaints) != 1 || !errors.Is(complaints[0], resolver.ErrUnavailable) {
		t.Errorf("told of %v", complaints)
	}
}

// follow has a follower ask once.
func follow(t *testing.T, f *Follower) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); f.Run(ctx) }()
	for limit := time.Now().Add(20 * time.Second); f.rounds.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("%+v", f.Known())
		}
	}
	cancel()
	<-done
}

func TestAFileOfAddressesThatIsNoGoodIsToldOfAndBegunAnew(t *testing.T) {
	dir := t.TempDir()
	r := resolver.New(resolver.Options{Servers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")}})
	far := time.Now().Add(400 * 24 * time.Hour).Format(time.RFC3339)
	past := time.Now().Add(-time.Hour).Format(time.RFC3339)
	for name, text := range map[string]string{
		"no JSON": "{", "other JSON": `["a"]`,
		"ends too late": `{"partner.example":{"192.0.2.1":{"host":"mx","until":"` + far + `"}}}`,
		"is over":       `{"partner.example":{"192.0.2.1":{"host":"mx","until":"` + past + `"}}}`,
	} {
		file := filepath.Join(dir, "mx.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		told := 0
		f := NewFollower(r, file, func(error) { told++ })
		f.Follow([]string{"partner.example"})
		if got := f.MXOf(netip.MustParseAddr("192.0.2.1")); got != nil {
			t.Errorf("%s: %q", name, got)
		}
		if broken := name == "no JSON" || name == "other JSON"; (told > 0) != broken {
			t.Errorf("%s: told %d times", name, told)
		}
	}
}

func TestAddressesAreAskedForWhereSomethingDependsOnThem(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	lab := dnslab.Start(t, dnslab.Zone{Name: "plain.example", Records: []string{"@ MX 10 mx", "mx A 192.0.2.1"}})
	d := New(resolver.New(resolver.Options{Servers: []netip.AddrPort{lab.Resolver()}}), nil)
	l := d.Look(ctx, "plain.example", 25, mail)
	for _, named := range []bool{false, true} {
		h := d.Hold(ctx, l, Server{Address: netip.MustParseAddrPort("192.0.2.1:25"), Named: named}, time.Now())
		if (len(h.Names) > 0) != named {
			t.Errorf("named %v: %q", named, h.Names)
		}
	}
}
