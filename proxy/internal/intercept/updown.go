package intercept

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
)

// DefaultLinger is how long Down keeps what brings packets to sockets that are
// over: as long as the kernel keeps those sockets in TIME_WAIT.
const DefaultLinger = 60 * time.Second

// Report is what Up has to tell.
type Report struct {
	// Running are the connections that began before.
	Running Flows
	// Warnings are what will surprise somebody, each a sentence for a person.
	Warnings []string
	// InputRule is what a firewall on this machine has to let in.
	InputRule InputRule
}

// Up puts the plan in force, in the network namespace of the calling thread, in
// place of any earlier plan of Postern's. Nothing of anybody else is touched,
// and when it fails nothing has changed. The daemon need not be running:
// WhenDown holds until it is. It needs CAP_NET_ADMIN.
//
// Errors: those of Validate, *ObstacleError for what this machine lacks,
// ErrPrivilege, or what the kernel said.
func (p Plan) Up() (Report, error) {
	if err := p.Validate(); err != nil {
		return Report{}, err
	}
	p, err := p.findUser()
	if err != nil {
		return Report{}, err
	}
	m, err := inspect()
	if err != nil {
		return Report{}, err
	}
	bridges, err := m.bridges(p)
	if err != nil {
		return Report{}, err
	}
	if err := errors.Join(p.checkBridges(m, bridges), p.checkForwarding(m, bridges)); err != nil {
		return Report{}, err
	}
	report := Report{Running: countFlows(p.Ports), InputRule: p.inputRule()}
	if p.Method != None {
		report.Warnings = p.warnings(m, bridges)
	}
	return report, p.put(m, bridges)
}

// put changes the kernel. Routing comes before the rules that need it, and what
// an earlier plan needed goes last.
func (p Plan) put(m machine, bridges []bridge) error {
	changes, err := p.routingChanges(m)
	if err != nil {
		return err
	}
	undo, err := changes.add()
	if err == nil {
		err = replace(p.tables(bridges))
	}
	if err != nil {
		undo()
		return err
	}
	return changes.remove()
}

func (p Plan) routingChanges(m machine) (routingChange, error) {
	present, err := installed()
	if err != nil {
		return routingChange{}, err
	}
	if p.Method == TProxy {
		if err := checkTable(); err != nil {
			return routingChange{}, err
		}
	}
	wanted := routing{rules: p.wantedRules(m.carriers(p))}
	if wanted.routes, err = p.wantedRoutes(); err != nil {
		return routingChange{}, err
	}
	return change(present, wanted), nil
}

// Ending is what came of Down.
type Ending int

const (
	// NothingStood means that there were no rules of Postern's.
	NothingStood Ending = iota
	// TakenOut means that nothing of Postern's is left.
	TakenOut
	// PutBack means that another Up came in while Down waited, and was left alone.
	PutBack
)

// Down stops interception, in the network namespace of the calling thread,
// whatever plan is in force. New connections go their own way at once; what
// carries the packets of Postern's connections stays for the given time, which
// this call waits out, and then goes too. Without it new connections from ports
// that a client used through Postern a moment ago would hang, and those that
// Postern still serves would break, as do those that outlast it. It returns at
// once where no rules of Postern stand. A linger of zero is for a machine that
// nobody uses. Before it waits it calls waiting.
//
// When the context ends first the rest is left in place, which is safe, and a
// later Down removes it. Down does nothing where there is nothing to remove, and
// nothing when another Up came in between.
func Down(ctx context.Context, linger time.Duration, waiting func()) (Ending, error) {
	standing, _, err := inForce()
	if err != nil {
		return NothingStood, err
	}
	if standing {
		if err := emptyTakeChain(); err != nil {
			return NothingStood, err
		}
		if linger > 0 {
			waiting()
		}
		if err := pause(ctx, linger); err != nil {
			return NothingStood, fmt.Errorf("intercept: what carries the last connections was left in place: %w", err)
		}
		if _, again, err := inForce(); err != nil || again {
			return PutBack, err
		}
	}
	if err := replace(nil); err != nil {
		return NothingStood, err
	}
	present, err := installed()
	if err != nil {
		return NothingStood, err
	}
	if !standing && len(present.rules)+len(present.routes) == 0 {
		return NothingStood, nil
	}
	return TakenOut, change(present, routing{}).remove()
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// inForce tells whether rules of ours stand, and whether they take new
// connections.
func inForce() (standing, taking bool, err error) {
	connection, err := nftables.New()
	if err != nil {
		return false, false, fmt.Errorf("intercept: nftables: %w", err)
	}
	present, err := ownTables(connection)
	if err != nil {
		return false, false, err
	}
	for _, t := range present {
		standing = true
		if t.Family != nftables.TableFamilyINet {
			continue
		}
		rules, err := kernelRules(t.Family, tableName, takeChain)
		if err != nil {
			return false, false, err
		}
		taking = taking || len(rules) > 0
	}
	return standing, taking, nil
}
