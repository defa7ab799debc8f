package intercept

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"postern/proxy/proxytest/netlab"
)

// conditions are of every kind that is followed, most of which hold for some of
// the packets of an intercepted connection and not for others.
var conditions = []string{
	"", "", "meta mark & 0x1000 == 0x1000", "meta mark & 0x1000 == 0", "meta mark & 0x7000 == 0x1000", "meta mark 0x1000-0x1fff",
	"meta mark and 0xfffff000 xor 0x1000 == 0", "meta mark { 0x1000, 0x2000 }", "meta mark != 0",
	"tcp dport 25", "tcp dport != 25", "tcp dport { 22, 25 }", "tcp dport != { 22, 25 }", "tcp dport 20-30", "tcp dport > 25", "tcp dport <= 25",
	"tcp sport 25", "tcp sport >= 1024", "tcp flags syn", "tcp flags & (syn|ack) == syn", "tcp flags & (fin|syn|rst|ack) != syn",
	"iifname lan0", "iifname \"lan*\"", "iifname != lan0", "iifname { lan0, wan0 }", "iif lan0", "iif != lan0", "iif lo",
	"ct state new", "ct state established,related", "ct state { new, established }", "ct state != new", "ct state invalid", "ct direction original",
	"ip protocol tcp", "meta l4proto { tcp, udp }", "meta l4proto udp", "ip version 4", "meta nfproto ipv6", "meta protocol ip", "ip saddr 10.1.0.0/16",
	"ip saddr @clients", "ip daddr != 10.1.0.1", "ip saddr 127.0.0.0/8", "ip daddr { 127.0.0.0/8, 224.0.0.0/4 }", "ip saddr . tcp dport @pairs", "iifname . tcp dport { lan0 . 25, lan0 . 587 }",
	"iifname . ip saddr { lan0 . 10.0.0.0/8, wan0 . 203.0.113.0/24 }", "fib daddr type local", "fib daddr type != { local, broadcast }",
	"socket transparent 1", "pkttype host", "limit rate 1000/second", "tcp option maxseg size 1-65535", "ip ttl > 1", "meta length < 2000",
}

var verdicts = []string{"accept", "accept", "drop", "reject", "return", "jump one", "goto one", "jump two", "counter", "log accept",
	"meta mark set meta mark & 0xffffefff", "meta mark set meta mark | 0x2000", "meta mark set 0x1000", "ct mark set meta mark"}

var maps = []string{
	"ct state vmap { established : accept, related : accept, new : jump one, invalid : drop }",
	"tcp dport vmap { 22 : drop, 25 : accept }", "tcp dport vmap { 0-24 : drop, 25-65535 : jump two }",
	"iifname vmap { lan0 : jump one, wan0 : goto two }", "ip saddr vmap { 10.0.0.0/8 : accept, 203.0.113.0/24 : jump two }",
	"meta mark vmap { 0x1000 : accept, 0x3000 : drop }", "iifname . tcp dport vmap { lan0 . 25 : accept, wan0 . 25 : drop }",
}

// randomInput writes an input chain that nobody thought of.
func randomInput(random *rand.Rand) string {
	pick := func(of []string) string { return of[random.IntN(len(of))] }
	rules := func(upTo int, allowed func(string) bool) string {
		var b strings.Builder
		for range random.IntN(upTo + 1) {
			line := pick(conditions) + " " + pick(verdicts)
			if random.IntN(4) == 0 {
				line = pick(maps)
			}
			if allowed(line) {
				b.WriteString("\t\t" + line + "\n")
			}
		}
		return b.String()
	}
	without := func(words ...string) func(string) bool {
		return func(line string) bool {
			for _, word := range words {
				if strings.Contains(line, word) {
					return false
				}
			}
			return true
		}
	}
	var b strings.Builder
	b.WriteString("table inet filter {\n\tset clients { type ipv4_addr; flags interval; elements = { 10.1.0.0/24 } }\n" +
		"\tset pairs { type ipv4_addr . inet_service; elements = { 10.1.0.2 . 25, 10.1.0.3 . 25 } }\n")
	fmt.Fprintf(&b, "\tchain two {\n%s\t}\n", rules(3, without("one", "two")))
	fmt.Fprintf(&b, "\tchain one {\n%s\t}\n", rules(3, without("one")))
	for i, priority := range []int{random.IntN(3) - 1, 10}[:1+random.IntN(2)] {
		fmt.Fprintf(&b, "\tchain input%d {\n\t\ttype filter hook input priority %d; policy %s;\n%s\t}\n", i, priority,
			pick([]string{"accept", "drop"}), rules(5, without()))
	}
	return b.String() + "}\n"
}

// The chains are the same in every run: what fails can be looked at again.
func TestRandomInputChainsDoWhatIsSaidOfThem(t *testing.T) {
	withFirewalls(t)
	n := routed(t)
	plan := tproxyPlan()
	plan.Listen = plan.Listen[:1] // of IPv4 alone: what is certain of one family is said before what may be of another
	up(t, n.Gateway, plan)
	startRelay(t, n.Gateway, plan)
	echo(t, n.Server, at(n.Server4, smtp))
	const tries = 60
	said := map[string]int{}
	for seed := range uint64(tries) {
		text := randomInput(rand.New(rand.NewPCG(seed, 25)))
		shell(t, n.Gateway, noFirewall)
		if err := tryNft(within(t, patience), n.Gateway, text); err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, text)
		}
		found := hindrances(t, n.Gateway, plan)
		what := saidOf(found, "IPv4")
		said[what]++
		if what == may {
			continue
		}
		err := getsThrough(n, n.Client4, n.Server4, silence)
		if err != nil && what == fine {
			err = getsThrough(n, n.Client4, n.Server4, patience) // a busy machine is no firewall
		}
		if what == fine && err != nil || what == will && err == nil {
			t.Errorf("seed %d: said to be %q, and a connection: %v; %+v\n%s", seed, what, err, found, text)
		}
	}
	if t.Logf("of %d chains: %v", tries, said); said[fine] < tries/10 || said[will] < tries/10 || said[may] > tries*2/3 {
		t.Errorf("of %d chains %v were told: this proves little", tries, said)
	}
}

func tryNft(ctx context.Context, host *netlab.Host, text string) error {
	var complaint strings.Builder
	command := host.Command(ctx, "nft", "-f", "-")
	command.Stdin, command.Stderr = strings.NewReader(text), &complaint
	if err := host.Run(command); err != nil {
		return fmt.Errorf("%w: %s", err, complaint.String())
	}
	return nil
}
