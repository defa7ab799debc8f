package intercept

import "fmt"

// State is what Show found.
type State struct {
	// Taking is true while new connections are taken, or blocked.
	Taking bool
	// Stopped is true while they are blocked and none is handed to Postern.
	Stopped bool
	// Lingering is true after Down, while the last connections are carried.
	Lingering bool
	// Agrees is true when everything the plan wants is in the kernel, and nothing
	// of ours besides.
	Agrees bool
	// Differences say in words why it does not agree.
	Differences []string
	// Rules are the plan's nftables rules and routing, in order, in words.
	Rules []string
	// Running are the connections to the intercepted ports, Postern's among them.
	Running Flows
	// Warnings and InputRule as in Report.
	Warnings  []string
	InputRule InputRule
}

// Show compares the kernel, in the network namespace of the calling thread,
// with the plan. It changes nothing, but needs CAP_NET_ADMIN as Up does, for
// the kernel shows its rules to nobody else.
func (p Plan) Show() (State, error) {
	if err := p.Validate(); err != nil {
		return State{}, err
	}
	p, err := p.findUser()
	if err != nil {
		return State{}, err
	}
	m, err := inspect()
	if err != nil {
		return State{}, err
	}
	bridges, err := m.bridges(p)
	if err != nil {
		return State{}, err
	}
	tables := p.tables(bridges)
	state := State{Running: countFlows(p.Ports), InputRule: p.inputRule()}
	if p.Method != None {
		state.Warnings = p.warnings(m, bridges)
	}
	if state.Differences, err = differences(tables); err != nil {
		return State{}, err
	}
	changes, err := p.routingChanges()
	if err != nil {
		return State{}, err
	}
	state.Differences = append(state.Differences, changes.describe()...)
	state.Agrees = len(state.Differences) == 0
	standing, now, err := inForce()
	if err != nil {
		return State{}, err
	}
	state.Taking, state.Lingering = now.any, standing && !now.any
	state.Stopped = now.blocks && !now.hands
	for _, t := range tables {
		state.Rules = append(state.Rules, t.describe()...)
	}
	for _, r := range p.wantedRules() {
		if isDelivery(r) {
			state.Rules = append(state.Rules, describeRule(r.Family))
		}
	}
	return state, nil
}

// describe says what is missing and what is too much.
func (c routingChange) describe() []string {
	var out []string
	for _, r := range c.addRules {
		out = append(out, fmt.Sprintf("no %s routing rule of priority %d", routingFamily(r.Family), r.Priority))
	}
	for _, r := range c.removeRules {
		out = append(out, fmt.Sprintf("an %s routing rule of priority %d that is not part of the plan", routingFamily(r.Family), r.Priority))
	}
	for _, r := range c.addRoutes {
		out = append(out, fmt.Sprintf("the %s local route for intercepted packets is missing", routingFamily(r.Family)))
	}
	for _, r := range c.removeRoutes {
		out = append(out, fmt.Sprintf("an %s local route that is not part of the plan", routingFamily(r.Family)))
	}
	return out
}

func routingFamily(number int) string {
	return fmt.Sprintf("IPv%d", familyNumber(number == routingFamilies[0].number))
}

func describeRule(family int) string {
	number := familyNumber(family == routingFamilies[0].number)
	return fmt.Sprintf("ip -%d rule: fwmark %#x/%#x lookup %d (all local), but for look-ups of this machine's own (iif lo)",
		number, Mark, Mark, Table)
}
