package intercept

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

func TestAnExpressionTheKernelLacksIsNamedWithWhatItIsFor(t *testing.T) {
	n := routed(t)
	before := snapshot(t, n.Gateway)
	for _, row := range []struct {
		broken expr.Any // as good as unknown: the kernel refuses it
		want   string
	}{
		{&expr.TProxy{Family: 99, RegPort: 77}, "nft_tproxy (CONFIG_NFT_TPROXY), needed for method tproxy"},
		{&expr.Socket{Key: 99, Register: register}, "nft_socket (CONFIG_NFT_SOCKET)"},
		{&expr.Reject{Type: 99}, "nft_reject_inet (CONFIG_NFT_REJECT_INET), needed for when_down = block"},
		{&expr.Fib{Register: 99}, "nft_fib_inet (CONFIG_NFT_FIB_INET)"},
	} {
		broken := tproxyPlan().tables(nil)
		broken[0].chains[0].rules = append(broken[0].chains[0].rules, rule{"broken", []expr.Any{row.broken}})
		err := n.Gateway.Do(func() error { return replace(broken) })
		var obstacle *ObstacleError
		if !errors.As(err, &obstacle) || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%T: %v, want %q", row.broken, err, row.want)
		}
	}
	other := []table{{family: nftables.TableFamilyINet, chains: []chain{{name: "x", rules: []rule{
		{"broken otherwise", []expr.Any{&expr.Meta{Key: 999, Register: register}}}}}}}}
	err := n.Gateway.Do(func() error { return replace(other) })
	var obstacle *ObstacleError
	if err == nil || errors.As(err, &obstacle) {
		t.Errorf("something else: %v", err)
	}
	if after := snapshot(t, n.Gateway); len(after.Rules) != len(before.Rules) {
		t.Errorf("left behind: %q", after.Rules)
	}
}

func TestInterceptionWorksWithoutRoot(t *testing.T) {
	if os.Getenv(userVariable) != "" || os.Geteuid() != 0 {
		return // this is such a run
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	again := exec.CommandContext(ctx, "/proc/self/exe", "-test.v",
		"-test.run=Original|ServerSees|Untouched|NothingBut|AcrossABridge|ReusedPortsReach|HowMany|FourMegabytes")
	again.Env = append(os.Environ(), userVariable+"=1")
	out, err := again.CombinedOutput()
	if passed := strings.Count(string(out), "\n--- PASS"); err != nil || passed < 8 {
		t.Errorf("%v, %d passed\n%s", err, passed, out)
	}
}
