package config

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"postern/proxy"
)

// own stands among the interfaces for connections that the machine itself makes.
const own = "lo"

// onlyOwn reports whether no connections but the machine's own are taken. They
// are redirected to the loopback address, where nobody else can come.
func onlyOwn(in *proxy.Intercept) bool { return slices.Equal(in.Interfaces, []string{own}) }

// checkOwn checks that a machine's own connections are taken by the one method
// that can.
func checkOwn(t *table, in *proxy.Intercept) {
	if i := slices.Index(in.Interfaces, own); i >= 0 && in.Method == "tproxy" && !t.bad["interfaces"] {
		t.failEntry("interfaces", i, `"lo" found beside method = "tproxy", expected method = "redirect": only that takes the connections of this machine itself`)
	}
}

// redirected says what a listening address has to be under redirect, or "".
func redirected(in *proxy.Intercept, ip netip.Addr) string {
	switch {
	case ip.IsUnspecified():
		return ""
	case !onlyOwn(in):
		return "0.0.0.0 and [::]: the kernel redirects to the address of the interface"
	case ip.Is4() && ip != netip.AddrFrom4([4]byte{127, 0, 0, 1}), ip.Is6() && ip != netip.IPv6Loopback():
		return "127.0.0.1 and [::1]: the kernel redirects the connections of this machine there"
	}
	return ""
}

// userName reads a user, by the rules of shadow's useradd(8) as far as every
// system keeps them, or a user's number. The last number of all is nobody's: to
// the kernel it means that there is no user.
func userName(s string) (string, string) {
	const expected = `a user by name or number such as "postern"`
	if n, err := strconv.ParseUint(s, 10, 64); err == nil {
		if n >= 1<<32-1 || strconv.FormatUint(n, 10) != s {
			return "", expected
		}
		return s, ""
	}
	if s == "" || len(s) > 32 || s[0] == '-' || strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r == 0x7f || r == ':' || r == '/' || r == ','
	}) {
		return "", expected
	}
	return s, ""
}
