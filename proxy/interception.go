package proxy

import (
	"context"
	"net/netip"
	"slices"

	"postern/proxy/internal/intercept"
)

// An Interception is what the kernel is told, or found to have been told.
type (
	// InterceptionReport is what putting an interception in force has to tell.
	InterceptionReport = intercept.Report
	// InterceptionState is an interception as it is found.
	InterceptionState = intercept.State
	// InterceptionRemoval says how it is taken out.
	InterceptionRemoval = intercept.Removal
	// InterceptionEnding is what came of taking one out.
	InterceptionEnding = intercept.Ending
	// InputRule is what a firewall on the machine has to let in.
	InputRule = intercept.InputRule
)

// InterceptUp puts the interception of config in force in the present network
// namespace, in place of an earlier one of Postern's. It needs CAP_NET_ADMIN.
func InterceptUp(config Config) (InterceptionReport, error) { return plan(config).Up() }

// InterceptUpEarly is InterceptUp for a machine that starts and has no network
// yet. InterceptUp must follow when it has.
func InterceptUpEarly(config Config) (InterceptionReport, error) { return plan(config).UpEarly() }

// InterceptShow compares the kernel with config. It needs CAP_NET_ADMIN.
func InterceptShow(config Config) (InterceptionState, error) { return plan(config).Show() }

// InterceptDown takes interception out, whatever configuration it was put in
// force with. New connections go their own way at once; what carries the packets
// of those that Postern took stays until these are gone, at most for the linger
// of the removal, which the call waits for. It needs CAP_NET_ADMIN.
func InterceptDown(ctx context.Context, removal InterceptionRemoval) (InterceptionEnding, error) {
	return intercept.Down(ctx, removal)
}

// What came of InterceptDown.
const (
	NothingStood = intercept.NothingStood
	TakenOut     = intercept.TakenOut
	PutBack      = intercept.PutBack

	StillBlocking = intercept.StillBlocking
)

// The bit of the packet mark, the routing table and the priority of routing rules
// that interception by tproxy uses on every machine.
const (
	InterceptionMark     = intercept.Mark
	InterceptionTable    = intercept.Table
	InterceptionPriority = intercept.Priority
)

// DefaultLinger is how long the kernel keeps a connection that is over.
const DefaultLinger = intercept.DefaultLinger

// CheckInterception reports what config asks of interception that cannot be, as
// far as that is known without looking at the machine.
func CheckInterception(config Config) error { return plan(config).Validate() }

// InterceptionChanges names the keys by which the kernel would have to be told
// anew, since was was put in force: a reload of the server does not do that.
func InterceptionChanges(was, is Config) []string {
	var keys []string
	note := func(key string, same bool) {
		if !same {
			keys = append(keys, "intercept."+key)
		}
	}
	a, b := was.Intercept, is.Intercept
	note("interfaces", slices.Equal(a.Interfaces, b.Interfaces))
	note("ports", slices.Equal(a.Ports, b.Ports))
	note("sources", slices.Equal(a.Sources, b.Sources))
	note("bypass", slices.Equal(a.Bypass, b.Bypass))
	note("when_down", a.Pass == b.Pass)
	note("user", a.User == b.User)
	return keys
}

// CheckMachine reports what stands in the way of interception on this machine, as
// far as that can be seen without privilege. Nothing is wrong with config itself.
func CheckMachine(config Config) error { return plan(config).CheckMachine() }

func plan(config Config) intercept.Plan {
	when := intercept.Block
	if config.Intercept.Pass {
		when = intercept.Pass
	}
	return intercept.Plan{
		Method:         intercept.Method(config.Intercept.Method),
		Interfaces:     config.Intercept.Interfaces,
		User:           config.Intercept.User,
		Ports:          config.Intercept.Ports,
		Sources:        config.Intercept.Sources,
		Bypass:         config.Intercept.Bypass,
		WhenDown:       when,
		Listen:         append([]netip.AddrPort(nil), config.Listen.Addresses...),
		PreserveSource: config.Intercept.PreserveSource,
	}
}
