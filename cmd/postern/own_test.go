package main

import (
	"strings"
	"testing"
)

func TestRunDoesNotServeTheMachinesOwnConnectionsAsAnotherUserThanIsExempted(t *testing.T) {
	path := write(t, "[intercept]\nmethod = \"redirect\"\ninterfaces = [\"lo\"]\nuser = \"4711\"")
	got := on(t, gateway(t), "run", "--config", path)
	if got.code != exitFinding || !strings.Contains(got.stderr, "runs as user 0 and not as 4711") || !strings.Contains(got.stderr, "intercept up again") {
		t.Errorf("%+v", got)
	}
}

func TestAUserThatIsNotOnThisMachineIsNamedWithItsLine(t *testing.T) {
	path := write(t, "[intercept]\nmethod = \"redirect\"\ninterfaces = [\"lo\"]\nuser = \"nobody-of-that-name\"")
	h := gateway(t)
	const want = `there is no user "nobody-of-that-name" on this machine`
	if got := on(t, h, "check", "--config", path); got.code != exitFinding || !strings.Contains(got.stderr, "postern.toml:4: intercept.user: "+want) ||
		!strings.Contains(got.stdout, "is sound, but not for this machine") {
		t.Errorf("%+v", got)
	}
	for _, args := range [][]string{{"intercept", "up"}, {"intercept", "show"}, {"run"}} {
		if got := on(t, h, append(args, "--config", path)...); got.code != exitFinding || !strings.Contains(got.stderr, want) {
			t.Errorf("%q: %+v", args, got)
		}
	}
}
