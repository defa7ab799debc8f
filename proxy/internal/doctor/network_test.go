package doctor

import (
	"os"
	"testing"

	"postern/proxy/internal/intercept"
	"postern/proxy/proxytest/netlab"
)

// ills are what is wrong with a machine, how it is said, and that the command
// which is named mends it.
var ills = []struct {
	name, check string
	make        func() (*netlab.Network, error)
	script      string
	patient     func(*Patient)
	want        []string
	// lasts is true where no command of the doctor's can be pasted.
	lasts bool
}{
	{"forwarding off", "forwarding", netlab.NewRouted, "sysctl -qw net.ipv4.ip_forward=0", nil,
		[]string{"problem: this machine does not forward IPv4 (net.ipv4.ip_forward = 0)"}, false},
	{"forwarding of IPv6 off", "forwarding", netlab.NewRouted, "sysctl -qw net.ipv6.conf.all.forwarding=0", nil,
		[]string{"problem: this machine does not forward IPv6 (net.ipv6.conf.all.forwarding = 0)"}, false},
	{"forwarding off in a family that nobody listens in", "forwarding", netlab.NewRouted, "sysctl -qw net.ipv6.conf.all.forwarding=0",
		func(p *Patient) { p.Plan.Listen = p.Plan.Listen[:1] }, nil, false},
	{"forwarding off where packets are redirected", "forwarding", netlab.NewRouted, "sysctl -qw net.ipv4.ip_forward=0",
		func(p *Patient) { p.Plan.Method = intercept.Redirect }, []string{"note: this machine does not forward IPv4…"}, false},
	{"one interface that does not forward", "forwarding", netlab.NewRouted, "sysctl -qw net.ipv4.conf.lan0.forwarding=0", nil,
		[]string{"problem: IPv4 is not forwarded from lan0"}, false},
	{"a default route that is about to be lost", "forwarding", netlab.NewRouted,
		"sysctl -qw net.ipv6.conf.wan0.accept_ra=1; ip -6 route add default via 2001:db8:2::2 dev wan0 proto ra", nil,
		[]string{"problem: the IPv6 default route comes by router advertisement…"}, false},
	{"a bridge that does not forward", "forwarding", netlab.NewBridged, "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=1", onBridge,
		[]string{"note: this machine does not forward IPv4…"}, false},
	{"pass on a bridge", "forwarding", netlab.NewBridged, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1; ip -6 route add default via 2001:db8:1::9",
		func(p *Patient) { onBridge(p); p.Plan.WhenDown = intercept.Pass },
		[]string{"problem: there is no IPv4 default route, and a bridge in intercept.interfaces"}, true},
	{"an interface that is not there", "interfaces", netlab.NewRouted, "true", func(p *Patient) { p.Plan.Interfaces = []string{"lan0", "lan9"} },
		[]string{"problem: there is no interface lan9"}, true},
	{"an interface that is down", "interfaces", netlab.NewRouted, "ip link set lan0 down", nil, []string{"problem: the interface lan0 is down"}, false},
	{"an interface that a shell would trip over", "interfaces", netlab.NewRouted, "ip link add 'a;$(b)' type veth peer name x9; ip link set x9 up", func(p *Patient) { p.Plan.Interfaces = []string{"a;$(b)"} },
		[]string{"problem: the interface a;$(b) is down"}, false},
	{"a value of such an interface", "forwarding", netlab.NewRouted, "ip link add 'a;$(b)' type veth peer name x9; ip link set 'a;$(b)' up; echo 0 >'/proc/sys/net/ipv4/conf/a;$(b)/forwarding'",
		func(p *Patient) { p.Plan.Interfaces = []string{"a;$(b)"} }, []string{"problem: IPv4 is not forwarded from a;$(b)"}, false},
	{"br_netfilter, and a bridge", "bridge", netlab.NewBridged, "sysctl -qw net.bridge.bridge-nf-call-iptables=1", onBridge,
		[]string{"problem: net.bridge.bridge-nf-call-iptables = 1 (br_netfilter, as Docker sets it)"}, false},
	{"br_netfilter, and a bridge of somebody else", "bridge", netlab.NewBridged, "sysctl -qw net.bridge.bridge-nf-call-ip6tables=1", func(p *Patient) { p.Plan.Interfaces = []string{"eth9"} },
		[]string{"note: net.bridge.bridge-nf-call-ip6tables = 1…"}, true},
	{"br_netfilter without bridges", "bridge", netlab.NewRouted, "true", nil, nil, false},
	{"clients who are routed elsewhere", "rp_filter", netlab.NewRouted, "sysctl -qw net.ipv4.conf.lan0.rp_filter=1; ip route add 10.9.0.0/16 via 203.0.113.2", sources("10.1.0.0/24", "10.9.0.0/16"),
		[]string{"problem: rp_filter is strict on lan0, and the way to 10.9.0.0/16 does not lead there"}, false},
	{"clients who are routed where they come from", "rp_filter", netlab.NewRouted, "sysctl -qw net.ipv4.conf.all.rp_filter=1; ip route add 10.9.0.0/16 via 10.1.0.2", sources("10.1.0.0/24", "10.9.0.0/16"), nil, false},
	{"a loose filter", "rp_filter", netlab.NewRouted, "sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.lan0.rp_filter=2; ip route add 10.9.0.0/16 via 203.0.113.2", sources("10.9.0.0/16"), nil, false},
	{"two ways out", "rp_filter", netlab.NewRouted, "sysctl -qw net.ipv4.conf.wan0.rp_filter=1; ip route add default via 203.0.113.2; ip route add default via 10.1.0.2 metric 9", nil,
		[]string{"note: there are 2 ways to the internet, and rp_filter is strict on wan0"}, false},
	{"a path of several widths", "mtu", netlab.NewRouted, "ip link set wan0 mtu 1400; ip route add default via 203.0.113.2", nil,
		[]string{"note: lan0 has an MTU of 1500 and wan0 one of 1400, and net.ipv4.tcp_mtu_probing = 0"}, false},
	{"a path whose end is not seen", "mtu", netlab.NewRouted, "true", nil, nil, false},
	{"too narrow for IPv6", "mtu", netlab.NewRouted, "sysctl -qw net.ipv4.tcp_mtu_probing=1; ip link set lan0 mtu 1000", nil, []string{"problem: the MTU of lan0 is 1000, and IPv6 needs 1280"}, false},
	{"nothing", "conntrack", netlab.NewRouted, "true", nil, nil, false},
}

func hasBridgeNetfilter(t *testing.T) bool {
	t.Helper()
	if _, err := os.Stat("/proc/sys/net/bridge"); err == nil {
		return true
	}
	if os.Getenv("CI") != "" {
		t.Fatal("this kernel has no br_netfilter to test with")
	}
	t.Log("this kernel has no br_netfilter to test with")
	return false
}

func onBridge(p *Patient) { p.Plan.Interfaces = []string{"br0"} }

func sources(networks ...string) func(*Patient) {
	return func(p *Patient) { p.Plan.Sources = prefixes(networks...) }
}

func TestWhatIsWrongWithTheNetworkIsSaidAndTheCommandMendsIt(t *testing.T) {
	for _, row := range ills {
		t.Run(row.name, func(t *testing.T) {
			n := network(t, row.make)
			if row.check == "bridge" && !hasBridgeNetfilter(t) {
				return
			}
			p := tproxy()
			if row.patient != nil {
				row.patient(&p)
			}
			shell(t, n.Gateway, row.script)
			found := examined(t, n.Gateway, p, row.check)
			wants(t, found, row.want...)
			if row.lasts {
				return
			}
			mend(t, n.Gateway, found)
			wants(t, examined(t, n.Gateway, p, row.check))
		})
	}
}

func TestAValueThatIsHiddenIsNotTakenForOneThatIsNotThere(t *testing.T) {
	root := t.TempDir()
	if value, err := sysctlBelow(root, "net/ipv4/ip_forward"); err == nil {
		t.Errorf("found %q where nothing can be seen", value)
	}
	if err := os.Mkdir(root+"/net", 0o700); err != nil {
		t.Fatal(err)
	}
	if value, err := sysctlBelow(root, "net/ipv6/conf/all/forwarding"); value != "" || err != nil {
		t.Errorf("a kernel without IPv6: %q, %v", value, err)
	}
}

func TestASoundGatewayHasNothingWrong(t *testing.T) {
	n := network(t, netlab.NewRouted)
	p := tproxy()
	shell(t, n.Gateway, "sysctl -qw net.ipv4.tcp_mtu_probing=1; ip route add default via 203.0.113.2; ip -6 route add default via 2001:db8:2::2")
	up(t, n.Gateway, p)
	serve(t, n.Gateway, p)
	for _, c := range Checks() {
		if c == "clock" || c == "resolver" {
			continue // of this machine, and not of the namespace
		}
		wants(t, examined(t, n.Gateway, p, c))
	}
}
