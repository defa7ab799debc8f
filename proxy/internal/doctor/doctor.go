package doctor

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"postern/proxy/internal/intercept"
)

// Severity is how much a finding matters.
type Severity string

const (
	// Problem is something that keeps connections from being guarded, or mail from
	// passing.
	Problem Severity = "problem"
	// Unknown is what could not be looked at, or not be told from looking.
	Unknown Severity = "unknown"
	// Note is worth knowing and harms nothing now.
	Note Severity = "note"
)

// Finding is one thing that was found.
type Finding struct {
	// Check is the row of the table that found it: "forwarding".
	Check    string
	Severity Severity
	// What was found, and Why it matters, a clause each.
	What, Why string
	// Mend are commands for a shell, in this order; what is behind a # is said to
	// the person. None where there is no command.
	Mend []string
}

// Patient is a machine as it is to be.
type Patient struct {
	Plan intercept.Plan
	// Certificates are those that Postern shows or uses.
	Certificates []Certificate
	// Faults are of other files that the configuration names.
	Faults   []error
	Resolver Asked
	Shared   Shared
	// User is whom the service runs as; one that does not exist is nobody's.
	User string
	// Built is when the program was, zero where that is not known.
	Built time.Time
	// Flags stand behind the commands of postern that are named: "--config x".
	Flags string
}

// check looks at one thing. An error is something that could not be looked at.
type check struct {
	name string
	look func(context.Context, *examination) ([]Finding, error)
}

// checks stand in the order in which packets, and then people, meet them.
func checks() []check {
	return []check{
		{"interfaces", interfaces},
		{"forwarding", forwarding},
		{"rp_filter", reversePath},
		{"bridge", bridgeNetfilter},
		{"conntrack", conntrack},
		{"rules", rules},
		{"input chains", inputChains},
		{"listener", listener},
		{"capability", capability},
		{"units", units},
		{"certificates", certificates},
		{"files", files},
		{"clock", clock},
		{"mtu", mtu},
		{"resolver", resolver},
		{"shared memory", sharedMemory},
	}
}

// Checks names what Examine looks at, in order.
func Checks() []string {
	var names []string
	for _, c := range checks() {
		names = append(names, c.name)
	}
	return names
}

// Examine looks at everything, in the network namespace of the calling thread.
func Examine(ctx context.Context, p Patient) []Finding {
	e := &examination{Patient: p, now: time.Now(), systemctl: systemctl}
	return e.examine(ctx, checks())
}

func (e *examination) examine(ctx context.Context, table []check) []Finding {
	e.state, e.stateErr = e.Plan.Show()
	e.units, e.unitsErr = e.askUnits(ctx)
	var all []Finding
	for _, c := range table {
		found, err := c.look(ctx, e)
		for _, f := range found {
			f.Check = c.name
			all = append(all, f)
		}
		if err != nil {
			all = append(all, e.notLookedAt(c.name, err))
		}
	}
	return all
}

// examination is what the checks share.
type examination struct {
	Patient
	now time.Time

	// state is the interception as it is found.
	state    intercept.State
	stateErr error
	// units are those of the package, by name.
	units    map[string]unit
	unitsErr error
	// systemctl asks systemd; it gives nothing where that does not run.
	systemctl func(ctx context.Context, arguments ...string) ([]byte, error)
}

func (e *examination) notLookedAt(name string, err error) Finding {
	f := Finding{Check: name, Severity: Unknown, What: name + " could not be looked at: " + err.Error(), Why: "what is wrong there was not seen"}
	if errors.Is(err, intercept.ErrPrivilege) || errors.Is(err, errUnprivileged) {
		f.Mend = e.asRoot()
	}
	return f
}

// errUnprivileged is of what only root may see.
var errUnprivileged = errors.New("this user may not see it")

// postern is a command of the program's own, for the same configuration.
func (e *examination) postern(arguments string) string {
	if e.Flags != "" {
		arguments += " " + e.Flags
	}
	return "postern " + arguments
}

// asRoot is what sees everything.
func (e *examination) asRoot() []string { return []string{"sudo " + e.postern("doctor")} }

// start is how the service of the package is started, or one command of the two
// that it consists of, for somebody who has none, or where only that is missing.
func (e *examination) start(command string) string {
	target, packaged := e.units["postern.target"]
	_, limited := startLimit(e.units["postern.service"], e.units["postern.socket"])
	switch {
	case packaged && command == "run" && limited:
		return wayBack
	case packaged && target["ActiveState"] != "active":
		return "systemctl start postern.target"
	case packaged && command == "run":
		return "systemctl start postern.socket postern.service"
	}
	return e.postern(command)
}

// family is one that Postern may listen in.
type family struct {
	v4     bool
	name   string // as people say it
	number int    // of netlink
}

// families are those that Postern listens in.
func (e *examination) families() []family {
	var out []family
	for _, f := range []family{{true, "IPv4", netlink.FAMILY_V4}, {false, "IPv6", netlink.FAMILY_V6}} {
		for _, address := range e.Plan.Listen {
			if address.Addr().Is4() == f.v4 && !slices.Contains(out, f) {
				out = append(out, f)
			}
		}
	}
	return out
}

func (e *examination) intercepts() bool { return e.Plan.Method != intercept.None }

// systemctl is the program, where systemd runs.
func systemctl(ctx context.Context, arguments ...string) ([]byte, error) {
	if !runsSystemd() {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return exec.CommandContext(ctx, "systemctl", arguments...).Output()
}

// patience is for each program or server that is asked.
const patience = 2 * time.Second
