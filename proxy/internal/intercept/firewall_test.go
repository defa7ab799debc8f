package intercept

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"postern/proxy/proxytest/netlab"
)

// firewall is somebody else's table on the gateway.
type firewall struct {
	hook   *nftables.ChainHook
	policy nftables.ChainPolicy
	rules  [][]expr.Any
}

func install(t *testing.T, host *netlab.Host, name string, walls ...firewall) {
	t.Helper()
	err := host.Do(func() error {
		connection, err := nftables.New()
		if err != nil {
			return err
		}
		table := connection.AddTable(&nftables.Table{Name: name, Family: nftables.TableFamilyINet})
		for i, wall := range walls {
			chain := connection.AddChain(&nftables.Chain{
				Name: fmt.Sprint("chain", i), Table: table, Type: nftables.ChainTypeFilter,
				Hooknum: wall.hook, Priority: nftables.ChainPriorityFilter, Policy: &wall.policy,
			})
			for _, exprs := range wall.rules {
				connection.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
			}
		}
		return connection.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
}

func ctState(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: register},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: make([]byte, 4)},
	}
}

// invalidDrop: ct state invalid drop
func invalidDrop() []expr.Any {
	return join(ctState(expr.CtStateBitINVALID), verdict(expr.VerdictDrop))
}

// strict drops what conntrack calls invalid, wherever packets pass.
func strict() []firewall {
	return []firewall{
		{nftables.ChainHookInput, nftables.ChainPolicyAccept, [][]expr.Any{invalidDrop()}},
		{nftables.ChainHookForward, nftables.ChainPolicyAccept, [][]expr.Any{invalidDrop()}},
		{nftables.ChainHookOutput, nftables.ChainPolicyAccept, [][]expr.Any{invalidDrop()}},
	}
}

const fourMB = 4 << 20

// transfer sends 4 MB to the server and wants them back unharmed.
func (v *visit) transfer() error {
	message := make([]byte, fourMB)
	source := rand.NewChaCha8([32]byte{})
	_, _ = source.Read(message)
	message = append(bytes.ReplaceAll(message, []byte("\n"), []byte("_")), '\n')
	sent := make(chan error, 1)
	go func() {
		_, err := v.Write(message)
		sent <- err
	}()
	back := make([]byte, len(message))
	_, err := io.ReadFull(v.reader, back)
	if sendErr := <-sent; sendErr != nil || err != nil {
		return errors.Join(err, sendErr)
	}
	if sha256.Sum256(back) != sha256.Sum256(message) {
		return errors.New("the bytes changed on the way")
	}
	return nil
}

func TestFourMegabytesPassAFirewallThatDropsInvalidPackets(t *testing.T) {
	for _, plan := range []Plan{tproxyPlan(), redirectPlan()} {
		t.Run(string(plan.Method), func(t *testing.T) {
			n := routed(t)
			install(t, n.Gateway, "strict", strict()...)
			up(t, n.Gateway, plan)
			startRelay(t, n.Gateway, plan)
			families(t, n, func(t *testing.T, client, server netip.Addr) {
				echo(t, n.Server, at(server, smtp))
				v := mustCall(t, n.Client, anyPort, at(server, smtp))
				if !v.wasIntercepted() {
					t.Error("the connection was not intercepted")
				}
				if err := v.transfer(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// closed is an input chain that lets in neighbour discovery and answers to this
// machine's own connections, and what else it is given.
func closed(rules ...[]expr.Any) firewall {
	icmp6 := []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, equals(unix.IPPROTO_ICMPV6)}
	answers := ctState(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	return firewall{nftables.ChainHookInput, nftables.ChainPolicyDrop, append([][]expr.Any{
		join(icmp6, verdict(expr.VerdictAccept)),
		join(answers, verdict(expr.VerdictAccept)),
	}, rules...)}
}

// marked and redirected are the rules that InputRule names.
func marked() []expr.Any {
	return join([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(Mark), Xor: make([]byte, 4)},
		equals(binaryutil.NativeEndian.PutUint32(Mark)...),
	}, verdict(expr.VerdictAccept))
}

func redirected() []expr.Any {
	return join(
		[]expr.Any{
			&expr.Ct{Key: expr.CtKeySTATUS, Register: register},
			&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4,
				Mask: binaryutil.NativeEndian.PutUint32(1 << 5), Xor: make([]byte, 4)}, // IPS_DST_NAT
			&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: make([]byte, 4)},
		}, isTCP(), []expr.Any{
			&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: destinationPort, Len: 2},
			equals(bigEndian16(2525)...),
		}, verdict(expr.VerdictAccept))
}

// ending is a closed chain that drops by its last rule and not by its policy.
func ending(rules ...[]expr.Any) firewall {
	wall := closed(rules...)
	wall.policy = nftables.ChainPolicyAccept
	wall.rules = append(wall.rules, verdict(expr.VerdictDrop))
	return wall
}

func TestInterceptedConnectionsPassAClosedInputChainByTheNamedRule(t *testing.T) {
	for _, row := range []struct {
		name  string
		plan  Plan
		rule  []expr.Any
		named InputRule
	}{
		{"tproxy", tproxyPlan(), marked(), InputRule{"meta mark & 0x1000 == 0x1000 accept", []string{
			"iptables -I INPUT -m mark --mark 0x1000/0x1000 -j ACCEPT",
			"ip6tables -I INPUT -m mark --mark 0x1000/0x1000 -j ACCEPT"}}},
		{"redirect", redirectPlan(), redirected(), InputRule{"ct status dnat tcp dport { 2525 } accept", []string{
			"iptables -I INPUT -p tcp --dport 2525 -m conntrack --ctstate DNAT -j ACCEPT",
			"ip6tables -I INPUT -p tcp --dport 2525 -m conntrack --ctstate DNAT -j ACCEPT"}}},
	} {
		for _, wall := range []struct {
			name string
			with func(...[]expr.Any) firewall
		}{{"by policy", closed}, {"by its last rule", ending}} {
			t.Run(row.name+" "+wall.name, func(t *testing.T) {
				n := routed(t)
				install(t, n.Gateway, "closed", wall.with(row.rule))
				report := up(t, n.Gateway, row.plan)
				shown := show(t, n.Gateway, row.plan)
				for _, named := range []InputRule{report.InputRule, shown.InputRule} {
					if !reflect.DeepEqual(named, row.named) {
						t.Errorf("named %q, this test installs another", named)
					}
				}
				for _, warnings := range [][]string{report.Warnings, shown.Warnings} {
					if len(warnings) > 0 {
						t.Errorf("warnings %q, although the rule is there", warnings)
					}
				}
				startRelay(t, n.Gateway, row.plan)
				families(t, n, func(t *testing.T, client, server netip.Addr) {
					echo(t, n.Server, at(server, smtp))
					if v := mustCall(t, n.Client, anyPort, at(server, smtp)); !v.wasIntercepted() {
						t.Error("the connection was not intercepted")
					}
				})
			})
		}
	}
}

func TestTheInputRuleNamesEachPortAndOnlyFamiliesThatAreListenedIn(t *testing.T) {
	two := redirectPlan()
	two.Listen[1] = netip.MustParseAddrPort("[::]:2626")
	if got := two.inputRule(); got.NFT != "ct status dnat tcp dport { 2525, 2626 } accept" || !strings.Contains(got.IPTables[1], "--dport 2626 ") {
		t.Errorf("%q", got)
	}
	one := tproxyPlan()
	one.Listen = one.Listen[1:]
	if got := one.inputRule().IPTables; len(got) != 1 || !strings.HasPrefix(got[0], "ip6tables ") {
		t.Errorf("%q", got)
	}
	if got := (Plan{Method: None}).inputRule(); got.NFT != "" || got.IPTables != nil {
		t.Errorf("%q", got)
	}
}

func TestReversePathFiltersAndMarksDoNotGetInTheWay(t *testing.T) {
	for _, row := range []struct{ rpFilter, srcValidMark, fwmarkAccept string }{
		{"1", "0", "0"}, {"2", "0", "0"}, {"1", "1", "0"}, {"2", "1", "0"}, {"1", "1", "1"}, {"0", "0", "1"},
	} {
		t.Run(fmt.Sprintf("rp_filter=%s src_valid_mark=%s tcp_fwmark_accept=%s",
			row.rpFilter, row.srcValidMark, row.fwmarkAccept), func(t *testing.T) {
			n := routed(t)
			for _, which := range []string{"all", "lan0", "wan0", "lo"} {
				for key, value := range map[string]string{"rp_filter": row.rpFilter, "src_valid_mark": row.srcValidMark} {
					if err := n.Gateway.Sysctl("net/ipv4/conf/"+which+"/"+key, value); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := n.Gateway.Sysctl("net.ipv4.tcp_fwmark_accept", row.fwmarkAccept); err != nil {
				t.Fatal(err)
			}
			plan := tproxyPlan()
			up(t, n.Gateway, plan)
			startRelay(t, n.Gateway, plan)
			families(t, n, func(t *testing.T, client, server netip.Addr) {
				echo(t, n.Server, at(server, smtp))
				v := mustCall(t, n.Client, anyPort, at(server, smtp))
				if v.seen.Addr() != client || !v.wasIntercepted() {
					t.Errorf("the server sees %s", v.seen)
				}
			})
		})
	}
}

// natChain adds somebody else's NAT.
func natChain(t *testing.T, host *netlab.Host, hook *nftables.ChainHook, priority *nftables.ChainPriority, exprs []expr.Any) {
	t.Helper()
	err := host.Do(func() error {
		connection, err := nftables.New()
		if err != nil {
			return err
		}
		table := connection.AddTable(&nftables.Table{Name: "nat", Family: nftables.TableFamilyINet})
		chain := connection.AddChain(&nftables.Chain{
			Name: fmt.Sprint("nat", *hook), Table: table, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: priority,
		})
		connection.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
		return connection.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestMasqueradingTowardsTheServerIsNoHindrance(t *testing.T) {
	n := routed(t)
	natChain(t, n.Gateway, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: register},
		equals(interfaceKey("wan0")...),
		&expr.Masq{},
	})
	plan := tproxyPlan()
	up(t, n.Gateway, plan)
	r := startRelay(t, n.Gateway, plan)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		v := mustCall(t, n.Client, anyPort, at(server, smtp))
		if err := v.transfer(); err != nil {
			t.Error(err)
		}
		if arrival := <-r.arrivals; arrival.Destination != at(server, smtp) {
			t.Errorf("destination %s", arrival.Destination)
		}
		if v.seen.Addr() == client {
			t.Error("nothing was masqueraded: this test proves nothing")
		}
	})
}

func TestAServerBehindAPortForwardingIsSeenUnderItsOwnAddress(t *testing.T) {
	n := routed(t)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		public := n.Gateway4
		if client.Is6() {
			public = n.Gateway6
		}
		family := uint32(unix.NFPROTO_IPV4)
		if client.Is6() {
			family = unix.NFPROTO_IPV6
		}
		natChain(t, n.Gateway, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest, join(
			isFamily(client.Is4()), isTCP(), incoming("lan0"),
			[]expr.Any{
				&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: destinationPort, Len: 2},
				equals(bigEndian16(smtp)...),
				&expr.Immediate{Register: register, Data: server.AsSlice()},
				&expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: register},
			}))
		plan := tproxyPlan()
		up(t, n.Gateway, plan)
		r := startRelay(t, n.Gateway, plan)
		echo(t, n.Server, at(server, smtp))
		v := mustCall(t, n.Client, anyPort, at(public, smtp))
		if v.seen.Addr() != client || !v.wasIntercepted() {
			t.Errorf("the server sees %s, the client is %s", v.seen, v.local)
		}
		if arrival := <-r.arrivals; arrival.Destination != at(server, smtp) {
			t.Errorf("destination %s, want %s", arrival.Destination, at(server, smtp))
		}
		if err := v.transfer(); err != nil {
			t.Error(err)
		}
	})
}

func incoming(name string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register}, equals(interfaceKey(name)...)}
}
