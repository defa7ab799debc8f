package intercept

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
)

func TestADaemonThatRunsAsAnotherUserIsToldBeforeItServes(t *testing.T) {
	for user, want := range map[string]string{
		"4711": "runs as user 0 and not as 4711", "0": "", "root": "", "nobody-of-that-name": `no user "nobody-of-that-name"`,
	} {
		plan := ownPlan()
		plan.User = user
		err := plan.CheckUser()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", user, err, want)
		}
		plan.Interfaces = []string{"lan0"}
		if err := plan.CheckUser(); err != nil {
			t.Errorf("%s, for others' connections: %v", user, err)
		}
	}
}

func TestAUserThatThisMachineLacksIsAnObstacle(t *testing.T) {
	n := routed(t)
	plan := ownPlan()
	plan.User = "nobody-of-that-name"
	if err := plan.Validate(); err != nil {
		t.Error(err)
	}
	for _, attempt := range []func() error{
		func() error { _, err := plan.Up(); return err },
		func() error { _, err := plan.Show(); return err },
		plan.CheckMachine,
	} {
		isRefused(t, n.Gateway, `no user "nobody-of-that-name"`, attempt)
	}
	// Where nobody asks for it, it need not be there.
	other := redirectPlan()
	other.User = plan.User
	up(t, n.Gateway, other)
	plan.User = "root"
	up(t, n.Gateway, plan)
	if state := show(t, n.Gateway, plan); !state.Agrees {
		t.Errorf("%q", state.Differences)
	}
	// Another user is another rule.
	plan.User = "4711"
	if state := show(t, n.Gateway, plan); state.Agrees || !strings.Contains(strings.Join(state.Differences, "\n"),
		`chain output of table inet: rule 1 is not "Postern's own connections, those of user 4711"`) {
		t.Errorf("%q", state.Differences)
	}
}

func TestAPlanWithThisMachinesOwnConnectionsReplacesOthersWholly(t *testing.T) {
	plans := []Plan{tproxyPlan(), redirectPlan(), ownPlan(), ownAndOthersPlan()}
	for _, first := range plans {
		for _, second := range plans {
			fresh, used := routed(t), routed(t)
			up(t, fresh.Gateway, second)
			up(t, used.Gateway, first)
			up(t, used.Gateway, second)
			if want, got := snapshot(t, fresh.Gateway), snapshot(t, used.Gateway); !reflect.DeepEqual(want, got) {
				t.Errorf("%s after %s: %q, want %q", second.Interfaces, first.Interfaces, got, want)
			}
			if state := show(t, used.Gateway, second); !state.Agrees || !state.Taking {
				t.Errorf("%+v", state)
			}
		}
	}
}

func TestShowNamesAnOutputChainThatIsMissingTooMuchOrHookedInElsewhere(t *testing.T) {
	n := routed(t)
	up(t, n.Gateway, redirectPlan())
	if state := show(t, n.Gateway, ownAndOthersPlan()); !slices.Contains(state.Differences, "chain output of table inet is missing") {
		t.Errorf("%q", state.Differences)
	}
	up(t, n.Gateway, ownAndOthersPlan())
	if state := show(t, n.Gateway, redirectPlan()); !slices.Contains(state.Differences, "chain output of table inet is not part of the plan") {
		t.Errorf("%q", state.Differences)
	}
	wrong := ownAndOthersPlan()
	wrong.uid = posternUser
	tables := wrong.tables(nil)
	for _, c := range tables[0].chains {
		if c.name == outputChain {
			c.hook.at = nftables.ChainHookInput
		}
	}
	tables[0].chains[2].rules = nil // which could not stand there
	if err := n.Gateway.Do(func() error { return replace(tables) }); err != nil {
		t.Fatal(err)
	}
	if state := show(t, n.Gateway, ownAndOthersPlan()); !slices.Contains(state.Differences, "chain output of table inet is hooked in differently") {
		t.Errorf("%q", state.Differences)
	}
}
