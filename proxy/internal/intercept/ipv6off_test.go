package intercept

import (
	"strings"
	"testing"
)

// Many gateways have IPv6 switched off: then lo takes no route of it.
func TestWhereIPv6IsSwitchedOffIPv4IsIntercepted(t *testing.T) {
	n := routed(t)
	if err := n.Gateway.Sysctl("net.ipv6.conf.all.disable_ipv6", "1"); err != nil {
		t.Fatal(err)
	}
	plan := tproxyPlan()
	up(t, n.Gateway, plan)
	if s := show(t, n.Gateway, plan); !s.Agrees {
		t.Errorf("%q", s.Differences)
	}
	startRelay(t, n.Gateway, plan)
	echo(t, n.Server, at(n.Server4, smtp))
	if v := mustCall(t, n.Client, anyPort, at(n.Server4, smtp)); !v.wasIntercepted() {
		t.Error("it was not intercepted")
	}

	// It comes back, and the rules no longer suffice.
	if err := n.Gateway.Sysctl("net.ipv6.conf.all.disable_ipv6", "0"); err != nil {
		t.Fatal(err)
	}
	if s := show(t, n.Gateway, plan); s.Agrees {
		t.Error("a missing route is not noticed")
	}
	up(t, n.Gateway, plan)
	if s := show(t, n.Gateway, plan); !s.Agrees {
		t.Errorf("%q", s.Differences)
	}
}

func TestIPv6ThatIsOffOnLoAloneIsAnObstacle(t *testing.T) {
	n := routed(t)
	if err := n.Gateway.Sysctl("net.ipv6.conf.lo.disable_ipv6", "1"); err != nil {
		t.Fatal(err)
	}
	err := n.Gateway.Do(func() error { _, err := tproxyPlan().Up(); return err })
	if err == nil || !strings.Contains(err.Error(), "net.ipv6.conf.lo.disable_ipv6=0") {
		t.Errorf("got %v", err)
	}
}
