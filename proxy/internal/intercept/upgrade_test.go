package intercept

import (
	"context"
	"net/netip"
	"strings"
	"testing"
)

// The routing of before was a rule for each interface, of the priority that goes
// round today.
func TestRoutingRulesOfAnEarlierPosternAreReplacedUnderWay(t *testing.T) {
	const earlier = `
		for family in -4 -6; do
			ip $family rule del pref 525; ip $family rule del pref 526; ip $family rule del pref 527
			for interface in lan0 wan0; do
				ip $family rule add pref 525 iif $interface fwmark 0x1000/0x1000 lookup 2525 protocol 125
			done
		done`
	for _, ends := range []bool{false, true} {
		n := routed(t)
		plan := tproxyPlan()
		up(t, n.Gateway, plan)
		shell(t, n.Gateway, earlier)
		startRelay(t, n.Gateway, plan)
		var running []*visit
		for _, server := range []netip.Addr{n.Server4, n.Server6} {
			echo(t, n.Server, at(server, smtp))
			v := mustCall(t, n.Client, anyPort, at(server, smtp))
			if !v.wasIntercepted() {
				t.Error("the rules of before do not work")
			}
			running = append(running, v)
		}
		if ends {
			for _, v := range running {
				if err := v.serverCloses(); err != nil {
					t.Error(err)
				}
			}
			err := n.Gateway.Do(func() error { _, err := Down(context.Background(), Removal{}); return err })
			if err != nil {
				t.Error(err)
			}
		} else {
			if state := show(t, n.Gateway, plan); state.Agrees {
				t.Error("the rules of before are taken for those of today")
			}
			up(t, n.Gateway, plan)
			if state := show(t, n.Gateway, plan); !state.Agrees {
				t.Errorf("%q", state.Differences)
			}
			for _, v := range running {
				if err := v.say("still here"); err != nil {
					t.Error(err)
				}
			}
		}
		for _, family := range []string{"-4", "-6"} {
			rules, err := outputOn(t, n.Gateway, "ip", family, "rule")
			if err != nil || strings.Contains(rules, "iif lan0") || strings.Contains(rules, "iif wan0") || ends && strings.Contains(rules, "525:") {
				t.Errorf("%v\n%s", err, rules)
			}
		}
	}
}
