package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"postern/cmd/internal/config"
	"postern/proxy"
)

func newIntercept(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "intercept",
		Short: "Have the kernel send connections to Postern, or no longer",
		Long: `Put the interception of the configuration in force, take it out, or look at it.

Interception is nftables rules in a table of its own and, for method = "tproxy",
policy routing. It is apart from "postern run": the rules stay while the daemon
restarts, and [intercept] when_down says what happens to connections while nobody
listens. Rules, routes and tables of others are never touched.

All three need CAP_NET_ADMIN. Exit codes: 0 fine; 1 something is missing on this
machine, or interception is not as configured; 2 the command line or the
configuration is at fault.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newInterceptUp(o), newInterceptDown(), newInterceptShow(o))
	return cmd
}

func newInterceptUp(o *options) *cobra.Command {
	var early bool
	var copied string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Put the configured interception in force",
		Long: fmt.Sprintf(`Put the configured interception in force, in place of an earlier one: whole or,
where the kernel refuses any part of it, not at all.

Connections that run already go on undisturbed, and without Postern; how many
they are is printed, as far as conntrack knows. New ones come to Postern, or meet
when_down until "postern run" listens. Saying it twice does no harm. Say it again
when a bridge is made, or an interface is added to one.

What it uses must be free: nftables tables named postern (inet and bridge), and
for method = "tproxy" bit %#x of the packet mark, the routing table %d and
the priorities %d to %d of its routing rules.

    postern check && postern intercept up`, proxy.InterceptionMark, proxy.InterceptionTable,
			proxy.InterceptionPriority, proxy.InterceptionPriority+2),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := o.interceptionOrLastGood(copied, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			up := proxy.InterceptUp
			if early {
				up = proxy.InterceptUpEarly
			}
			report, err := up(file.Proxy)
			if err != nil {
				return runtimeError{err}
			}
			if file.Path == o.config {
				if err := o.keepLastGood(copied); err != nil {
					return runtimeError{fmt.Errorf("interception is in force, but its configuration could not be kept: %w", err)}
				}
			}
			if o.json() {
				return printJSON(cmd.OutOrStdout(), upOf(file.Proxy.Intercept, report))
			}
			return printUp(cmd.OutOrStdout(), file.Proxy.Intercept, report)
		},
	}
	cmd.Flags().BoolVar(&early, "early", false, `the machine starts and has no network yet: pass does not ask for forwarding and
routes, and where an interface is missing and when_down = "block", new connections
wait that cross any bridge; "up" must follow when the network is there`)
	cmd.Flags().StringVar(&copied, "last-good", "", `keep a copy of the configuration in this `+"`file`"+`, and where the configuration is at
fault put the copy in force in its place`)
	return o.printed(cmd)
}

func newInterceptDown() *cobra.Command {
	var removal proxy.InterceptionRemoval
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Take interception out",
		Long: `Take interception out, whatever configuration it was put in force with. New
connections go their own way at once, without Postern.

What carries the packets of connections that Postern took stays until the last of
them is over, a minute at most (--linger), which this command waits for: without
it they would hang, and so would new ones from ports that a client used through
Postern a moment ago. If the command is interrupted that part stays in place,
which does no harm; another "down" takes it out. --linger 0s is for a machine that
carries nobody's mail.

With --unless-block, and where connections are blocked while Postern is stopped
(when_down = "block"), nothing is taken out: from then on new connections are
blocked, and none is handed to Postern. So to stop Postern opens nothing: that is
what "systemctl stop postern.target" does.`,
		Args: cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error {
			if removal.Linger < 0 {
				return fmt.Errorf("--linger %s found, expected a duration of 0s or more", removal.Linger)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, release := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer release()
			return takeOut(ctx, cmd.OutOrStdout(), removal)
		},
	}
	cmd.Flags().DurationVar(&removal.Linger, "linger", proxy.DefaultLinger, "the longest `duration` for which what carries the last connections stays")
	cmd.Flags().BoolVar(&removal.UnlessBlocking, "unless-block", false, "leave everything in force where when_down is block")
	return cmd
}

// The words for what came of it.
var endings = map[proxy.InterceptionEnding]string{
	proxy.NothingStood:  "nothing was in force",
	proxy.TakenOut:      "interception is taken out, nothing of Postern's is left",
	proxy.PutBack:       "interception was put in force again meanwhile, and stays",
	proxy.StillBlocking: "new connections are blocked from now on (when_down = \"block\"); \"postern intercept up\" takes them again, \"postern intercept down\" lets them go their own way",
}

// takeOut says at once what has happened, for the wait may be long.
func takeOut(ctx context.Context, w io.Writer, removal proxy.InterceptionRemoval) error {
	var said error
	removal.Waiting = func() {
		_, said = fmt.Fprintf(w, "new connections pass by; waiting for the last ones that Postern carries, %s at most, interrupting is safe\n", removal.Linger)
	}
	ending, err := proxy.InterceptDown(ctx, removal)
	if err != nil {
		return runtimeError{err}
	}
	if _, err := fmt.Fprintln(w, endings[ending]); errors.Join(said, err) != nil {
		return runtimeError{errors.Join(said, err)}
	}
	return nil
}

func newInterceptShow(o *options) *cobra.Command {
	return o.printed(&cobra.Command{
		Use:   "show",
		Short: "Compare the kernel with the configured interception",
		Long: `Say whether the configured interception is in force, print its rules in words, in
the order the kernel takes them, and what in the kernel differs from them.

Exit codes: 0 it is in force as configured; 1 it is not, or could not be looked at
(CAP_NET_ADMIN is missing, or a part of the kernel); 2 the command line or the
configuration is at fault.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := o.loadInterception()
			if err != nil {
				return err
			}
			state, err := proxy.InterceptShow(file.Proxy)
			if err != nil {
				return runtimeError{err}
			}
			found := shownOf(file.Proxy.Intercept, state)
			if o.json() {
				err = printJSON(cmd.OutOrStdout(), found)
			} else {
				err = printShown(cmd.OutOrStdout(), file.Proxy.Intercept, state, found)
			}
			if err == nil && !found.InForce {
				err = errFinding
			}
			return err
		},
	})
}

// loadInterception reads the configuration and what of interception can be known
// to be wrong before the kernel is asked.
func (o *options) loadInterception() (*config.File, error) {
	file, err := o.load()
	if err != nil {
		return nil, err
	}
	if err := proxy.CheckInterception(file.Proxy); err != nil {
		return nil, file.Locate(err)
	}
	return file, nil
}

// upResult is what "intercept up --format json" prints.
type upResult struct {
	Method     string   `json:"method"`
	Interfaces []string `json:"interfaces"`
	Ports      []uint16 `json:"ports"`
	WhenDown   string   `json:"when_down"`
	Running    *int     `json:"running,omitempty"` // absent: not known
	Warnings   []string `json:"warnings"`
	// InputRule is absent where nothing is intercepted.
	InputRule *inputRule `json:"input_rule,omitempty"`
}

// inputRule is what a firewall on the machine has to let in.
type inputRule struct {
	NFT      string   `json:"nft"`
	IPTables []string `json:"iptables"`
}

func inputRuleOf(r proxy.InputRule) *inputRule {
	if r.NFT == "" {
		return nil
	}
	return &inputRule{r.NFT, r.IPTables}
}

func (r *inputRule) print(b *strings.Builder) {
	if r == nil {
		return
	}
	b.WriteString("input rule, for a firewall here that drops what it does not know, before it drops:\n")
	fmt.Fprintf(b, "  nftables: %s\n", r.NFT)
	for _, command := range r.IPTables {
		fmt.Fprintf(b, "  iptables: %s\n", command)
	}
}

func upOf(in proxy.Intercept, r proxy.InterceptionReport) upResult {
	u := upResult{in.Method, notNil(in.Interfaces), in.Ports, whenDown(in), nil, notNil(r.Warnings), inputRuleOf(r.InputRule)}
	if r.Running.Known {
		u.Running = &r.Running.Count
	}
	return u
}

// notNil has an empty list written as [] rather than null.
func notNil[T any](list []T) []T { return append([]T{}, list...) }

func printUp(w io.Writer, in proxy.Intercept, r proxy.InterceptionReport) error {
	var b strings.Builder
	if in.Method == "none" {
		b.WriteString("method = \"none\": nothing is intercepted, and no rule of Postern's is left\n")
	} else {
		fmt.Fprintf(&b, "in force: %s\n", where(in))
		fmt.Fprintf(&b, "running before: %s, which go on without Postern\n", running(r.Running.Known, r.Running.Count))
	}
	inputRuleOf(r.InputRule).print(&b)
	for _, text := range r.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", text)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// showResult is what "intercept show --format json" prints.
type showResult struct {
	InForce     bool     `json:"in_force"` // as configured
	State       string   `json:"state"`
	Taking      bool     `json:"taking"`
	Lingering   bool     `json:"lingering"`
	Running     *int     `json:"running,omitempty"`
	Rules       []string `json:"rules"`
	Differences []string `json:"differences"`
	Warnings    []string `json:"warnings"`

	InputRule *inputRule `json:"input_rule,omitempty"` // as in upResult
}

func shownOf(in proxy.Intercept, s proxy.InterceptionState) showResult {
	r := showResult{
		InForce: s.Agrees && (s.Taking || in.Method == "none"),
		State:   "not in force", Taking: s.Taking, Lingering: s.Lingering,
		Rules: notNil(s.Rules), Differences: notNil(s.Differences), Warnings: notNil(s.Warnings),
		InputRule: inputRuleOf(s.InputRule),
	}
	if s.Running.Known {
		r.Running = &s.Running.Count
	}
	switch {
	case r.InForce && in.Method == "none":
		r.State = "nothing is intercepted, as configured"
	case r.InForce:
		r.State = "in force"
	case s.Stopped:
		r.State = "stopped, and new connections are blocked"
	case s.Taking:
		r.State = "in force otherwise than configured"
	case s.Lingering:
		r.State = "taken out, the last connections are still carried"
	}
	return r
}

func printShown(w io.Writer, in proxy.Intercept, s proxy.InterceptionState, r showResult) error {
	var b strings.Builder
	fmt.Fprintf(&b, "state: %s\n", r.State)
	fmt.Fprintf(&b, "configured: %s\n", where(in))
	if in.Method != "none" {
		fmt.Fprintf(&b, "running: %s, Postern's own among them\n", running(s.Running.Known, s.Running.Count))
	}
	for _, list := range []struct {
		head  string
		lines []string
	}{
		{"differences between the kernel and the configuration:", r.Differences},
		{"rules of the configuration, in this order:", r.Rules},
	} {
		if len(list.lines) > 0 {
			fmt.Fprintf(&b, "\n%s\n  %s\n", list.head, strings.Join(list.lines, "\n  "))
		}
	}
	if r.InputRule != nil {
		b.WriteString("\n")
		r.InputRule.print(&b)
	}
	for _, text := range r.Warnings {
		fmt.Fprintf(&b, "\nwarning: %s\n", text)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// where says in words what is intercepted: "tproxy on lan0, port 25; when_down = block".
func where(in proxy.Intercept) string {
	if in.Method == "none" {
		return `method = "none"`
	}
	ports := make([]string, len(in.Ports))
	for i, p := range in.Ports {
		ports[i] = strconv.Itoa(int(p))
	}
	word := "port"
	if len(ports) > 1 {
		word = "ports"
	}
	return fmt.Sprintf("%s on %s, %s %s; when_down = %s",
		in.Method, interfaceWords(in), word, strings.Join(ports, ", "), whenDown(in))
}

func whenDown(in proxy.Intercept) string {
	if in.Pass {
		return "pass"
	}
	return "block"
}

func running(known bool, count int) string {
	switch {
	case !known:
		return "an unknown number of connections (conntrack does not track them)"
	case count == 1:
		return "1 connection"
	}
	return strconv.Itoa(count) + " connections"
}
