package enforce

import (
	"net/netip"
	"testing"
)

func TestADomainMatcherMatches(t *testing.T) {
	for _, c := range []struct {
		entries []string
		addr    *Address
		want    bool
	}{
		{[]string{"contoso.com"}, &Address{Domain: "contoso.com"}, true},
		{[]string{"contoso.com"}, &Address{Domain: "a.contoso.com"}, false},
		{[]string{"contoso.com"}, &Address{Domain: "xcontoso.com"}, false},
		{[]string{"*.contoso.com"}, &Address{Domain: "contoso.com"}, false},
		{[]string{"*.contoso.com"}, &Address{Domain: "a.contoso.com"}, true},
		{[]string{"*.contoso.com"}, &Address{Domain: "a.b.c.contoso.com"}, true},
		{[]string{"*.contoso.com"}, &Address{Domain: "acontoso.com"}, false},
		{[]string{"*.contoso.com"}, &Address{Domain: "com"}, false},
		{[]string{"x.example", "contoso.com"}, &Address{Domain: "contoso.com"}, true},
		{[]string{"*"}, &Address{Domain: "contoso.com"}, true},
		{[]string{"*"}, &Address{}, true},
		{[]string{"*"}, &Address{Literal: true}, true},
		{[]string{"*"}, nil, true},
		{[]string{"contoso.com", "*.com"}, &Address{}, false},
		{[]string{"contoso.com", "*.com"}, nil, false},
		{[]string{"contoso.com"}, &Address{Domain: "contoso.com", Literal: true}, false},
		{[]string{""}, &Address{}, false},
	} {
		if got := newDomainSet(c.entries).contains(c.addr); got != c.want {
			t.Errorf("%q, %+v: %v, want %v", c.entries, c.addr, got, c.want)
		}
	}
}

func TestADomainMatcherCoversAnother(t *testing.T) {
	for _, c := range []struct {
		mine, theirs []string
		want         bool
	}{
		{nil, nil, true},
		{nil, []string{"a.example"}, true},
		{[]string{"a.example"}, nil, false},
		{[]string{"*"}, nil, true},
		{[]string{"*"}, []string{"*"}, true},
		{[]string{"*.example"}, []string{"*"}, false},
		{[]string{"a.example"}, []string{"*"}, false},
		{[]string{"*.example"}, []string{"a.example", "*.b.example", "*.example"}, true},
		{[]string{"*.example"}, []string{"example"}, false},
		{[]string{"example", "*.example"}, []string{"*.example", "example"}, true},
		{[]string{"a.example"}, []string{"*.a.example"}, false},
		{[]string{"a.example"}, []string{"a.example", "b.example"}, false},
		{[]string{"*.a.example"}, []string{"*.example"}, false},
	} {
		if got := newDomainSet(c.mine).coversAll(c.mine, c.theirs); got != c.want {
			t.Errorf("%q over %q: %v, want %v", c.mine, c.theirs, got, c.want)
		}
	}
}

func networks(prefixes ...string) []netip.Prefix {
	var s []netip.Prefix
	for _, p := range prefixes {
		s = append(s, netip.MustParsePrefix(p))
	}
	return s
}

func TestANetworkMatcherMatches(t *testing.T) {
	s := newNetworkSet(networks("10.0.0.0/8", "2001:db8::/32", "fe80::/10"))
	for addr, want := range map[string]bool{
		"10.1.2.3":         true,
		"11.1.2.3":         false,
		"::ffff:10.1.2.3":  true,
		"2001:db8::1":      true,
		"2001:db9::1":      false,
		"fe80::1%eth0":     true,
		"::a01:203":        false, // 10.1.2.3 in the low bits, another address altogether
		"2002:a01:203::1":  false,
		"::ffff:11.1.2.30": false,
	} {
		if got := s.contains(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
	if s.contains(netip.Addr{}) {
		t.Error("the zero address lies in a network")
	}
}

func TestANetworkMatcherCoversAnother(t *testing.T) {
	for _, c := range []struct {
		mine, theirs []netip.Prefix
		want         bool
	}{
		{nil, nil, true},
		{networks("0.0.0.0/0"), nil, false},
		{networks("0.0.0.0/0", "::/0"), nil, true},
		{networks("0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"), nil, true},
		{networks("0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/2"), networks("0.0.0.0/0"), true},
		{networks("0.0.0.0/1", "128.0.0.0/2"), networks("0.0.0.0/0"), false},
		{networks("10.0.0.0/8"), networks("10.1.0.0/16", "10.2.3.4/32"), true},
		{networks("10.0.0.0/8"), networks("10.1.0.0/16", "11.2.3.4/32"), false},
		{networks("10.1.0.0/16"), networks("10.0.0.0/8"), false},
		{networks("10.0.0.4/31", "10.0.0.6/32", "10.0.0.7/32"), networks("10.0.0.4/30"), true},
		{networks("::/0"), networks("10.0.0.0/8"), false},
		{networks("::/0"), networks("2001:db8::1/128"), true},
	} {
		mine, theirs := newNetworkSet(c.mine), newNetworkSet(c.theirs)
		if got := mine.coversAll(&theirs); got != c.want {
			t.Errorf("%v over %v: %v, want %v", c.mine, c.theirs, got, c.want)
		}
	}
}
