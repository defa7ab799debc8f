package doctor

import (
	"testing"

	"postern/proxy/proxytest/netlab"
)

func TestARoutingRuleThatComesBeforePosternsIsSaid(t *testing.T) {
	const table = "ip route add default via 203.0.113.2 table 100; ip -6 route add default via 2001:db8:2::2 table 100; "
	for _, row := range []struct {
		name, script string
		patient      func(*Patient)
		want         []string
	}{
		{"before", "ip rule add pref 100 from 10.1.0.0/16 lookup 100", nil,
			[]string{"problem: a routing rule of somebody else takes intercepted packets of 10.1.0.0/24 on lan0 away, to table 100"}},
		{"before, of IPv6", "ip -6 rule add pref 100 iif lan0 lookup 100", nil,
			[]string{"problem: a routing rule of somebody else takes intercepted packets of 2001:db8:1::/64 on lan0 away, to table 100"}},
		{"behind", "ip rule add pref 600 from 10.1.0.0/16 lookup 100; ip -6 rule add pref 600 iif lan0 lookup 100", nil, nil},
		{"of other packets", "ip rule add pref 100 fwmark 0/0x1000 from 10.1.0.0/16 lookup 100", nil, nil},
		{"of some sources", "ip rule add pref 100 from 10.9.0.0/16 lookup 100", sources("10.1.0.0/24", "10.9.0.0/24"),
			[]string{"problem: a routing rule of somebody else takes intercepted packets of 10.9.0.0/24 on lan0 away, to table 100"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			n := network(t, netlab.NewRouted)
			p := tproxy()
			if row.patient != nil {
				row.patient(&p)
			}
			up(t, n.Gateway, p)
			shell(t, n.Gateway, "ip route add 10.9.0.0/24 via 10.1.0.2; "+table+row.script)
			wants(t, examined(t, n.Gateway, p, "rules"), row.want...)
		})
	}
}
