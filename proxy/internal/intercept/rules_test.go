package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"postern/proxy/proxytest/netlab"
)

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

func TestOnlyWhatThePlanNamesIsIntercepted(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*Plan)
		port   uint16
		want   bool
	}{
		{"everything from the interface", func(*Plan) {}, 25, true},
		{"a port that is not listed", func(*Plan) {}, 587, false},
		{"a further port", func(p *Plan) { p.Ports = []uint16{25, 587} }, 587, true},
		{"an interface that is not listed", func(p *Plan) { p.Interfaces = []string{"wan0"} }, 25, false},
		{"one of several interfaces", func(p *Plan) { p.Interfaces = []string{"dmz0", "lan0"} }, 25, true},
		{"a client in sources", func(p *Plan) { p.Sources = prefixes("10.1.0.0/24", "2001:db8:1::/64") }, 25, true},
		{"a client not in sources", func(p *Plan) { p.Sources = prefixes("10.9.0.0/16", "2001:db8:9::/48") }, 25, false},
		{"sources of the whole world", func(p *Plan) { p.Sources = prefixes("0.0.0.0/0", "::/0") }, 25, true},
		{"overlapping sources", func(p *Plan) {
			p.Sources = prefixes("10.0.0.0/8", "10.1.0.0/24", "10.1.1.0/24", "2001:db8::/32", "2001:db8:1::2/128")
		}, 25, true},
		{"a client in bypass", func(p *Plan) { p.Bypass = prefixes("10.1.0.2/32", "2001:db8:1::2/128") }, 25, false},
		{"a neighbour of the client in bypass", func(p *Plan) { p.Bypass = prefixes("10.1.0.3/32", "2001:db8:1::3/128") }, 25, true},
		{"a server in bypass", func(p *Plan) { p.Bypass = prefixes("203.0.113.0/24", "2001:db8:2::/64") }, 25, false},
		{"a client in sources and in bypass", func(p *Plan) {
			p.Sources = prefixes("10.1.0.0/24", "2001:db8:1::/64")
			p.Bypass = prefixes("10.1.0.2/32", "2001:db8:1::2/128")
		}, 25, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			n := routed(t)
			for _, plan := range []Plan{tproxyPlan(), redirectPlan()} {
				row.change(&plan)
				up(t, n.Gateway, plan)
				if state := show(t, n.Gateway, plan); !state.Agrees {
					t.Errorf("%s: %q", plan.Method, state.Differences)
				}
				r := startRelay(t, n.Gateway, plan)
				families(t, n, func(t *testing.T, client, server netip.Addr) {
					echo(t, n.Server, at(server, row.port))
					if v := mustCall(t, n.Client, anyPort, at(server, row.port)); v.wasIntercepted() != row.want {
						t.Errorf("%s: intercepted %v, want %v", plan.Method, v.wasIntercepted(), row.want)
					}
				})
				r.kill()
			}
		})
	}
}

func TestSourcesOfOneFamilyLeaveTheOtherAlone(t *testing.T) {
	n := routed(t)
	plan := tproxyPlan()
	plan.Sources = prefixes("10.1.0.0/24")
	up(t, n.Gateway, plan)
	startRelay(t, n.Gateway, plan)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		if v := mustCall(t, n.Client, anyPort, at(server, smtp)); v.wasIntercepted() != client.Is4() {
			t.Errorf("intercepted %v", v.wasIntercepted())
		}
	})
}

// kernel is everything in nftables and policy routing, as the kernel lists it.
type kernel struct {
	Rules, Routing []string
}

func snapshot(t *testing.T, host *netlab.Host) kernel {
	t.Helper()
	var k kernel
	err := host.Do(func() error {
		connection, err := nftables.New()
		if err != nil {
			return err
		}
		chains, err := connection.ListChains()
		if err != nil {
			return err
		}
		for _, c := range chains {
			rules, err := kernelRules(c.Table.Family, c.Table.Name, c.Name)
			if err != nil {
				return err
			}
			k.Rules = append(k.Rules, fmt.Sprintf("%d %s %s %x", c.Table.Family, c.Table.Name, c.Name, rules))
		}
		return eachEntry(func(rule *netlink.Rule, route *netlink.Route) error {
			if rule != nil {
				k.Routing = append(k.Routing, fmt.Sprintf("%d %s iif %s %#x", rule.Family, rule, rule.IifName, rule.Mark))
			} else if route.Table != 255 { // local: addresses, which nobody changes here
				k.Routing = append(k.Routing, route.String())
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(k.Rules)
	slices.Sort(k.Routing)
	return k
}

func TestUpTwiceIsTheSameAsOnce(t *testing.T) {
	for _, plan := range []Plan{tproxyPlan(), redirectPlan()} {
		n := routed(t)
		up(t, n.Gateway, plan)
		once := snapshot(t, n.Gateway)
		up(t, n.Gateway, plan)
		if twice := snapshot(t, n.Gateway); !reflect.DeepEqual(once, twice) {
			t.Errorf("%s: once %q, twice %q", plan.Method, once, twice)
		}
	}
}

func TestAnotherPlanReplacesTheFirstWholly(t *testing.T) {
	other := tproxyPlan()
	other.Ports, other.WhenDown, other.Bypass = []uint16{25, 587}, Pass, prefixes("10.1.0.9/32")
	other.Interfaces = []string{"lan0", "dmz0"}
	for _, first := range []Plan{tproxyPlan(), redirectPlan(), other} {
		for _, second := range []Plan{tproxyPlan(), redirectPlan(), other} {
			fresh, used := routed(t), routed(t)
			up(t, fresh.Gateway, second)
			up(t, used.Gateway, first)
			up(t, used.Gateway, second)
			if want, got := snapshot(t, fresh.Gateway), snapshot(t, used.Gateway); !reflect.DeepEqual(want, got) {
				t.Errorf("%s after %s: %q, want %q", second.Method, first.Method, got, want)
			}
			if state := show(t, used.Gateway, second); !state.Agrees || !state.Taking {
				t.Errorf("%+v", state)
			}
		}
	}
}

func TestWhatTheKernelRefusesLeavesEverythingAsItWas(t *testing.T) {
	n := routed(t)
	up(t, n.Gateway, redirectPlan())
	before := snapshot(t, n.Gateway)
	plan := tproxyPlan() // with routing rules, which must go again
	bridges := []bridge{{name: "br0", address: make([]byte, 6), ports: []string{"x", "x"}}}
	err := n.Gateway.Do(func() error {
		bridges[0].address = make([]byte, 99) // longer than any header
		return plan.put(plan.tables(bridges))
	})
	if err == nil {
		t.Fatal("the kernel took it")
	}
	if after := snapshot(t, n.Gateway); !reflect.DeepEqual(before, after) {
		t.Errorf("%v: before %q, after %q", err, before, after)
	}
}

// meddlings are what somebody else did to rules in force, and how Show puts it.
var meddlings = []struct {
	name   string
	change func(connection *nftables.Conn, table *nftables.Table) error
	want   string
}{
	{"a rule less", func(c *nftables.Conn, table *nftables.Table) error {
		c.FlushChain(&nftables.Chain{Table: table, Name: hookChain})
		return nil
	}, `chain prerouting of table inet has 0 rules, the plan 5: rule 1 is missing: "packets of Postern's own connections"`},
	{"the first rule deleted", func(c *nftables.Conn, table *nftables.Table) error {
		rules, err := c.GetRules(table, &nftables.Chain{Name: hookChain})
		if err != nil {
			return err
		}
		return c.DelRule(rules[0])
	}, `chain prerouting of table inet has 4 rules, the plan 5: rule 1 is not "packets of Postern's own connections"`},
	{"a rule more", func(c *nftables.Conn, table *nftables.Table) error {
		c.AddRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Table: table, Name: hookChain}, Exprs: ctEstablished()})
		return nil
	}, "chain prerouting of table inet has 6 rules, the plan 5: rule 6 is not part of the plan"},
	{"another rule in its place", func(c *nftables.Conn, table *nftables.Table) error {
		chain := &nftables.Chain{Table: table, Name: hookChain}
		c.FlushChain(chain)
		for range 5 {
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: ctEstablished()})
		}
		return nil
	}, `chain prerouting of table inet: rule 1 is not "packets of Postern's own connections"`},
	{"a port more", func(c *nftables.Conn, table *nftables.Table) error {
		return c.SetAddElements(&nftables.Set{Table: table, Name: setPorts, KeyType: nftables.TypeInetService},
			[]nftables.SetElement{{Key: bigEndian16(587)}})
	}, "set ports of table inet has other members"},
	{"no table", func(c *nftables.Conn, table *nftables.Table) error {
		c.DelTable(table)
		return nil
	}, "table inet postern is missing"},
	{"a chain more", func(c *nftables.Conn, table *nftables.Table) error {
		c.AddChain(&nftables.Chain{Table: table, Name: "more"})
		return nil
	}, "chain more of table inet is not part of the plan"},
	{"no routing rule", func(*nftables.Conn, *nftables.Table) error {
		rules, err := installed()
		if err != nil {
			return err
		}
		return netlink.RuleDel(&rules.rules[0])
	}, "no IPv4 routing rule of priority 525"},
	{"no IPv6 route", func(*nftables.Conn, *nftables.Table) error {
		rules, err := installed()
		if err != nil {
			return err
		}
		return netlink.RouteDel(&rules.routes[1])
	}, "the IPv6 local route for intercepted packets is missing"},
}

func TestShowNamesWhatSomebodyChanged(t *testing.T) {
	for _, row := range meddlings {
		t.Run(row.name, func(t *testing.T) {
			n := routed(t)
			plan := tproxyPlan()
			up(t, n.Gateway, plan)
			err := n.Gateway.Do(func() error {
				connection, err := nftables.New()
				if err != nil {
					return err
				}
				table := &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
				return errors.Join(row.change(connection, table), connection.Flush())
			})
			if err != nil {
				t.Fatal(err)
			}
			state := show(t, n.Gateway, plan)
			if state.Agrees || !slices.Contains(state.Differences, row.want) {
				t.Errorf("agrees %v, differences %q, want %q", state.Agrees, state.Differences, row.want)
			}
			up(t, n.Gateway, plan)
			if state := show(t, n.Gateway, plan); !state.Agrees {
				t.Errorf("after Up: %q", state.Differences)
			}
		})
	}
}

func TestShowSaysThatNothingIsInForce(t *testing.T) {
	n := routed(t)
	state := show(t, n.Gateway, tproxyPlan())
	if state.Taking || state.Lingering || state.Agrees || len(state.Rules) == 0 {
		t.Errorf("%+v", state)
	}
}

func TestUpSaysHowManyConnectionsRun(t *testing.T) {
	n := routed(t)
	if report := up(t, n.Gateway, tproxyPlan()); report.Running.Known {
		t.Errorf("running %s although conntrack is idle", report.Running)
	}
	downWholly(t, n.Gateway)
	install(t, n.Gateway, "tracking", strict()...)
	for i, server := range []netip.Addr{n.Server4, n.Server6} {
		echo(t, n.Server, at(server, smtp))
		echo(t, n.Server, at(server, 587))
		for range 3 {
			mustCall(t, n.Client, anyPort, at(server, smtp))
		}
		mustCall(t, n.Client, anyPort, at(server, 587))
		want := Flows{Known: true, Count: 3 * (i + 1)}
		if report := up(t, n.Gateway, tproxyPlan()); report.Running != want {
			t.Errorf("running %s, want %s", report.Running, want)
		}
		downWholly(t, n.Gateway)
	}
}

func TestPassIsRefusedWhereNothingIsForwarded(t *testing.T) {
	for _, row := range []struct {
		v4     bool
		sysctl string
	}{{true, "net.ipv4.ip_forward"}, {false, "net.ipv6.conf.all.forwarding"}} {
		n := routed(t)
		if err := n.Gateway.Sysctl(row.sysctl, "0"); err != nil {
			t.Fatal(err)
		}
		plan := tproxyPlan()
		plan.WhenDown = Pass
		isRefused(t, n.Gateway, row.sysctl, func() error { _, err := plan.Up(); return err })
		isRefused(t, n.Gateway, row.sysctl, plan.CheckMachine)
		plan.Listen = []netip.AddrPort{plan.Listen[map[bool]int{true: 1, false: 0}[row.v4]]} // the other family alone
		up(t, n.Gateway, plan)
		plan = tproxyPlan()
		up(t, n.Gateway, plan)
	}
}

func TestAPlanForNoneTakesTheRulesOut(t *testing.T) {
	n := routed(t)
	before := snapshot(t, n.Gateway)
	up(t, n.Gateway, tproxyPlan())
	up(t, n.Gateway, Plan{Method: None})
	if after := snapshot(t, n.Gateway); !reflect.DeepEqual(before, after) {
		t.Errorf("before %q, after %q", before, after)
	}
}
