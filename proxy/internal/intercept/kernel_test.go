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
	"golang.org/x/sys/unix"
)

// Without rules there is but one table of IPv6, and a local route for everything in
// it would take all that the machine forwards or sends.
func TestAKernelWithIPv6AndNoRoutingRulesForItIsRefused(t *testing.T) {
	for _, row := range []struct {
		name           string
		listing, opens error
		refused        bool
	}{
		{"both", nil, nil, false},
		{"no IPv6 at all", unix.EAFNOSUPPORT, unix.EAFNOSUPPORT, false},
		{"IPv6 without rules", unix.EAFNOSUPPORT, nil, true},
		{"rules that this user may not see", unix.EPERM, nil, false},
	} {
		err := lacksRules(row.listing, func() error { return row.opens })
		if obstacle := (*ObstacleError)(nil); errors.As(err, &obstacle) != row.refused {
			t.Errorf("%s: %v", row.name, err)
		}
	}
	n := routed(t)
	if err := n.Gateway.Do(checkRules); err != nil {
		t.Error(err)
	}
}

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
		{&expr.Redir{RegisterProtoMin: 99}, "nft_redir (CONFIG_NFT_REDIR), needed for method redirect"},
		{&expr.Ct{Key: 99, Register: register}, "nft_ct (CONFIG_NFT_CT), needed for method redirect"},
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

func TestAChainTypeTheKernelLacksIsNamedWithWhatItIsFor(t *testing.T) {
	n := routed(t)
	broken := ownPlan().tables(nil)
	for _, c := range broken[0].chains {
		if c.name == outputChain {
			c.hook.at = nftables.ChainHookForward // where there is no NAT
		}
	}
	err := n.Gateway.Do(func() error { return replace(broken) })
	var obstacle *ObstacleError
	if !errors.As(err, &obstacle) || !strings.Contains(err.Error(), "nft_chain_nat (CONFIG_NFT_NAT), needed for method redirect") {
		t.Errorf("%v", err)
	}
}

// A kernel that lacks a family cannot be had here. That it is asked, and what is
// said, are two halves.
func TestAFamilyTheKernelLacksIsNamedWithWhatItIsFor(t *testing.T) {
	n := routed(t)
	_ = n.Gateway.Do(func() error {
		for family, want := range map[nftables.TableFamily]bool{nftables.TableFamilyINet: true, nftables.TableFamilyBridge: true, 99: false} {
			if got := (table{family: family}).possible(); got != want {
				t.Errorf("family %d: possible %v", family, got)
			}
		}
		return nil
	})
	bridges := []bridge{{name: "br0", address: make([]byte, 6), ports: []string{"lan0"}}}
	for family, want := range map[nftables.TableFamily]string{
		nftables.TableFamilyINet:   "nf_tables for inet (CONFIG_NF_TABLES_INET), needed for any interception",
		nftables.TableFamilyBridge: "nf_tables for bridges (CONFIG_NF_TABLES_BRIDGE), needed for a bridge among the interfaces",
	} {
		err := lacking(bridgePlan().tables(bridges), func(part table) bool { return part.family != family })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := lacking(tproxyPlan().tables(nil), func(part table) bool { return part.family != nftables.TableFamilyBridge }); err != nil {
		t.Errorf("without a bridge: %v", err)
	}
}

func TestWhatIsPossibleLacksNothing(t *testing.T) {
	n := routed(t)
	bridges := []bridge{{name: "br0", address: make([]byte, 6), ports: []string{"lan0"}}}
	_ = n.Gateway.Do(func() error {
		for _, plan := range []Plan{bridgePlan(), redirectPlan(), ownPlan(), ownAndOthersPlan()} {
			if err := lacking(plan.tables(bridges), table.possible); err != nil {
				t.Errorf("%s on %s: %v", plan.Method, plan.Interfaces, err)
			}
		}
		return nil
	})
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
