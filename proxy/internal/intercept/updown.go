package intercept

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
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
func (p Plan) Up() (Report, error) { return p.up(false) }

// UpEarly is Up for a machine that starts, before it has a network: forwarding
// and routes that pass needs are not asked for, and where an interface is not
// there yet, or a bridge has no two ports, and WhenDown is Block, new connections
// wait that cross any bridge, but through ports that are there. Up must follow once
// the network is there.
func (p Plan) UpEarly() (Report, error) { return p.up(true) }

func (p Plan) up(early bool) (Report, error) {
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
	err = p.checkBridges(m, bridges)
	if !early {
		err = errors.Join(err, p.checkForwarding(m, bridges))
	}
	if err != nil {
		return Report{}, err
	}
	report := Report{Running: countFlows(p.Ports), InputRule: p.inputRule()}
	if p.Method != None {
		report.Warnings = p.warnings(m, bridges)
	}
	tables := p.tables(bridges)
	if early && p.Method != None && p.WhenDown == Block && (m.lacks(p.Interfaces) || slices.ContainsFunc(bridges, bridge.unfinished)) {
		tables = slices.DeleteFunc(tables, func(t table) bool { return t.family == nftables.TableFamilyBridge })
		tables = append(tables, p.waitingTable(bridges))
	}
	return report, p.put(tables)
}

// put changes the kernel. Routing comes before the rules that need it, and what
// an earlier plan needed goes last.
func (p Plan) put(tables []table) error {
	changes, err := p.routingChanges()
	if err != nil {
		return err
	}
	undo, err := changes.add()
	if err == nil {
		err = replace(tables)
	}
	if err != nil {
		undo()
		return err
	}
	return changes.remove()
}

func (p Plan) routingChanges() (routingChange, error) {
	present, err := installed()
	if err != nil {
		return routingChange{}, err
	}
	if p.Method == TProxy {
		if err := errors.Join(checkRules(), checkTable()); err != nil {
			return routingChange{}, err
		}
	}
	wanted := routing{rules: p.wantedRules()}
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
	// StillBlocking means that new connections are blocked from now on, as
	// UnlessBlocking asks.
	StillBlocking
)

// A Removal says how Down is to go about it.
type Removal struct {
	// Linger is how long Down waits at most for what the rules still carry.
	// DefaultLinger is right; zero is for a machine that nobody uses.
	Linger time.Duration
	// UnlessBlocking leaves everything in force where connections are blocked
	// while nothing listens, and blocks them from now on: a socket that is open
	// for as long as Postern still serves would keep them waiting.
	UnlessBlocking bool
	// Waiting, where it is not nil, is called before the wait, if there is one.
	Waiting func()
}

// Down stops interception, in the network namespace of the calling thread,
// whatever plan is in force. New connections go their own way at once. What
// carries the packets of Postern's connections stays until the last socket of
// these is gone, at most for r.Linger, which this call waits out, and then goes
// too. Without it new connections from ports that a client used through Postern a
// moment ago would hang, and those that Postern still serves would break, as do
// those that outlast it. It returns at once where no rules of Postern stand.
//
// When the context ends first the rest is left in place, which is safe, and a
// later Down removes it. Down does nothing where there is nothing to remove, and
// nothing when another Up came in between.
func Down(ctx context.Context, r Removal) (Ending, error) {
	standing, taking, err := inForce()
	if err != nil {
		return NothingStood, err
	}
	if taking.blocks && r.UnlessBlocking {
		return StillBlocking, onlyBlock()
	}
	if standing {
		if err := emptyTakeChain(); err != nil {
			return NothingStood, err
		}
		if r.Linger > 0 && carried() {
			if r.Waiting != nil {
				r.Waiting()
			}
			if err := waitOut(ctx, r.Linger, carried); err != nil {
				return NothingStood, fmt.Errorf("intercept: what carries the last connections was left in place: %w", err)
			}
		}
		if _, again, err := inForce(); err != nil || again.any {
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

// taking is what the rules in force do with new connections.
type taking struct {
	any    bool // something; they are not merely carried
	hands  bool // they are handed to Postern
	blocks bool // they are blocked while nothing listens, or while not handed over
}

// inForce tells whether rules of ours stand, and what they do.
func inForce() (standing bool, now taking, err error) {
	connection, err := nftables.New()
	if err != nil {
		return false, taking{}, fmt.Errorf("intercept: nftables: %w", err)
	}
	present, err := ownTables(connection)
	if err != nil {
		return false, taking{}, err
	}
	for _, t := range present {
		standing = true
		if t.Family != nftables.TableFamilyINet {
			continue
		}
		rules, err := connection.GetRules(t, &nftables.Chain{Name: takeChain})
		if err != nil {
			return false, taking{}, fmt.Errorf("intercept: listing nftables rules: %w", err)
		}
		now.any = now.any || len(rules) > 0
		for _, r := range rules {
			// A redirected connection to where nothing listens is refused.
			found := rule{exprs: r.Exprs}
			now.hands = now.hands || handsOver(r)
			now.blocks = now.blocks || holds[*expr.Reject](found) || holds[*expr.Redir](found)
		}
	}
	return standing, now, nil
}
