package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"postern/proxy/proxytest/netlab"
)

func gateway(t *testing.T) *netlab.Host {
	t.Helper()
	n, err := netlab.NewRouted()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n.Gateway
}

// on runs the program on a host.
func on(t *testing.T, h *netlab.Host, args ...string) said {
	t.Helper()
	var stdout, stderr bytes.Buffer
	var code int
	err := h.Do(func() error {
		code = run(t.Context(), args, &stdout, &stderr)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return said{code, stdout.String(), stderr.String()}
}

func TestInterceptionIsPutInForceShownAndTakenOut(t *testing.T) {
	for name, doc := range map[string]string{
		"tproxy":   `method = "tproxy", interfaces = ["lan0"]`,
		"redirect": `method = "redirect", interfaces = ["lan0"]`,
		"own":      `method = "redirect", interfaces = ["lo"], user = "4711"`,
	} {
		t.Run(name, func(t *testing.T) {
			h := gateway(t)
			path := write(t, "intercept = {"+doc+"}")
			show := func() said { return on(t, h, "intercept", "show", "--config", path) }

			if got := show(); got.code != exitFinding || !strings.HasPrefix(got.stdout, "state: not in force\n") || got.stderr != "" {
				t.Fatalf("before: %+v", got)
			}
			for range 2 { // saying it twice does no harm
				got := on(t, h, "intercept", "up", "--config", path)
				if got.code != exitFine || got.stderr != "" {
					t.Fatalf("up: %+v", got)
				}
			}
			got := show()
			if got.code != exitFine || got.stderr != "" {
				t.Fatalf("in force: %+v", got)
			}
			golden(t, "intercept/show-"+name, got.stdout)
			out := "interception is taken out, nothing of Postern's is left\n"
			if strings.Contains(doc, "redirect") { // of which it cannot be known what it carries
				out = "new connections pass by; waiting for the last ones that Postern carries, 1ms at most, interrupting is safe\n" + out
			}
			stays := "new connections are blocked from now on (when_down = \"block\"); \"postern intercept up\" takes them again, \"postern intercept down\" lets them go their own way\n"
			if got := on(t, h, "intercept", "down", "--unless-block"); got != (said{exitFine, stays, ""}) || !strings.HasPrefix(show().stdout, "state: stopped, and new connections are blocked\n") {
				t.Fatalf("down --unless-block: %+v, %+v", got, show())
			}
			for _, c := range []struct{ linger, want string }{
				{"1ms", out},
				{"1h", "nothing was in force\n"}, // and nothing to wait for
			} {
				if got := on(t, h, "intercept", "down", "--linger", c.linger); got != (said{exitFine, c.want, ""}) {
					t.Fatalf("down: %+v", got)
				}
			}
			if got := show(); got.code != exitFinding || !strings.HasPrefix(got.stdout, "state: not in force\n") {
				t.Fatalf("after: %+v", got)
			}
		})
	}
}

func TestInterceptionThatDiffersFromTheConfigurationIsAFinding(t *testing.T) {
	h := gateway(t)
	if got := on(t, h, "intercept", "up", "--config", write(t, `intercept.interfaces = ["lan0"]`)); got.code != exitFine {
		t.Fatalf("%+v", got)
	}
	other := write(t, `intercept = {interfaces = ["lan0"], ports = [25, 587]}`)
	got := on(t, h, "intercept", "show", "--config", other)
	if got.code != exitFinding || got.stderr != "" {
		t.Fatalf("%+v", got)
	}
	golden(t, "intercept/show-differs", got.stdout)

	got = on(t, h, "intercept", "show", "--format", "json", "--config", other)
	var state showResult
	if err := json.Unmarshal([]byte(got.stdout), &state); err != nil || got.code != exitFinding {
		t.Fatalf("%v, %+v", err, got)
	}
	if state.InForce || !state.Taking || state.State != "in force otherwise than configured" || len(state.Differences) != 1 || len(state.Rules) == 0 ||
		state.InputRule == nil || len(state.InputRule.IPTables) != 2 {
		t.Errorf("%+v", state)
	}
}

func TestUpSaysHowManyConnectionsRunAndWhatWillSurprise(t *testing.T) {
	path := write(t, `intercept = {interfaces = ["lan0", "lan7"]}`)
	h := gateway(t)
	got := on(t, h, "intercept", "up", "--config", path)
	if got.code != exitFine || got.stderr != "" {
		t.Fatalf("%+v", got)
	}
	for _, want := range []string{"in force: tproxy on lan0, lan7, port 25; when_down = block\n", "running before: ", "warning: interface lan7 does not exist (yet)\n",
		"  nftables: meta mark & 0x1000 == 0x1000 accept\n", "  iptables: iptables -I INPUT -m mark --mark 0x1000/0x1000 -j ACCEPT\n"} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("no %q in\n%s", want, got.stdout)
		}
	}
	got = on(t, h, "intercept", "up", "--format", "json", "--config", path)
	var report upResult
	if err := json.Unmarshal([]byte(got.stdout), &report); err != nil || got.code != exitFine {
		t.Fatalf("%v, %+v", err, got)
	}
	if report.Method != "tproxy" || report.WhenDown != "block" || len(report.Interfaces) != 2 || len(report.Warnings) != 1 ||
		report.InputRule == nil || report.InputRule.NFT == "" || len(report.InputRule.IPTables) != 2 {
		t.Errorf("%+v", report)
	}
}

func TestTheHelpOfUpNamesTheNumbersThatMustBeFree(t *testing.T) {
	got := postern(t, "intercept", "up", "--help")
	for _, want := range []string{" 0x1000 ", " table 2525 ", " 525 to 527 ", "again\nwhen a bridge is made"} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("no %q in\n%s", want, got.stdout)
		}
	}
	if got := postern(t, "intercept", "down", "--help"); !strings.Contains(got.stdout, "--linger duration ") {
		t.Errorf("%s", got.stdout)
	}
}

func TestWithoutInterceptionThereIsNothingToPutInForce(t *testing.T) {
	h := gateway(t)
	path := write(t, "intercept.method = 'none'\nlisten.upstream = 'mail.example:25'")
	if got := on(t, h, "intercept", "up", "--config", path); got.code != exitFine || !strings.Contains(got.stdout, "nothing is intercepted") {
		t.Errorf("%+v", got)
	}
	if got := on(t, h, "intercept", "show", "--config", path); got.code != exitFine ||
		got.stdout != "state: nothing is intercepted, as configured\nconfigured: method = \"none\"\n" {
		t.Errorf("%+v", got)
	}
	// What an earlier configuration left there is not as configured.
	if got := on(t, h, "intercept", "up", "--config", write(t, `intercept.interfaces = ["lan0"]`)); got.code != exitFine {
		t.Fatalf("%+v", got)
	}
	if got := on(t, h, "intercept", "show", "--config", path); got.code != exitFinding {
		t.Errorf("%+v", got)
	}
}

func TestRunningSaysOneAndManyAndNone(t *testing.T) {
	for _, c := range []struct {
		known bool
		count int
		want  string
	}{
		{false, 0, "an unknown number of connections (conntrack does not track them)"},
		{true, 0, "0 connections"},
		{true, 1, "1 connection"},
		{true, 2, "2 connections"},
	} {
		if got := running(c.known, c.count); got != c.want {
			t.Errorf("%v %d: %s", c.known, c.count, got)
		}
	}
}

func TestAWrongConfigurationIsNotPutInForce(t *testing.T) {
	h := gateway(t)
	path := write(t, `intercept = {interfaces = ["lan0"], method = "divert"}`)
	for _, verb := range []string{"up", "show"} {
		got := on(t, h, "intercept", verb, "--config", path)
		if got.code != exitUsage || got.stdout != "" || !strings.Contains(got.stderr, "postern.toml:1: intercept.method:") {
			t.Errorf("%s: %+v", verb, got)
		}
	}
}

// withoutCapability runs f on a thread that has given CAP_NET_ADMIN and
// CAP_NET_RAW up, and that ends with it: other tests are not to get it.
func withoutCapability(f func() said) said {
	result := make(chan said)
	go func() {
		runtime.LockOSThread()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		err := unix.Capget(&header, &data[0])
		data[0].Effective &^= 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW
		if err == nil {
			err = unix.Capset(&header, &data[0])
		}
		if err != nil {
			result <- said{stderr: err.Error()}
			return
		}
		result <- f()
	}()
	return <-result
}

func TestWhoMayNotChangeTheKernelHearsWhatIsMissingAndWhatFor(t *testing.T) {
	path := write(t, `intercept.interfaces = ["lan0"]`)
	const want = "nftables rules and policy routing need CAP_NET_ADMIN"
	for _, verb := range []string{"up", "down", "show"} {
		got := withoutCapability(func() said { return postern(t, "intercept", verb, "--config", path) })
		if got.code != exitFinding || got.stdout != "" || !strings.Contains(got.stderr, want) {
			t.Errorf("%s: %+v", verb, got)
		}
	}
}

// An interrupted "down" has stopped taking connections and says what it left.
func TestDownThatIsInterruptedSaysWhatItLeft(t *testing.T) {
	h := gateway(t)
	path := write(t, `intercept = {interfaces = ["lan0"], method = "redirect", preserve_source = false}
listen.addresses = ["0.0.0.0:2525", "[::]:2525"]`)
	if got := on(t, h, "intercept", "up", "--config", path); got.code != exitFine {
		t.Fatalf("%+v", got)
	}
	done := make(chan said)
	go func() { done <- on(t, h, "intercept", "down", "--linger", time.Hour.String()) }()
	for {
		if got := on(t, h, "intercept", "show", "--config", path); strings.HasPrefix(got.stdout, "state: taken out, the last connections are still carried\n") {
			break
		}
		runtime.Gosched()
	}
	if err := unix.Kill(os.Getpid(), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	got := <-done
	if got.code != exitFinding || !strings.Contains(got.stderr, "left in place") ||
		!strings.HasPrefix(got.stdout, "new connections pass by; waiting for the last ones that Postern carries, 1h0m0s at most") || strings.Count(got.stdout, "\n") != 1 {
		t.Errorf("%+v", got)
	}
}

// A machine that starts with a broken configuration is guarded by the one it had.
func TestTheLastGoodConfigurationIsPutInForceWhereTheNewOneIsAtFault(t *testing.T) {
	h := gateway(t)
	copied := filepath.Join(t.TempDir(), "last-good.toml")
	good, broken := write(t, `intercept.interfaces = ["lan0"]`), write(t, "[nonsense]")
	up := func(path string) said { return on(t, h, "intercept", "up", "--config", path, "--last-good", copied) }
	if got := up(broken); got.code != exitUsage || !strings.Contains(got.stderr, "nonsense") {
		t.Errorf("without a copy: %+v", got)
	}
	if got := up(good); got.code != exitFine || got.stderr != "" {
		t.Fatalf("%+v", got)
	}
	if got := on(t, h, "intercept", "down", "--linger", "0s"); got.code != exitFine {
		t.Fatalf("%+v", got)
	}
	if got := up(broken); got.code != exitFine || !strings.Contains(got.stderr, "nonsense") || !strings.Contains(got.stderr, "as it was the last time") {
		t.Errorf("with a copy: %+v", got)
	}
	if got := on(t, h, "intercept", "show", "--config", good); got.code != exitFine {
		t.Errorf("%+v", got)
	}
	if kept, err := os.ReadFile(copied); err != nil || !strings.Contains(string(kept), "lan0") {
		t.Errorf("%v: the copy is %q", err, kept)
	}
}
