package intercept

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/proxy/proxytest/netlab"
)

// The rules of others are made here by the programs that make them on real
// machines, and looked at by the same.

// program finds one that the test needs. Where the machine lacks it the test
// fails in CI and is skipped elsewhere.
func program(t *testing.T, name, debianPackage string) string {
	t.Helper()
	for _, place := range []string{name, "/usr/sbin/" + name} { // ordinary users' PATH leaves it out
		if path, err := exec.LookPath(place); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "" {
		t.Skipf("%s is missing: apt-get install %s", name, debianPackage)
	}
	t.Fatalf("%s is missing: apt-get install %s", name, debianPackage)
	return ""
}

// on runs a program on a host and returns what it printed.
func on(t *testing.T, host *netlab.Host, input string, name string, args ...string) string {
	t.Helper()
	command := host.Command(within(t, time.Minute), name, args...)
	var out, said bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(input), &out, &said
	if err := host.Run(command); err != nil {
		t.Fatalf("%s %q: %v: %s", filepath.Base(name), args, err, said.String())
	}
	return out.String()
}

// tools are the programs that make rules.
type tools struct {
	nft     string
	restore map[string]string // by the name of a file of rules: iptables, ip6tables
	save    map[string]string
}

func toolsOf(t *testing.T) tools {
	t.Helper()
	s := tools{nft: program(t, "nft", "nftables"), restore: map[string]string{}, save: map[string]string{}}
	for _, name := range []string{"iptables", "ip6tables"} {
		s.restore[name] = program(t, name+"-nft-restore", "iptables")
		s.save[name] = program(t, name+"-nft-save", "iptables")
	}
	return s
}

// put gives a host the rules in testdata/firewalls under a name.
func (s tools) put(t *testing.T, host *netlab.Host, name string) {
	t.Helper()
	found := false
	for _, file := range []string{"iptables", "ip6tables", "nft"} {
		rules, err := os.ReadFile(filepath.Join("testdata/firewalls", name, file))
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case err != nil:
			t.Fatal(err)
		case file == "nft":
			on(t, host, string(rules), s.nft, "-f", "-")
		default:
			on(t, host, string(rules), s.restore[file])
		}
		found = true
	}
	if !found {
		t.Fatalf("no rules called %s", name)
	}
}

var (
	counters = regexp.MustCompile(` \[\d+:\d+\]`)
	comments = regexp.MustCompile(`(?m)^#.*\n`)
	ours     = regexp.MustCompile(`(?ms)^table (inet|bridge) postern \{.*?^\}\n`)
)

// seen is what the programs show of all rules, Postern's left out.
func (s tools) seen(t *testing.T, host *netlab.Host) string {
	t.Helper()
	all := ours.ReplaceAllString(on(t, host, "", s.nft, "--stateless", "list", "ruleset"), "")
	for _, name := range []string{"iptables", "ip6tables"} {
		all += comments.ReplaceAllString(counters.ReplaceAllString(on(t, host, "", s.save[name]), ""), "")
	}
	return all
}

// unchanged wants the rules of others as they were.
func (s tools) unchanged(t *testing.T, host *netlab.Host, when, before string) {
	t.Helper()
	if now := s.seen(t, host); now != before {
		t.Errorf("%s the rules of others are\n%s\nand were\n%s", when, now, before)
	}
}

// letIn says to a firewall what Up has printed, to the word.
func (s tools) letIn(t *testing.T, host *netlab.Host, name string, rule InputRule) {
	t.Helper()
	if name == "firewalld" {
		on(t, host, "insert rule inet firewalld filter_INPUT "+rule.NFT+"\n", s.nft, "-f", "-")
		return
	}
	for _, command := range rule.IPTables {
		words := strings.Fields(command)
		on(t, host, "", program(t, words[0]+"-nft", "iptables"), words[1:]...)
	}
}

// getsNowhere wants a connection that does not come about.
func getsNowhere(t *testing.T, host *netlab.Host, to netip.AddrPort) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if conn, err := host.Dial(ctx, anyPort, to); err == nil {
		_ = conn.Close()
		t.Errorf("%s is reached", to)
	}
}

func TestBesideTheFirewallsOfOthersConnectionsAreTakenAndTheirRulesStay(t *testing.T) {
	s := toolsOf(t)
	for _, wall := range []struct {
		name   string
		closed bool // until it is told to let Postern's connections in
	}{{"docker", false}, {"router", false}, {"ufw", true}, {"firewalld", true}} {
		for _, plan := range []Plan{tproxyPlan(), redirectPlan()} {
			t.Run(fmt.Sprint(wall.name, " ", plan.Method), func(t *testing.T) {
				n := routed(t)
				if err := n.Gateway.AddBridge("docker0", nil, prefixes("172.17.0.1/16", "fd00:17::1/64")...); err != nil {
					t.Fatal(err)
				}
				s.put(t, n.Gateway, wall.name)
				before := s.seen(t, n.Gateway)
				if !strings.Contains(before, "ACCEPT") && !strings.Contains(before, "accept") {
					t.Fatalf("there are no rules:\n%s", before)
				}
				report := up(t, n.Gateway, plan)
				s.unchanged(t, n.Gateway, "after up", before)
				r := startRelay(t, n.Gateway, plan)
				if wall.closed {
					families(t, n, func(t *testing.T, _, server netip.Addr) { getsNowhere(t, n.Client, at(server, smtp)) })
					s.letIn(t, n.Gateway, wall.name, report.InputRule)
					before = s.seen(t, n.Gateway)
				}
				families(t, n, func(t *testing.T, client, server netip.Addr) {
					echo(t, n.Server, at(server, smtp))
					v := mustCall(t, n.Client, anyPort, at(server, smtp))
					if err := v.transfer(); err != nil || !v.wasIntercepted() {
						t.Errorf("the server sees %s: %v", v.seen, err)
					}
					if kept := v.seen.Addr() == client; kept != (plan.PreserveSource && wall.name != "router") {
						t.Errorf("the server sees %s, the client is %s", v.seen, client)
					}
					if arrival := <-r.arrivals; arrival.Destination != at(server, smtp) {
						t.Errorf("arrived %+v", arrival)
					}
				})
				downWholly(t, n.Gateway)
				s.unchanged(t, n.Gateway, "after down", before)
			})
		}
	}
}

func TestAServerBehindAPortForwardingOfIptablesIsSeenUnderItsOwnAddress(t *testing.T) {
	s := toolsOf(t)
	n := routed(t)
	s.put(t, n.Gateway, "router")
	plan := tproxyPlan()
	up(t, n.Gateway, plan)
	r := startRelay(t, n.Gateway, plan)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		public := map[bool]netip.Addr{true: n.Gateway4, false: n.Gateway6}[client.Is4()]
		v := mustCall(t, n.Client, anyPort, at(public, smtp))
		if arrival := <-r.arrivals; arrival.Destination != at(server, smtp) || !v.wasIntercepted() {
			t.Errorf("arrived %+v", arrival)
		}
		if err := v.transfer(); err != nil {
			t.Error(err)
		}
	})
}

// firewalld's zones know ports and no marks.
func TestThePortInAZoneOfFirewalldLetsInterceptedConnectionsIn(t *testing.T) {
	s := toolsOf(t)
	n := routed(t)
	s.put(t, n.Gateway, "firewalld")
	on(t, n.Gateway, "", s.nft, "add", "rule", "inet", "firewalld", "filter_IN_external", "tcp dport 25 ct state new,untracked accept")
	plan := tproxyPlan()
	up(t, n.Gateway, plan)
	startRelay(t, n.Gateway, plan)
	families(t, n, func(t *testing.T, _, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		if v := mustCall(t, n.Client, anyPort, at(server, smtp)); !v.wasIntercepted() {
			t.Error("the connection was not intercepted")
		}
	})
}

// Loading the rules of others anew is no matter, unless that empties everything.
func TestOnlyAFlushOfTheWholeRulesetTakesInterceptionOut(t *testing.T) {
	s := toolsOf(t)
	n := routed(t)
	plan := tproxyPlan()
	up(t, n.Gateway, plan)
	for _, name := range []string{"docker", "ufw", "firewalld"} {
		s.put(t, n.Gateway, name) // iptables-restore flushes what it loads
		s.put(t, n.Gateway, name)
	}
	if state := show(t, n.Gateway, plan); !state.Agrees || !state.Taking {
		t.Errorf("%+v", state)
	}
	on(t, n.Gateway, "", s.nft, "flush", "ruleset")
	if state := show(t, n.Gateway, plan); state.Taking || !slices.Contains(state.Differences, "table inet postern is missing") {
		t.Errorf("%+v", state)
	}
	up(t, n.Gateway, plan)
	if state := show(t, n.Gateway, plan); !state.Agrees || !state.Taking {
		t.Errorf("%+v", state)
	}
}

// container is a host behind docker0, as a container is.
func container(t *testing.T, n *netlab.Network) *netlab.Host {
	t.Helper()
	c, err := netlab.NewHost("container")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	err = errors.Join(
		netlab.Connect(netlab.End{Host: c, Interface: "eth0", Addresses: prefixes("172.17.0.2/16", "fd00:17::2/64")},
			netlab.End{Host: n.Gateway, Interface: "veth0"}),
		n.Gateway.AddBridge("docker0", []string{"veth0"}, prefixes("172.17.0.1/16", "fd00:17::1/64")...),
		c.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("172.17.0.1")),
		c.AddRoute(netip.MustParsePrefix("::/0"), netip.MustParseAddr("fd00:17::1")),
	)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheMailOfAContainerIsTakenOnDockersBridge(t *testing.T) {
	s := toolsOf(t)
	for _, plan := range []Plan{tproxyPlan(), redirectPlan()} {
		t.Run(string(plan.Method), func(t *testing.T) {
			n := routed(t)
			c := container(t, n)
			noBridgeNetfilter(t, n.Gateway)
			s.put(t, n.Gateway, "docker")
			plan.Interfaces = []string{"lan0", "docker0"}
			up(t, n.Gateway, plan)
			r := startRelay(t, n.Gateway, plan)
			families(t, n, func(t *testing.T, client, server netip.Addr) {
				echo(t, n.Server, at(server, smtp))
				for from, interfaceName := range map[*netlab.Host]string{c: "docker0", n.Client: "lan0"} {
					v := mustCall(t, from, anyPort, at(server, smtp))
					if err := v.transfer(); err != nil || !v.wasIntercepted() {
						t.Errorf("%s: the server sees %s: %v", from.Name(), v.seen, err)
					}
					if arrival := <-r.arrivals; arrival.Interface != interfaceName || arrival.Client != v.local {
						t.Errorf("%s: arrived %+v", from.Name(), arrival)
					}
				}
			})
		})
	}
}

// A mail server in a container, published on the gateway's own address.
func TestAServerInAContainerIsSeenUnderItsOwnAddress(t *testing.T) {
	s := toolsOf(t)
	n := routed(t)
	c := container(t, n)
	s.put(t, n.Gateway, "docker")
	plan := tproxyPlan()
	up(t, n.Gateway, plan)
	r := startRelay(t, n.Gateway, plan)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		inside := map[bool]netip.Addr{true: netip.MustParseAddr("172.17.0.2"), false: netip.MustParseAddr("fd00:17::2")}[client.Is4()]
		public := map[bool]netip.Addr{true: n.Gateway4, false: n.Gateway6}[client.Is4()]
		echo(t, c, at(inside, smtp))
		v := mustCall(t, n.Client, anyPort, at(public, smtp))
		if arrival := <-r.arrivals; arrival.Destination != at(inside, smtp) {
			t.Errorf("arrived %+v", arrival)
		}
		if err := v.transfer(); err != nil || !v.wasIntercepted() || v.seen.Addr() != client {
			t.Errorf("the server sees %s: %v", v.seen, err)
		}
	})
}

// Docker drops what it does not know where packets are forwarded, so that pass is
// a black hole until DOCKER-USER lets mail through. Interception is not concerned.
func TestPassBesideDockerNeedsARuleInDockerUser(t *testing.T) {
	s := toolsOf(t)
	n := routed(t)
	s.put(t, n.Gateway, "docker")
	plan := tproxyPlan()
	plan.WhenDown = Pass
	up(t, n.Gateway, plan)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		getsNowhere(t, n.Client, at(server, smtp))
		command := map[bool]string{true: "iptables-nft", false: "ip6tables-nft"}[client.Is4()]
		for _, rule := range [][]string{{"-p", "tcp", "--dport", "25"}, {"-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED"}} {
			on(t, n.Gateway, "", program(t, command, "iptables"), append(append([]string{"-I", "DOCKER-USER"}, rule...), "-j", "ACCEPT")...)
		}
		if v := mustCall(t, n.Client, anyPort, at(server, smtp)); v.wasIntercepted() {
			t.Error("intercepted by nobody")
		}
	})
}

// noBridgeNetfilter switches off what up refuses beside a bridge.
func noBridgeNetfilter(t *testing.T, host *netlab.Host) {
	t.Helper()
	for _, name := range []string{"iptables", "ip6tables"} {
		if err := host.Sysctl("net/bridge/bridge-nf-call-"+name, "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}
