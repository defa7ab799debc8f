package intercept

import (
	"net/netip"
	"testing"
)

func TestTheOriginalDestinationAndTheInterfaceAreKnown(t *testing.T) {
	for _, plan := range []Plan{tproxyPlan(), redirectPlan()} {
		t.Run(string(plan.Method), func(t *testing.T) {
			n := routed(t)
			up(t, n.Gateway, plan)
			r := startRelay(t, n.Gateway, plan)
			families(t, n, func(t *testing.T, client, server netip.Addr) {
				echo(t, n.Server, at(server, smtp))
				v := mustCall(t, n.Client, anyPort, at(server, smtp))
				arrival := <-r.arrivals
				if arrival.Client != v.local || arrival.Destination != at(server, smtp) || arrival.Interface != "lan0" {
					t.Errorf("arrived: client %s, destination %s, interface %q; want %s, %s, lan0",
						arrival.Client, arrival.Destination, arrival.Interface, v.local, at(server, smtp))
				}
			})
		})
	}
}

func TestTheServerSeesTheClientsOwnAddress(t *testing.T) {
	n := routed(t)
	plan := tproxyPlan()
	up(t, n.Gateway, plan)
	startRelay(t, n.Gateway, plan)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		v := mustCall(t, n.Client, anyPort, at(server, smtp))
		if v.seen.Addr() != client || !v.wasIntercepted() {
			t.Errorf("the server sees %s, the client is %s", v.seen, v.local)
		}
	})
}
