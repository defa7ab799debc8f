package main

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"postern/proxy/proxytest/netlab"
)

const examples = "../../packaging/nftables/"

// nft gives what nft prints on a host.
func nft(t *testing.T, h *netlab.Host, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("nft")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	cmd := h.Command(t.Context(), path, args...)
	var out, complaints strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := h.Run(cmd); err != nil {
		t.Fatalf("nft %v: %v %s", args, err, complaints.String())
	}
	return out.String()
}

var bridgeMAC = regexp.MustCompile(`ether daddr set [0-9a-f:]{17}`)

// ruleset is what is in force, but for the address that a bridge happens to have.
func ruleset(t *testing.T, h *netlab.Host) string {
	t.Helper()
	return bridgeMAC.ReplaceAllString(nft(t, h, "-s", "list", "ruleset"), "ether daddr set 02:00:00:00:00:01")
}

// configured takes the configuration out of an example's comment.
func configured(doc string) string {
	var b strings.Builder
	for _, line := range strings.Split(doc, "\n") {
		if setting, ok := strings.CutPrefix(line, "#   "); ok && !strings.HasPrefix(setting, "ip ") {
			b.WriteString(setting + "\n")
		}
	}
	return b.String()
}

// -update writes the rules anew and leaves the comment before them.
func TestTheExamplesShowWhatInterceptUpSets(t *testing.T) {
	for _, name := range []string{"router.nft", "bridge.nft"} {
		t.Run(name, func(t *testing.T) {
			lay := netlab.NewRouted
			if name == "bridge.nft" {
				lay = netlab.NewBridged
			}
			n, err := lay()
			if err != nil {
				t.Fatal(err)
			}
			defer n.Close()
			doc, err := os.ReadFile(examples + name)
			if err != nil {
				t.Fatal(err)
			}
			if got := on(t, n.Gateway, "intercept", "up", "--config", write(t, configured(string(doc)))); got.code != exitFine {
				t.Fatalf("up: %+v", got)
			}
			want := ruleset(t, n.Gateway)
			if *update {
				comment, _, _ := strings.Cut(string(doc), "\n\n")
				if err := os.WriteFile(examples+name, []byte(comment+"\n\n"+want), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			nft(t, n.Gateway, "flush", "ruleset")
			nft(t, n.Gateway, "-f", examples+name)
			if got := ruleset(t, n.Gateway); got != want || !strings.HasSuffix(string(doc), "\n\n"+want) && !*update {
				t.Errorf("the example is\n%s\nand in force is\n%s", got, want)
			}
		})
	}
}

func TestTheExampleOfAFirewallHasTheRuleThatInterceptUpPrints(t *testing.T) {
	h := gateway(t)
	nft(t, h, "-f", examples+"input.nft")
	up := on(t, h, "intercept", "up", "--config", write(t, `intercept.interfaces = ["lan0"]`))
	_, rule, found := strings.Cut(up.stdout, "nftables: ")
	rule, _, _ = strings.Cut(rule, "\n")
	doc, err := os.ReadFile(examples + "input.nft")
	if err != nil || !found || !strings.Contains(string(doc), rule) {
		t.Errorf("%q is not in the example, %v\n%+v", rule, err, up)
	}
}
