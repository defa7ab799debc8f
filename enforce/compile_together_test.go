package enforce

import (
	"strings"
	"testing"
)

func TestADemandOfEveryoneThatWasSplitIsRefused(t *testing.T) {
	low, high := networks("0.0.0.0/1"), networks("128.0.0.0/1")
	quarter := networks("128.0.0.0/2")
	must := func(name string, r Rule) Rule {
		r.Name, r.ClientTLS = name, ClientRequired
		return r
	}
	for _, tc := range []struct {
		what  string
		rules []Rule
		want  int // the rule at fault, -1: none
	}{
		{"clients in halves", []Rule{must("a", Rule{FromNetworks: low}), must("b", Rule{FromNetworks: high})}, 1},
		{"servers in halves", []Rule{must("a", Rule{ToNetworks: low}), must("b", Rule{ToNetworks: high})}, 1},
		{"a rule between them that demands nothing", []Rule{must("a", Rule{FromNetworks: low}), {Name: "x"}, must("b", Rule{FromNetworks: high, FromDomains: []string{"*"}})}, 2},
		{"a half and an envelope rule for every sender", []Rule{must("a", Rule{FromNetworks: low}), must("b", Rule{FromNetworks: high, FromDomains: []string{"*"}})}, 1},
		{"three parts", []Rule{must("a", Rule{FromNetworks: low}), must("b", Rule{FromNetworks: quarter}), must("c", Rule{FromNetworks: networks("192.0.0.0/2")})}, 2},
		{"one after it is not blamed, too", []Rule{must("a", Rule{FromNetworks: low}), must("b", Rule{FromNetworks: high}), must("c", Rule{FromNetworks: networks("2001:db8::/32")})}, 1},
		{"some are left out", []Rule{must("a", Rule{FromNetworks: low}), must("b", Rule{FromNetworks: quarter})}, -1},
		{"one half is for some servers only", []Rule{must("a", Rule{FromNetworks: low}), must("b", Rule{FromNetworks: high, ToNetworks: quarter})}, -1},
		{"one half is for some senders only", []Rule{must("a", Rule{FromNetworks: low}), must("b", Rule{FromNetworks: high, FromDomains: []string{"a.example"}})}, -1},
		{"one half is for MX hosts only", []Rule{must("a", Rule{FromNetworks: low}), must("b", Rule{FromNetworks: high, ToMXOf: []string{"a.example"}})}, -1},
		{"clients here and servers there", []Rule{must("a", Rule{FromNetworks: low}), must("b", Rule{ToNetworks: high})}, -1},
	} {
		_, errs := Compile(tc.rules, 0)
		switch {
		case tc.want < 0 && len(errs) > 0:
			t.Errorf("%s: %v", tc.what, errs)
		case tc.want >= 0 && (len(errs) != 1 || errs[0].Rule != tc.want || errs[0].Other != 0 || errs[0].Key != "client_tls" || !strings.Contains(errs[0].Msg, "RFC 3207 §4")):
			t.Errorf("%s: %v", tc.what, errs)
		}
	}
}
