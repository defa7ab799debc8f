package netfilter

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"
)

// walk follows one packet through base chains, along every way that it may take.
type walk struct {
	rules   *ruleset
	packet  Packet
	headers headers
	// registers are those of the rule that is followed.
	registers registers
	// mark is that of the packet, which rules change.
	mark bits
	// certain is true while the packet is known to have come to here.
	certain bool

	accepts bool
	drops   []Place
	// untracks is true where a rule may have taken the packet out of conntrack.
	untracks bool
}

// Place is where a packet is dropped.
type Place struct {
	Table, Chain string
	// Handle is the rule's, as "nft -a list" shows it, and Number its place in
	// the chain, counted from 1. Both are 0 for the policy.
	Handle uint64
	Number int
	// Queued is true of a rule that asks a program.
	Queued bool
}

// errTooLong is of chains with so many jumps that following them would not end
// in any time that a person waits.
var errTooLong = errors.New("netfilter: the chains have too many ways to follow")

const (
	maxSteps = 1 << 22 // for all packets together: some seconds
	maxDepth = 32      // the kernel allows 16 (NFT_JUMP_STACK_SIZE)
)

func (r *ruleset) follow(p Packet) *walk {
	return &walk{rules: r, packet: p, headers: p.lay(), registers: newRegisters(), mark: p.markBits(), certain: true}
}

// base follows the packet through one base chain and its policy. Behind the chain
// of another, the mark is what that one made of it.
func (w *walk) base(c *chain) error {
	w.accepts, w.drops = false, nil
	falls, err := w.chain(c, 0)
	if err != nil {
		return err
	}
	switch {
	case falls && c.drops:
		w.drop(Place{Table: c.table, Chain: c.name})
	case falls:
		w.accepts = true
	}
	return nil
}

func (w *walk) drop(p Place) {
	if !slices.Contains(w.drops, p) {
		w.drops = append(w.drops, p)
	}
}

// chain follows the packet along the rules, and tells whether it may come back
// to whoever sent it here.
func (w *walk) chain(c *chain, depth int) (falls bool, err error) {
	if depth > maxDepth {
		return false, errTooLong
	}
	for i, r := range c.rules {
		if w.rules.steps++; w.rules.steps > maxSteps {
			return false, errTooLong
		}
		ended, err := w.rule(c, r)
		if err != nil {
			return false, err
		}
		goesOn := !ended.certain
		w.certain = w.certain && (ended.certain && len(ended.verdicts) == 1 || len(ended.verdicts) == 0)
		for _, v := range ended.verdicts {
			on, back, err := w.obey(c, i, v, depth)
			if err != nil {
				return false, err
			}
			goesOn, falls = goesOn || on, falls || back
		}
		if !goesOn {
			return falls, nil
		}
	}
	return true, nil
}

// obey tells whether the packet may go on behind the rule, and whether it may go
// back to whoever sent it to the chain.
func (w *walk) obey(c *chain, i int, v verdict, depth int) (on, back bool, err error) {
	here := Place{Table: c.table, Chain: c.name, Handle: c.rules[i].handle, Number: i + 1}
	switch v.code {
	case codeAccept:
		w.accepts = true
	case codeQueue:
		here.Queued, w.accepts = true, true
		w.drop(here)
	case codeReturn:
		return false, true, nil
	case codeJump, codeGoto:
		target := w.rules.chain(c, v.chain)
		if target == nil {
			return false, false, errors.New("netfilter: a rule jumps to a chain that is not listed")
		}
		falls, err := w.chain(target, depth+1)
		if v.code == codeJump {
			return falls, false, err
		}
		return false, falls, err
	case codeDrop:
		w.drop(here)
	default:
		return true, false, nil
	}
	return false, false, nil
}

func (r *ruleset) chain(near *chain, name string) *chain {
	for _, c := range r.chains {
		if c.family == near.family && c.table == near.table && c.name == name {
			return c
		}
	}
	return nil
}

// rule tells what verdicts a rule may give. None means that it surely gives none.
func (w *walk) rule(c *chain, r rule) (step, error) {
	before, certain := w.certain, yes
	w.registers.forget() // of the rule before
	for _, e := range r.exprs {
		did, err := w.express(c, e, w.registers)
		if err != nil {
			return step{}, err
		}
		if certain = certain.and(did.matches); certain == no {
			w.certain = before
			return step{}, nil
		}
		w.certain = before && certain == yes
		if len(did.verdicts) > 0 {
			w.certain = before
			did.certain = did.certain && certain == yes
			return did, nil
		}
	}
	w.certain = before
	return step{}, nil
}

// dynamic is the first port of those that clients have (RFC 6335 §6).
const dynamic = 49152

// untracks tells whether a rule may take a packet out of conntrack as it comes in,
// when neither its mark nor what becomes of it is known. Then it has no state.
func (r *ruleset) untracks(p Packet) (bool, error) {
	p.Mark, p.Transparent, p.State = 0, false, 0
	if p.DestinationPort == 0 {
		p.DestinationPort = dynamic // not that of a web server, which is what such rules mean
	}
	w := r.follow(p)
	for _, c := range r.base(p.V4, func(c *chain) bool { return c.early }) {
		if err := w.base(c); err != nil {
			return false, err
		}
	}
	return w.untracks, nil
}

// input are the base chains of input.
func (r *ruleset) input(v4 bool) []*chain {
	return r.base(v4, func(c *chain) bool { return c.input })
}

// base are base chains that a packet of a family passes, in the order in which it
// does.
func (r *ruleset) base(v4 bool, hooked func(*chain) bool) []*chain {
	var out []*chain
	for _, c := range r.chains {
		if hooked(c) && (c.family == unix.NFPROTO_INET || (c.family == unix.NFPROTO_IPV4) == v4) {
			out = append(out, c)
		}
	}
	slices.SortStableFunc(out, func(a, b *chain) int { return int(a.priority) - int(b.priority) })
	return out
}
