package intercept

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/proxy/proxytest/netlab"
)

// shell runs a script on the host, as somebody would who pastes it.
func shell(t *testing.T, host *netlab.Host, script string) {
	t.Helper()
	var said strings.Builder
	command := host.Command(within(t, patience), "sh", "-ec", script)
	command.Stdout, command.Stderr = &said, &said
	if err := host.Run(command); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, said.String())
	}
}

// withFirewalls wants the programs that make them: what is missing fails, for a
// test that is skipped proves nothing.
func withFirewalls(t *testing.T) {
	t.Helper()
	for _, name := range []string{"nft", "iptables", "ip6tables"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("%v (Debian: apt-get install nftables iptables; they are in /usr/sbin)", err)
		}
	}
}

// noFirewall takes everything out that is not Postern's.
const noFirewall = `nft list tables | while read -r line; do [ "$line" = "table inet postern" ] || nft delete $line; done`

func hindrances(t *testing.T, host *netlab.Host, p Plan) []InputHindrance {
	t.Helper()
	var found []InputHindrance
	err := host.Do(func() (err error) {
		found, err = p.InputHindrances()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// getsThrough tells whether a connection through the gateway carries bytes. What
// a firewall drops shows by nothing coming for a while.
func getsThrough(n *netlab.Network, client, server netip.Addr, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := n.Client.Dial(ctx, at(client, 0), at(server, smtp))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, quit+"\n"); err != nil {
		return err
	}
	said, err := io.ReadAll(conn)
	if err == nil && !strings.HasSuffix(string(said), "\n"+quit+"\n") {
		err = fmt.Errorf("heard %q", said)
	}
	return err
}

// silence is how long nothing comes before a packet counts as dropped.
const silence = 300 * time.Millisecond

// What is to be said of an input chain.
const (
	fine = "lets in"
	may  = "may drop"
	will = "drops"
)

// neighbours lets in what IPv6 cannot do without, and answers.
const neighbours = "meta l4proto ipv6-icmp accept; "

// inet wraps rules into an input chain of nft.
func inet(policy, rules string) string {
	return tableOf(fmt.Sprintf("table inet filter { chain input { type filter hook input priority 0; policy %s; %s } }", policy, rules))
}

// tableOf is a script that makes a table of nft.
func tableOf(text string) string {
	text = strings.TrimSuffix(strings.TrimSpace(text), "}")
	return "nft -f - <<'END'\n" + text + "\n}\nEND\n"
}

// firewalls are input chains as people have them. 4 and 6 are what is said and
// what happens in each family.
var firewalls = []struct {
	name, script string
	four, six    string
}{
	{"none", "true", fine, fine},
	{"a policy of accept", inet("accept", ""), fine, fine},
	{"a policy of drop", inet("drop", neighbours), will, will},
	{"drop with answers", inet("drop", neighbours+"ct state established,related accept; tcp dport 22 accept;"), will, will},
	{"the mark before", inet("drop", neighbours+"meta mark & 0x1000 == 0x1000 accept;"), fine, fine},
	{"the mark behind the drop", inet("accept", neighbours+"drop; meta mark & 0x1000 == 0x1000 accept;"), will, will},
	{"the mark with another mask", inet("drop", neighbours+"meta mark & 0x3000 == 0x3000 accept;"), may, may},
	{"the mark in one family", inet("drop", neighbours+"meta nfproto ipv4 meta mark & 0x1000 == 0x1000 accept;"), fine, will},
	{"the port, and answers", inet("drop", neighbours+"ct state vmap { established : accept, related : accept, invalid : drop }; tcp dport { 22, 25 } accept;"), fine, fine},
	{"the port, without answers", inet("drop", neighbours+"tcp dport 25 accept;"), may, may}, // the port of a client may be 25,
	{"the port for new ones only", inet("drop", neighbours+"tcp dport 25 ct state new accept;"), will, will},
	{"a reject at the end", inet("accept", neighbours+"ct state established accept; reject with icmpx admin-prohibited;"), will, will},
	{"a counter and a log before the drop", inet("accept", neighbours+"counter log prefix \"x\" drop;"), will, will},
	{"the interface, by a map of jumps", tableOf(`table inet filter {
		chain inside { tcp dport 22 accept; tcp dport 25 accept; }
		chain outside { ct state established accept; }
		chain input { type filter hook input priority 0; policy drop; ` + neighbours + `ct state established,related accept;
			iifname vmap { lan0 : jump inside, wan0 : jump outside }; }
	}`), fine, fine},
	{"the interface, and another port", tableOf(`table inet filter {
		chain inside { tcp dport 22 accept; }
		chain input { type filter hook input priority 0; policy drop; ` + neighbours + `ct state established accept; iifname vmap { lan0 : goto inside }; }
	}`), will, will},
	{"clients in a set", tableOf(`table ip filter {
		set clients { type ipv4_addr; flags interval; elements = { 10.1.0.0/16, 192.0.2.1-192.0.2.7 } }
		chain input { type filter hook input priority 0; policy drop; ct state established accept; ip saddr @clients tcp dport 25 accept; }
	}`), may, fine},
	{"a limit", inet("drop", neighbours+"ct state established accept; tcp dport 25 limit rate 100/second accept;"), may, may},
	{"to this machine only", inet("accept", "fib daddr type != local drop;"), will, will},
	{"to transparent sockets", inet("drop", neighbours+"socket transparent 1 accept; ct state established accept;"), fine, fine},
	{"syn that are not new", inet("accept", "tcp flags & (fin|syn|rst|ack) != syn ct state new drop; ct state invalid drop;"), fine, fine},
	{"answers and new ones, and nothing is tracked", tableOf(`table inet raw { chain in { type filter hook prerouting priority raw; policy accept; tcp dport 25 notrack; tcp sport 25 notrack; } }`) +
		inet("drop", neighbours+"ct state established,related accept; tcp dport 25 ct state new accept;"), may, may},
	{"the same, and other ports are not tracked", tableOf(`table inet raw { chain in { type filter hook prerouting priority raw; policy accept; udp dport 53 notrack; tcp dport 80 notrack; } }`) +
		inet("drop", neighbours+"ct state established,related accept; tcp dport 25 ct state new accept;"), fine, fine},
	{"iptables, and nothing is tracked", "iptables -t raw -A PREROUTING -p tcp --dport 25 -j CT --notrack; iptables -P INPUT DROP;" +
		"iptables -A INPUT -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT", may, fine},
	{"a limit by name", tableOf(`table inet filter { limit few { rate 1/hour burst 1 packets; }
		chain input { type filter hook input priority 0; policy drop; ` + neighbours + `ct state established accept; tcp dport 25 limit name "few" accept; }
	}`), may, may},
	{"a limit by a map", tableOf(`table inet filter { limit few { rate 1/hour burst 1 packets; }
		chain input { type filter hook input priority 0; policy drop; ` + neighbours + `ct state established accept; limit name tcp dport map { 25 : "few" } accept; }
	}`), may, may},
	{"a quota by name", tableOf(`table inet filter { quota little { 1 bytes; }
		chain input { type filter hook input priority 0; policy drop; ` + neighbours + `ct state established accept; tcp dport 25 quota name "little" accept; }
	}`), may, may},
	{"a counter by name", tableOf(`table inet filter { counter seen { }
		chain input { type filter hook input priority 0; policy drop; ` + neighbours + `ct state established accept; tcp dport 25 counter name "seen" accept; }
	}`), fine, fine},
	{"a limit of each element", tableOf(`table inet filter { set mail { type inet_service; limit rate 1/hour burst 1 packets; elements = { 25 } }
		chain input { type filter hook input priority 0; policy drop; ` + neighbours + `ct state established accept; tcp dport @mail accept; }
	}`), may, may},
	{"a map that packets fill", tableOf(`table inet filter { map known { type ipv4_addr : verdict; flags timeout; }
		chain input { type filter hook input priority 0; policy accept; ip saddr vmap @known; }
	}`), may, fine},
	{"chains called as those of iptables", tableOf(`table ip filter { chain INPUT { type filter hook input priority filter; policy drop; ct state established accept; tcp dport { 22, 80 } accept; } }`) +
		tableOf(`table ip6 filter { chain INPUT { type filter hook input priority filter; policy drop; `+neighbours+`ct state established accept; tcp dport { 22, 80 } accept; } }`), will, will},
	{"a second base chain", inet("accept", "") + tableOf(`table ip other { chain late { type filter hook input priority 10; policy drop; tcp dport 22 accept; } }`), will, fine},
	{"a mark that is taken away first", tableOf(`table inet mangle { chain input { type filter hook input priority -150; meta mark set meta mark & 0xffff0fff; } }`) +
		inet("drop", neighbours+"meta mark & 0x1000 == 0x1000 accept; ct state established accept; meta mark & 0x1000 == 0 tcp dport 25 accept;"), fine, fine},
	{"a dormant table", tableOf(`table inet filter { flags dormant; chain input { type filter hook input priority 0; policy drop; } }`), fine, fine},
	{"addresses of loopback, as hardening guides have them", inet("drop", "iif lo accept; "+neighbours+"ip saddr 127.0.0.0/8 counter drop; ip6 saddr ::1 counter drop;"+
		"iif != lo ip daddr 127.0.0.1/8 drop; ip saddr { 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/4 } drop; ct state established accept; tcp dport 25 accept;"), fine, fine},
	{"addresses beside those of loopback", inet("accept", "ip saddr 126.0.0.0/7 drop; ip6 saddr ::/64 drop;"), may, may},
	{"iptables with addresses of loopback", "iptables -A INPUT ! -i lo -s 127.0.0.0/8 -j DROP; iptables -A INPUT -d 127.0.0.0/8 -j REJECT; ip6tables -A INPUT -s ::1 -j DROP", fine, fine},
	{"iptables with a policy", "iptables -P INPUT DROP", will, fine},
	{"iptables with a last rule", "iptables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; iptables -A INPUT -p tcp --dport 22 -j ACCEPT; iptables -A INPUT -j REJECT", will, fine},
	{"ip6tables with jumps", "ip6tables -N icmp; ip6tables -A icmp -p ipv6-icmp -j ACCEPT; ip6tables -A INPUT -j icmp; ip6tables -A INPUT -m state --state ESTABLISHED -j ACCEPT; ip6tables -A INPUT -j DROP", fine, will},
	{"iptables with the mark", "iptables -P INPUT DROP; iptables -A INPUT -m mark --mark 0x1000/0x1000 -m comment --comment postern -j ACCEPT", fine, fine},
	{"iptables with another mark", "iptables -P INPUT DROP; iptables -A INPUT -m mark ! --mark 0x1000/0x1000 -j ACCEPT", will, fine},
	{"iptables with ports", "iptables -P INPUT DROP; iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT; iptables -A INPUT -i lan+ -p tcp -m multiport --dports 20:23,25 -j ACCEPT", fine, fine},
	{"iptables with other ports", "iptables -P INPUT DROP; iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT; iptables -A INPUT -p tcp -m multiport ! --dports 20:23,25 -j ACCEPT", will, fine},
	{"iptables with syn", "iptables -A INPUT -p tcp ! --syn -m state --state NEW -j DROP; iptables -A INPUT -m conntrack --ctstate INVALID -j DROP", fine, fine},
	{"ufw's last words", "iptables -N local; iptables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; iptables -A INPUT -j local; iptables -P INPUT ACCEPT;" +
		"iptables -A local -m addrtype --dst-type LOCAL -j RETURN; iptables -A local -m addrtype --dst-type MULTICAST -j RETURN; iptables -A local -m limit --limit 3/min -j LOG; iptables -A local -j DROP", will, fine},
	{"mangle of iptables", "iptables -t mangle -A INPUT -p tcp --dport 25 -j DROP", will, fine},
	{"a mark of iptables' own", "iptables -t mangle -A INPUT -j MARK --set-xmark 0x0/0x1000; iptables -P INPUT DROP; iptables -A INPUT -m mark --mark 0x1000/0x1000 -j ACCEPT;" +
		"iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT; iptables -A INPUT -p tcp --dport 25 -j ACCEPT", fine, fine},
}

func TestWhatIsSaidOfAnInputChainIsWhatItDoesAndTheCommandMendsIt(t *testing.T) {
	withFirewalls(t)
	n := routed(t)
	plan := tproxyPlan()
	up(t, n.Gateway, plan)
	startRelay(t, n.Gateway, plan)
	echo(t, n.Server, at(n.Server4, smtp))
	echo(t, n.Server, at(n.Server6, smtp))
	for _, row := range firewalls {
		t.Run(row.name, func(t *testing.T) {
			shell(t, n.Gateway, noFirewall)
			shell(t, n.Gateway, row.script)
			found := hindrances(t, n.Gateway, plan)
			for _, family := range []struct {
				name, want     string
				client, server netip.Addr
			}{{"IPv4", row.four, n.Client4, n.Server4}, {"IPv6", row.six, n.Client6, n.Server6}} {
				if said := saidOf(found, family.name); said != family.want {
					t.Errorf("%s: said %q, expected %q: %+v", family.name, said, family.want, found)
				}
				err := getsThrough(n, family.client, family.server, silence)
				if family.want == fine && err != nil || family.want == will && err == nil {
					t.Errorf("%s: said to be %q, and a connection: %v", family.name, family.want, err)
				}
			}
			for _, h := range found {
				shell(t, n.Gateway, h.Command)
			}
			if left := hindrances(t, n.Gateway, plan); len(left) > 0 {
				t.Errorf("after %+v there is still %+v", found, left)
			}
			for _, way := range [][2]netip.Addr{{n.Client4, n.Server4}, {n.Client6, n.Server6}} {
				if err := getsThrough(n, way[0], way[1], patience); err != nil {
					t.Errorf("mended, and still %v", err)
				}
			}
		})
	}
}

// saidOf gives the worst that was said of a family.
func saidOf(found []InputHindrance, family string) string {
	said := fine
	for _, h := range found {
		switch {
		case !strings.Contains(h.What, family):
		case h.Surely:
			return will
		default:
			said = may
		}
	}
	return said
}

func TestRedirectedConnectionsAreFollowedToTheirListener(t *testing.T) {
	withFirewalls(t)
	n := routed(t)
	plan := redirectPlan()
	up(t, n.Gateway, plan)
	startRelay(t, n.Gateway, plan)
	echo(t, n.Server, at(n.Server4, smtp))
	const answers = "ct state established accept; "
	for _, row := range []struct{ name, script, want string }{
		{"drop", inet("drop", answers), will},
		{"the port that was asked for", inet("drop", answers+"tcp dport 25 accept;"), will},
		{"the port that is listened on", inet("drop", answers+"tcp dport 2525 accept;"), fine},
		{"the port asked for, of conntrack", inet("drop", answers+"meta l4proto tcp ct original proto-dst 25 accept;"), fine},
		{"what was translated", inet("drop", answers+"ct status dnat accept;"), fine},
		{"the mark", inet("drop", answers+"meta mark & 0x1000 == 0x1000 accept;"), may},
		{"iptables", "iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT; iptables -P INPUT DROP", will},
		{"iptables with what was translated", "iptables -P INPUT DROP; iptables -A INPUT -m conntrack --ctstate ESTABLISHED,DNAT -j ACCEPT", fine},
	} {
		t.Run(row.name, func(t *testing.T) {
			shell(t, n.Gateway, noFirewall)
			shell(t, n.Gateway, row.script)
			found := hindrances(t, n.Gateway, plan)
			if said := saidOf(found, "IPv4"); said != row.want {
				t.Errorf("said %q, expected %q: %+v", said, row.want, found)
			}
			err := getsThrough(n, n.Client4, n.Server4, silence)
			if row.want == fine && err != nil || row.want == will && err == nil {
				t.Errorf("said to be %q, and a connection: %v", row.want, err)
			}
			for _, h := range found {
				shell(t, n.Gateway, h.Command)
			}
			if left := hindrances(t, n.Gateway, plan); len(left) > 0 {
				t.Errorf("after %+v there is still %+v", found, left)
			}
			if err := getsThrough(n, n.Client4, n.Server4, patience); err != nil {
				t.Errorf("mended, and still %v", err)
			}
		})
	}
}

func TestSourcesOfThePlanAreWhatAnInputChainIsAskedFor(t *testing.T) {
	withFirewalls(t)
	n := routed(t)
	shell(t, n.Gateway, inet("drop", neighbours+"ct state established accept; ip saddr 10.0.0.0/8 accept; ip6 saddr 2001:db8:1::/48 accept;"))
	for _, row := range []struct {
		sources   []string
		four, six string
	}{
		{nil, may, may},
		{[]string{"10.1.0.0/16", "2001:db8:1:7::/64"}, fine, fine},
		{[]string{"10.1.0.0/16"}, fine, fine}, // nothing of IPv6 is intercepted
		{[]string{"192.0.2.0/24", "2001:db8:9::/64"}, will, will},
		{[]string{"0.0.0.0/0", "2001:db8::/32"}, may, may},
	} {
		plan := tproxyPlan()
		plan.Sources = prefixes(row.sources...)
		found := hindrances(t, n.Gateway, plan)
		if four, six := saidOf(found, "IPv4"), saidOf(found, "IPv6"); four != row.four || six != row.six {
			t.Errorf("%q: %s and %s, expected %s and %s: %+v", row.sources, four, six, row.four, row.six, found)
		}
	}
}

func TestARuleIsNamedAsNftListsIt(t *testing.T) {
	withFirewalls(t)
	n := routed(t)
	shell(t, n.Gateway, tableOf(`table inet filter {
		chain last { ip6 saddr ::/0 accept; counter drop; }
		chain input { type filter hook input priority 0; meta mark 0x1001 accept; jump last; } }`))
	plan := tproxyPlan()
	plan.Listen = plan.Listen[:1]
	found := hindrances(t, n.Gateway, plan)
	listed, err := outputOn(t, n.Gateway, "nft", "-a", "list", "ruleset")
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %+v", err, found)
	}
	_, rest, _ := strings.Cut(listed, "drop # handle ")
	handle, _, _ := strings.Cut(rest, "\n")
	want := "the input chain inet filter input may drop new connections from lan0 (IPv4), connections under way from lan0 (IPv4), " +
		"answers of servers (IPv4), by rule 2 of chain last (handle " + handle + ")"
	if found[0].What != want || found[0].Surely {
		t.Errorf("%+v, expected %q", found[0], want)
	}
}

func outputOn(t *testing.T, host *netlab.Host, name string, args ...string) (string, error) {
	t.Helper()
	var said strings.Builder
	command := host.Command(within(t, patience), name, args...)
	command.Stdout = &said
	err := host.Run(command)
	return said.String(), err
}

func TestUpAndShowSayWhatKeepsConnectionsOut(t *testing.T) {
	n := routed(t)
	install(t, n.Gateway, "closed", closed())
	report, shown := up(t, n.Gateway, tproxyPlan()), show(t, n.Gateway, tproxyPlan())
	const command = "nft 'insert rule inet closed chain0 meta mark & 0x1000 == 0x1000 accept'"
	if !strings.Contains(strings.Join(report.Warnings, "\n"), command) || !slices.Equal(report.Warnings, shown.Warnings) {
		t.Errorf("up %q, show %q", report.Warnings, shown.Warnings)
	}
}

func TestRulesOfIptablesLegacyAreNotSeenAndTheirRuleIsSaidAllTheSame(t *testing.T) {
	withFirewalls(t)
	n := routed(t)
	plan := tproxyPlan()
	up(t, n.Gateway, plan)
	startRelay(t, n.Gateway, plan)
	echo(t, n.Server, at(n.Server4, smtp))
	if _, err := outputOn(t, n.Gateway, "iptables-legacy", "-P", "INPUT", "DROP"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("this kernel, or this machine, has no iptables-legacy to test with: %v", err)
		}
		t.Log("there is no iptables-legacy to test with")
		return
	}
	if err := getsThrough(n, n.Client4, n.Server4, silence); err == nil {
		t.Error("a connection gets in: this test proves nothing")
	}
	if found := hindrances(t, n.Gateway, plan); len(found) > 0 {
		t.Errorf("%+v", found)
	}
	const command = "iptables-legacy -I INPUT -m mark --mark 0x1000/0x1000 -j ACCEPT"
	if warnings := show(t, n.Gateway, plan).Warnings; len(warnings) != 1 || !strings.HasSuffix(warnings[0], ": "+command) {
		t.Fatalf("%q", warnings)
	}
	shell(t, n.Gateway, command)
	if err := getsThrough(n, n.Client4, n.Server4, patience); err != nil {
		t.Errorf("mended, and still %v", err)
	}
}
