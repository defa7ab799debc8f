package intercept

import (
	"net/netip"
	"strings"
	"testing"
)

// Mail is kept out of conntrack both ways, by nft and by iptables.
var untracked = []struct {
	name string
	put  func(t *testing.T, s tools, add func(program string, words string))
}{
	{"by nft", func(t *testing.T, s tools, add func(string, string)) {
		add(s.nft, "add table inet fast")
		add(s.nft, "add chain inet fast early { type filter hook prerouting priority raw; }")
		add(s.nft, "add chain inet fast own { type filter hook output priority raw; }")
		for _, chain := range []string{"early", "own"} {
			add(s.nft, "add rule inet fast "+chain+" tcp dport 25 notrack")
			add(s.nft, "add rule inet fast "+chain+" tcp sport 25 notrack")
		}
	}},
	{"by iptables", func(t *testing.T, s tools, add func(string, string)) {
		for _, name := range []string{"iptables-nft", "ip6tables-nft"} {
			command := program(t, name, "iptables")
			for _, chain := range []string{"PREROUTING", "OUTPUT"} {
				add(command, "-t raw -A "+chain+" -p tcp --dport 25 -j CT --notrack")
				add(command, "-t raw -A "+chain+" -p tcp --sport 25 -j CT --notrack")
			}
		}
	}},
}

func TestWhereMailIsNotTrackedTProxyWorksAndRedirectWarns(t *testing.T) {
	s := toolsOf(t)
	for _, row := range untracked {
		t.Run(row.name, func(t *testing.T) {
			n := routed(t)
			row.put(t, s, func(program, words string) { on(t, n.Gateway, "", program, strings.Fields(words)...) })
			for _, plan := range []Plan{tproxyPlan(), redirectPlan()} {
				report := up(t, n.Gateway, plan)
				warned := strings.Contains(strings.Join(report.Warnings, "\n"), "untracked (notrack)")
				if warned != (plan.Method == Redirect) {
					t.Errorf("%s: warnings %q", plan.Method, report.Warnings)
				}
				r := startRelay(t, n.Gateway, plan)
				families(t, n, func(t *testing.T, _, server netip.Addr) {
					echo(t, n.Server, at(server, smtp))
					v := mustCall(t, n.Client, anyPort, at(server, smtp))
					if err := v.transfer(); err != nil {
						t.Error(err)
					}
					if v.wasIntercepted() != (plan.Method == TProxy) {
						t.Errorf("%s: intercepted %v", plan.Method, v.wasIntercepted())
					}
				})
				r.kill()
			}
		})
	}
}

// Another use of the CT target is none of this.
func TestAZoneOfConntrackIsNotWarnedOf(t *testing.T) {
	s := toolsOf(t)
	n := routed(t)
	s.put(t, n.Gateway, "docker")
	on(t, n.Gateway, "", program(t, "iptables-nft", "iptables"),
		strings.Fields("-t raw -A PREROUTING -i lan0 -p tcp --dport 21 -j CT --zone 7")...)
	if report := up(t, n.Gateway, redirectPlan()); strings.Contains(strings.Join(report.Warnings, "\n"), "notrack") {
		t.Errorf("warnings %q", report.Warnings)
	}
}
