package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"postern/proxy/internal/intercept"
)

// rules holds the kernel against the plan.
func rules(_ context.Context, e *examination) ([]Finding, error) {
	var obstacle *intercept.ObstacleError
	switch {
	case errors.As(e.stateErr, &obstacle):
		return []Finding{{Severity: Problem, What: obstacle.What, Why: "interception cannot be put in force", Mend: []string{"# " + obstacle.Remedy}}}, nil
	case e.stateErr != nil:
		return nil, e.stateErr
	case !e.intercepts() && (e.state.Taking || e.state.Lingering):
		return []Finding{{Severity: Problem, What: `interception is in force, and the configuration has method = "none"`,
			Why: "connections are taken that nobody serves", Mend: []string{e.postern("intercept up")}}}, nil
	case !e.intercepts():
		return nil, nil
	case !e.state.Taking:
		what := "interception is not in force"
		if e.state.Lingering {
			what = "interception was taken out, and only carries the last connections"
		}
		return []Finding{{Severity: Problem, What: what, Why: "new connections pass by, unguarded and unrecorded", Mend: []string{e.start("intercept up")}}}, nil
	case e.state.Stopped:
		return []Finding{{Severity: Problem, What: "interception is stopped, and blocks new connections", Why: `when_down = "block" holds, and senders try again later`,
			Mend: []string{e.start("intercept up")}}}, nil
	case !e.state.Agrees:
		return []Finding{{Severity: Problem, What: "interception is in force otherwise than configured: " + strings.Join(e.state.Differences, "; "),
			Why: "it takes other connections than it should, or loses some", Mend: []string{e.postern("intercept up")}}}, nil
	}
	found, err := e.ledAway()
	return append(found, e.otherFamily()...), err
}

// otherFamily says what becomes of the family that is not listened in.
func (e *examination) otherFamily() []Finding {
	var found []Finding
	for _, v4 := range []bool{true, false} {
		if e.listensIn(v4) {
			continue
		}
		name := map[bool]string{true: "IPv4", false: "IPv6"}[v4]
		f := Finding{Severity: Note, What: fmt.Sprintf("listen.addresses has no %s address", name), Why: name + " connections are not intercepted"}
		switch {
		case e.Plan.Method == intercept.TProxy && e.Plan.WhenDown == intercept.Block:
			f.Why = name + " connections are always reset"
		case e.Plan.WhenDown == intercept.Pass:
			f.Severity, f.Why = Problem, name+" connections pass without Postern"
		}
		found = append(found, f)
	}
	return found
}

func inputChains(_ context.Context, e *examination) ([]Finding, error) {
	if !e.intercepts() {
		return nil, nil
	}
	hindrances, err := e.Plan.InputHindrances()
	if err != nil {
		return nil, err
	}
	const lasting = " # and where this firewall is kept, or a reload of it takes the rule out"
	var found []Finding
	for _, h := range hindrances {
		f := Finding{Severity: Problem, What: h.What, Why: "what Postern took over hangs or is refused, and is no longer forwarded either", Mend: []string{h.Command + lasting}}
		if h.Owned { // by whom it is kept, too
			f.Mend = []string{h.Command}
		}
		if !h.Surely {
			f.Severity, f.Why = Unknown, "it depends on what cannot be known before; with this rule it does not"
		}
		found = append(found, f)
	}
	for _, command := range e.Plan.LegacyInputRules() {
		found = append(found, Finding{Severity: Note, What: "iptables-legacy keeps a filter table here, which cannot be looked into",
			Why: "if its INPUT chain drops what it does not know, intercepted packets do not get in", Mend: []string{command}})
	}
	return found, nil
}
