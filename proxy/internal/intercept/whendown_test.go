package intercept

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"postern/proxy/proxytest/netlab"
)

// Ports that a client used through Postern and uses again. Their connections
// are in TIME_WAIT on the gateway, which is what makes this hard.
const firstReused, lastReused = 40000, 40011

// useThroughPostern leaves the reused ports in TIME_WAIT.
func useThroughPostern(t *testing.T, n *netlab.Network, client, server netip.Addr) {
	t.Helper()
	for port := uint16(firstReused); port <= lastReused; port++ {
		v := mustCall(t, n.Client, at(client, port), at(server, smtp))
		if !v.wasIntercepted() {
			t.Fatal("the connection was not intercepted")
		}
		if err := v.serverCloses(); err != nil {
			t.Fatal(err)
		}
	}
}

// directFromReusedPorts wants every one to reach the server itself.
func directFromReusedPorts(t *testing.T, n *netlab.Network, client, server netip.Addr) {
	t.Helper()
	for port := uint16(firstReused); port <= lastReused; port++ {
		v, err := call(n.Client, at(client, port), at(server, smtp))
		if err != nil {
			t.Errorf("from reused port %d: %v", port, err)
			continue
		}
		if v.wasIntercepted() {
			t.Errorf("from reused port %d: the server sees %s", port, v.seen)
		}
		if err := errors.Join(v.say("hello"), v.Close()); err != nil {
			t.Errorf("from reused port %d: %v", port, err)
		}
	}
}

func TestReusedPortsGetAResetUnderBlockAfterTheListenerIsKilled(t *testing.T) {
	n := routed(t)
	plan := tproxyPlan()
	up(t, n.Gateway, plan)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		r := startRelay(t, n.Gateway, plan)
		useThroughPostern(t, n, client, server)
		r.kill()
		for port := uint16(firstReused); port <= lastReused; port++ {
			v, err := call(n.Client, at(client, port), at(server, smtp))
			if !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("from reused port %d: %v, want a reset", port, err)
			}
			if err == nil {
				_ = v.Close()
			}
		}
	})
}

func TestReusedPortsReachTheServerUnderPassAfterTheListenerIsKilled(t *testing.T) {
	n := routed(t)
	plan := tproxyPlan()
	plan.WhenDown = Pass
	up(t, n.Gateway, plan)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		r := startRelay(t, n.Gateway, plan)
		useThroughPostern(t, n, client, server)
		r.kill()
		directFromReusedPorts(t, n, client, server)
	})
}

func TestReusedPortsAreServedAgainWhileTheListenerLives(t *testing.T) {
	n := routed(t)
	plan := tproxyPlan()
	up(t, n.Gateway, plan)
	startRelay(t, n.Gateway, plan)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		useThroughPostern(t, n, client, server)
		useThroughPostern(t, n, client, server)
	})
}

func TestConnectionsAreResetUnderRedirectWhileNothingListens(t *testing.T) {
	n := routed(t)
	up(t, n.Gateway, redirectPlan())
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		if _, err := call(n.Client, anyPort, at(server, smtp)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%v, want a reset", err)
		}
	})
}

// down takes the first step of Down and stops there: the context that has ended
// keeps it from waiting.
func downFirstStep(t *testing.T, host *netlab.Host) {
	t.Helper()
	over, cancel := context.WithCancel(context.Background())
	cancel()
	err := host.Do(func() error { _, err := Down(over, Removal{Linger: DefaultLinger, Waiting: func() {}}); return err })
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want to be told that the rest stays", err)
	}
}

func downWholly(t *testing.T, host *netlab.Host) {
	t.Helper()
	if err := host.Do(func() error { _, err := Down(context.Background(), Removal{}); return err }); err != nil {
		t.Fatal(err)
	}
}

func TestReusedPortsReachTheServerOnceInterceptionIsTakenDown(t *testing.T) {
	for _, whenDown := range []WhenDown{Pass, Block} {
		t.Run(string(whenDown), func(t *testing.T) {
			n := routed(t)
			plan := tproxyPlan()
			plan.WhenDown = whenDown
			families(t, n, func(t *testing.T, client, server netip.Addr) {
				up(t, n.Gateway, plan)
				echo(t, n.Server, at(server, smtp))
				r := startRelay(t, n.Gateway, plan)
				useThroughPostern(t, n, client, server)
				downFirstStep(t, n.Gateway)
				if state := show(t, n.Gateway, plan); state.Taking || !state.Lingering || state.Agrees {
					t.Errorf("state %+v, want it to linger", state)
				}
				directFromReusedPorts(t, n, client, server)
				r.kill()
				downWholly(t, n.Gateway)
			})
		})
	}
}

func TestConnectionsUnderWayGoOnWhileInterceptionIsTakenDown(t *testing.T) {
	for _, plan := range []Plan{tproxyPlan(), redirectPlan()} {
		t.Run(string(plan.Method), func(t *testing.T) {
			n := routed(t)
			families(t, n, func(t *testing.T, client, server netip.Addr) {
				up(t, n.Gateway, plan)
				echo(t, n.Server, at(server, smtp))
				r := startRelay(t, n.Gateway, plan)
				v := mustCall(t, n.Client, anyPort, at(server, smtp))
				downFirstStep(t, n.Gateway)
				r.stopListening()
				if err := v.say("still there"); err != nil {
					t.Error(err)
				}
				if direct := mustCall(t, n.Client, anyPort, at(server, smtp)); direct.wasIntercepted() {
					t.Error("a new connection was still intercepted")
				}
				downWholly(t, n.Gateway)
			})
		})
	}
}

func takeDown(t *testing.T, host *netlab.Host, r Removal) (ending Ending) {
	t.Helper()
	err := host.Do(func() (err error) {
		ending, err = Down(within(t, patience), r)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return ending
}

// A mail server of this machine's own always has connections: they need no rules.
func TestDownDoesNotWaitForConnectionsWithThisMachineItself(t *testing.T) {
	n := routed(t)
	up(t, n.Gateway, tproxyPlan())
	for _, gateway := range []netip.Addr{n.Gateway4, n.Gateway6} {
		echo(t, n.Gateway, at(gateway, smtp))
		if v := mustCall(t, n.Client, anyPort, at(gateway, smtp)); v.wasIntercepted() {
			t.Errorf("to %s: the server sees %s", gateway, v.seen)
		}
	}
	if got := takeDown(t, n.Gateway, Removal{Linger: time.Hour, Waiting: func() { t.Error("it waits") }}); got != TakenOut {
		t.Errorf("got %v", got)
	}
}

func TestDownWaitsUntilTheLastConnectionsMayBeForgotten(t *testing.T) {
	for _, plan := range []Plan{tproxyPlan(), redirectPlan()} {
		t.Run(string(plan.Method), func(t *testing.T) {
			n := routed(t)
			up(t, n.Gateway, plan)
			echo(t, n.Server, at(n.Server4, smtp))
			startRelay(t, n.Gateway, plan)
			mustCall(t, n.Client, anyPort, at(n.Server4, smtp))
			const linger = 600 * time.Millisecond
			began, told := time.Now(), 0
			waiting := func() { told++ }
			if got := takeDown(t, n.Gateway, Removal{Linger: linger, Waiting: waiting}); got != TakenOut || told != 1 {
				t.Errorf("ending %d, told %d times", got, told)
			}
			if waited := time.Since(began); waited < linger {
				t.Errorf("it waited %v, want %v", waited, linger)
			}
			if state := show(t, n.Gateway, plan); state.Taking || state.Lingering {
				t.Errorf("%+v", state)
			}
			// Where nothing stands there is nothing to wait for.
			if got := takeDown(t, n.Gateway, Removal{Linger: time.Hour, Waiting: waiting}); got != NothingStood || told != 1 {
				t.Errorf("ending %d, told %d times", got, told)
			}
		})
	}
}

func TestDownWaitsNoLongerThanAnythingIsCarried(t *testing.T) {
	n := routed(t)
	plan := tproxyPlan()
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		up(t, n.Gateway, plan)
		if got := takeDown(t, n.Gateway, Removal{Linger: time.Hour, Waiting: func() { t.Error("it waits for nothing") }}); got != TakenOut {
			t.Errorf("ending %d", got)
		}
		up(t, n.Gateway, plan)
		echo(t, n.Server, at(server, smtp))
		r := startRelay(t, n.Gateway, plan)
		mustCall(t, n.Client, anyPort, at(server, smtp))
		told := 0
		got := takeDown(t, n.Gateway, Removal{Linger: time.Hour, Waiting: func() { told++; r.reset() }})
		if got != TakenOut || told != 1 {
			t.Errorf("ending %d, told %d times", got, told)
		}
	})
}

// reset ends the connections without TIME_WAIT: the upstream one first, whose
// server would answer the end of the other with its own.
func (r *relay) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, conn := range slices.Backward(r.conns) {
		_ = errors.Join(conn.SetLinger(0), conn.Close())
	}
}

func TestDownCanLeaveWhatBlocks(t *testing.T) {
	pass := tproxyPlan()
	pass.WhenDown = Pass
	for _, row := range []struct {
		plan Plan
		want Ending
	}{{tproxyPlan(), StillBlocking}, {redirectPlan(), StillBlocking}, {pass, TakenOut}} {
		t.Run(string(row.plan.Method)+" "+string(row.plan.WhenDown), func(t *testing.T) {
			n := routed(t)
			families(t, n, func(t *testing.T, client, server netip.Addr) {
				up(t, n.Gateway, row.plan)
				echo(t, n.Server, at(server, smtp))
				startRelay(t, n.Gateway, row.plan)
				before := mustCall(t, n.Client, anyPort, at(server, smtp))
				for range 2 { // saying it twice does no harm
					if got := takeDown(t, n.Gateway, Removal{UnlessBlocking: true}); got != row.want {
						t.Errorf("ending %d, want %d", got, row.want)
					}
					if row.want == TakenOut {
						break
					}
				}
				if row.want == TakenOut {
					if v := mustCall(t, n.Client, anyPort, at(server, smtp)); v.wasIntercepted() {
						t.Error("still intercepted")
					}
					return
				}
				// Although Postern listens still.
				if _, err := call(n.Client, anyPort, at(server, smtp)); !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("%v, want a reset", err)
				}
				if err := before.say("what is under way goes on"); err != nil {
					t.Error(err)
				}
				if state := show(t, n.Gateway, row.plan); !state.Stopped || state.Agrees || !state.Taking {
					t.Errorf("%+v", state)
				}
				up(t, n.Gateway, row.plan)
				if state := show(t, n.Gateway, row.plan); state.Stopped || !state.Agrees {
					t.Errorf("%+v", state)
				}
				if v := mustCall(t, n.Client, anyPort, at(server, smtp)); !v.wasIntercepted() {
					t.Error("not intercepted again")
				}
			})
		})
	}
}

func TestDownLeavesAnUpThatCameInBetweenAlone(t *testing.T) {
	n := routed(t)
	plan := redirectPlan() // with which it is never known whether anything is left to wait for
	up(t, n.Gateway, plan)
	ending := takeDown(t, n.Gateway, Removal{Linger: time.Millisecond, Waiting: func() {
		if _, err := plan.Up(); err != nil {
			t.Error(err)
		}
	}})
	if ending != PutBack {
		t.Errorf("ending %d", ending)
	}
	if state := show(t, n.Gateway, plan); !state.Taking || !state.Agrees {
		t.Errorf("state %+v", state)
	}
}

func TestConnectionsFromBeforeGoOnUndisturbed(t *testing.T) {
	for _, plan := range []Plan{tproxyPlan(), redirectPlan()} {
		t.Run(string(plan.Method), func(t *testing.T) {
			n := routed(t)
			families(t, n, func(t *testing.T, client, server netip.Addr) {
				echo(t, n.Server, at(server, smtp))
				before := mustCall(t, n.Client, anyPort, at(server, smtp))
				up(t, n.Gateway, plan)
				if err := before.say("with rules and nobody listening"); err != nil {
					t.Error(err)
				}
				startRelay(t, n.Gateway, plan)
				if err := before.say("with somebody listening"); err != nil {
					t.Error(err)
				}
				if after := mustCall(t, n.Client, anyPort, at(server, smtp)); !after.wasIntercepted() {
					t.Error("a new connection was not intercepted")
				}
				if err := before.say("beside an intercepted one"); err != nil {
					t.Error(err)
				}
				downWholly(t, n.Gateway)
			})
		})
	}
}

func TestConnectionsThatPassLetThroughOutliveTheListenersReturn(t *testing.T) {
	n := routed(t)
	plan := tproxyPlan()
	plan.WhenDown = Pass
	up(t, n.Gateway, plan)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		passed := mustCall(t, n.Client, anyPort, at(server, smtp))
		if passed.wasIntercepted() {
			t.Fatal("intercepted by nobody")
		}
		for range 2 {
			r := startRelay(t, n.Gateway, plan)
			if err := passed.say("after a start"); err != nil {
				t.Error(err)
			}
			if v := mustCall(t, n.Client, anyPort, at(server, smtp)); !v.wasIntercepted() {
				t.Error("a new connection was not intercepted")
			}
			r.kill()
			if err := passed.say("after a kill"); err != nil {
				t.Error(err)
			}
		}
	})
}
