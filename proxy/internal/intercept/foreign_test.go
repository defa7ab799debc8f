package intercept

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"postern/proxy/proxytest/netlab"
)

// foreign gives the gateway rules and routes of somebody else.
func foreign(t *testing.T, host *netlab.Host) {
	t.Helper()
	install(t, host, "others", append(strict(), closed())...)
	natChain(t, host, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, ctEstablished())
	err := host.Do(func() error {
		var errs []error
		for i, each := range []struct {
			mark, mask uint32
			protocol   uint8
		}{{7, 0xff, 0}, {7, 0xff, routingProtocol}, {Mark, Mark, routingProtocol}} {
			rule := netlink.NewRule()
			rule.Mark, rule.Mask, rule.Protocol = each.mark, &each.mask, each.protocol
			rule.Table, rule.Priority = 77, 1000+i
			errs = append(errs, netlink.RuleAdd(rule))
		}
		loopback, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return errors.Join(append(errs, netlink.RouteAdd(&netlink.Route{
			Dst: routingFamilies[0].all, Table: 77, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
			LinkIndex: loopback.Attrs().Index, Protocol: routingProtocol,
		}))...)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRulesOfOthersAreUntouchedAndDownLeavesNothing(t *testing.T) {
	for _, plan := range []Plan{tproxyPlan(), redirectPlan()} {
		t.Run(string(plan.Method), func(t *testing.T) {
			n := routed(t)
			foreign(t, n.Gateway)
			before := snapshot(t, n.Gateway)
			up(t, n.Gateway, plan)
			during := snapshot(t, n.Gateway)
			for _, line := range slices.Concat(before.Rules, before.Routing) {
				if !slices.Contains(slices.Concat(during.Rules, during.Routing), line) {
					t.Errorf("lost: %s", line)
				}
			}
			for _, line := range during.Rules {
				if !slices.Contains(before.Rules, line) && !strings.Contains(line, " postern ") {
					t.Errorf("added to somebody else's: %s", line)
				}
			}
			downWholly(t, n.Gateway)
			downWholly(t, n.Gateway) // twice is once
			if after := snapshot(t, n.Gateway); !reflect.DeepEqual(before, after) {
				t.Errorf("before %q, after %q", before, after)
			}
		})
	}
}

// isRefused wants an obstacle that names what is in the way, and nothing changed.
func isRefused(t *testing.T, host *netlab.Host, what string, attempt func() error) {
	t.Helper()
	before := snapshot(t, host)
	var obstacle *ObstacleError
	if err := host.Do(attempt); !errors.As(err, &obstacle) || !strings.Contains(err.Error(), what) {
		t.Errorf("got %v, want %q in it", err, what)
	}
	if after := snapshot(t, host); !reflect.DeepEqual(before, after) {
		t.Errorf("before %q, after %q", before, after)
	}
}

func TestARoutingTableOfSomebodyElseIsNotTaken(t *testing.T) {
	for _, row := range []struct {
		name     string
		mark     uint32
		protocol uint8
	}{{"by an interface", 0, 0}, {"by another mark under our protocol", 7, routingProtocol}, {"by our mark under another protocol", Mark, 3}} {
		t.Run(row.name, func(t *testing.T) {
			n := routed(t)
			err := n.Gateway.Do(func() error {
				rule := netlink.NewRule()
				rule.Table, rule.Priority, rule.IifName, rule.Protocol = Table, 1000, "wan0", row.protocol
				if row.mark != 0 {
					rule.Mark, rule.Mask = row.mark, &row.mark
				}
				return netlink.RuleAdd(rule)
			})
			if err != nil {
				t.Fatal(err)
			}
			isRefused(t, n.Gateway, "2525", func() error { _, err := tproxyPlan().Up(); return err })
			// What is not ours is not taken out either.
			before := snapshot(t, n.Gateway)
			downWholly(t, n.Gateway)
			if after := snapshot(t, n.Gateway); !reflect.DeepEqual(before, after) {
				t.Errorf("before %q, after %q", before, after)
			}
		})
	}
}

func TestATableOfSomebodyElseUnderOurNameIsNeitherReplacedNorTakenOut(t *testing.T) {
	for _, family := range ownFamilies {
		t.Run(familyName(family), func(t *testing.T) {
			n := routed(t)
			err := n.Gateway.Do(func() error {
				connection, err := nftables.New()
				if err != nil {
					return err
				}
				table := connection.AddTable(&nftables.Table{Name: tableName, Family: family})
				connection.AddChain(&nftables.Chain{Name: hookChain, Table: table, Type: nftables.ChainTypeFilter,
					Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityFilter})
				return connection.Flush()
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, attempt := range []func() error{
				func() error { _, err := tproxyPlan().Up(); return err },
				func() error { _, err := redirectPlan().Up(); return err },
				func() error { _, err := tproxyPlan().Show(); return err },
				func() error { _, err := Down(within(t, patience), Removal{}); return err },
			} {
				isRefused(t, n.Gateway, "table "+familyName(family)+" postern has no chain ", attempt)
			}
		})
	}
}
