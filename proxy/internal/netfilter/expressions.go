package netfilter

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// registersSize is that of nft's data registers: sixteen words, or four of four.
const registersSize = 64

// registers hold what expressions load and compare.
type registers struct {
	bits
	// excluded is what never stands in the register that begins at an offset.
	excluded map[int][]span
}

func newRegisters() registers { return registers{unknown(registersSize), map[int][]span{}} }

func (r registers) forget() {
	clear(r.value)
	clear(r.known)
	clear(r.excluded)
}

// offset finds a register: 1 to 4 are of sixteen octets, those from 8 of four.
func offset(register uint32) int {
	switch {
	case register >= 1 && register <= 4:
		return int(register-1) * 16
	case register >= 8 && register < 24:
		return int(register-8) * 4
	}
	return -1
}

// load puts a value into a register; the rest of its last word is zero, as the
// kernel has it.
func (r registers) load(register uint32, value bits) {
	at := offset(register)
	if at < 0 {
		return
	}
	if rest := len(value.value) % 4; rest != 0 {
		padding := make([]byte, 4-rest)
		value = bits{slices.Concat(value.value, padding), slices.Concat(value.known, exactly(padding...).known), value.never}
	}
	n := min(len(value.value), registersSize-at)
	r.write(at, value.slice(0, n))
	for other := range r.excluded {
		if other >= at-unix.IFNAMSIZ && other < at+n {
			delete(r.excluded, other) // it is overwritten, or may be in part
		}
	}
	r.excluded[at] = value.never
}

// from gives what stands in a register and behind it, n octets of it, or all.
func (r registers) from(register uint32, n int) bits {
	at := offset(register)
	if at < 0 {
		return unknown(max(n, 0))
	}
	if n <= 0 || at+n > registersSize {
		n = registersSize - at
	}
	out := r.slice(at, at+n)
	out.never = r.excluded[at]
	return out
}

// verdict is what a rule comes to.
type verdict struct {
	code  int32
	chain string
}

// The verdicts of netfilter and of nftables (linux/netfilter.h, nf_tables.h).
const (
	codeDrop     = 0
	codeAccept   = 1
	codeQueue    = 3
	codeContinue = -1
	codeJump     = -3
	codeGoto     = -4
	codeReturn   = -5

	codeMask = 0xff // behind it a drop has its errno, a queue its number
)

// verdictOf reads one from a data attribute, nil where it holds none.
func verdictOf(data attributes) *verdict {
	if !data.has(unix.NFTA_DATA_VERDICT) {
		return nil
	}
	a := data.nested(unix.NFTA_DATA_VERDICT)
	v := &verdict{int32(a.number(unix.NFTA_VERDICT_CODE)), a.text(unix.NFTA_VERDICT_CHAIN)}
	if v.code >= 0 {
		v.code &= codeMask
	}
	return v
}

// step does what one expression does. It tells whether the rule goes on behind
// it, and the verdicts it may give; with certain true it gives one of them, else
// perhaps none.
type step struct {
	matches  truth
	verdicts []verdict
	certain  bool
}

func goesOn(t truth) step { return step{matches: t} }

func ends(code int32) step { return step{yes, []verdict{{code: code}}, true} }

// loads are the expressions that fill a register, with the value that each has,
// and which attribute names the register.
var loads = map[string]struct {
	register uint16
	value    func(*walk, attributes) bits
}{
	"meta":    {unix.NFTA_META_DREG, (*walk).meta},
	"ct":      {unix.NFTA_CT_DREG, (*walk).conntrack},
	"payload": {unix.NFTA_PAYLOAD_DREG, (*walk).payload},
	"fib":     {unix.NFTA_FIB_DREG, (*walk).fib},
	"socket":  {socketDestination, (*walk).socket},
}

// passing are expressions that change nothing a later rule asks for.
var passing = []string{"counter", "log", "last", "dup"}

// express follows one expression.
func (w *walk) express(c *chain, e expression, r registers) (step, error) {
	a := e.attributes
	if load, ok := loads[e.name]; ok && a.has(load.register) {
		r.load(a.number(load.register), load.value(w, a))
		return goesOn(yes), nil
	}
	if slices.Contains(passing, e.name) {
		return goesOn(yes), nil
	}
	switch e.name {
	case "meta": // without a destination: set
		w.setMeta(a, r)
		return goesOn(yes), nil
	case "ct", "payload":
		return goesOn(yes), nil
	case "immediate":
		if e.verdict != nil {
			return step{yes, []verdict{*e.verdict}, true}, nil
		}
		r.load(a.number(unix.NFTA_IMMEDIATE_DREG), exactly(a[unix.NFTA_IMMEDIATE_DATA]...))
		return goesOn(yes), nil
	case "cmp":
		return goesOn(compare(a, r)), nil
	case "range":
		return goesOn(inRange(a, r)), nil
	case "bitwise":
		bitwise(a, r)
		return goesOn(yes), nil
	case "byteorder":
		byteorder(a, r)
		return goesOn(yes), nil
	case "lookup":
		return w.lookup(c, a, r)
	case "reject":
		return ends(codeDrop), nil
	case "nat", "masq", "redir":
		return ends(codeAccept), nil
	case "queue":
		return ends(codeQueue), nil
	case "match":
		return goesOn(w.match(a)), nil
	case "target":
		return w.target(a), nil
	case "notrack":
		w.untracks = true
		return goesOn(yes), nil
	case "objref":
		return object(a), nil
	case "synproxy":
		return step{yes, []verdict{{code: codeQueue}}, false}, nil
	}
	r.forget() // what is not known may match, and may leave anything in any register
	return goesOn(maybe), nil
}

// Objects that a rule names and always goes on behind: those that count, and those
// that give something to the packet (NFT_OBJECT_*, linux/netfilter/nf_tables.h).
var harmless = []uint32{1, 3, 6, 7, 8, 9} // counter, ct helper, tunnel, ct timeout, secmark, ct expectation

// object refers to one by name, or to one that a map has for the packet. A limit
// and a quota end the rule when they are used up.
func object(a attributes) step {
	const synproxy = 10 // NFT_OBJECT_SYNPROXY
	switch kind := a.number(unix.NFTA_OBJREF_IMM_TYPE); {
	case kind == synproxy:
		return step{yes, []verdict{{code: codeQueue}}, false}
	case slices.Contains(harmless, kind):
		return goesOn(yes)
	}
	return goesOn(maybe)
}

// Comparisons, in the numbering of nf_tables.h.
func compare(a attributes, r registers) truth {
	value := a[unix.NFTA_CMP_DATA]
	found := r.from(a.number(unix.NFTA_CMP_SREG), len(value))
	switch a.number(unix.NFTA_CMP_OP) {
	case 0:
		return found.equals(value)
	case 1:
		return found.equals(value).not()
	case 2:
		return found.below(value)
	case 3:
		return found.above(value).not()
	case 4:
		return found.above(value)
	case 5:
		return found.below(value).not()
	}
	return maybe
}

func inRange(a attributes, r registers) truth {
	first, last := a[unix.NFTA_RANGE_FROM_DATA], a[unix.NFTA_RANGE_TO_DATA]
	in := r.from(a.number(unix.NFTA_RANGE_SREG), len(first)).within(first, last)
	if a.number(unix.NFTA_RANGE_OP) == 1 {
		return in.not()
	}
	return in
}

// attributeOperation tells masking (0) from shifts and from operations on two
// registers (NFTA_BITWISE_OP, not in golang.org/x/sys).
const attributeOperation = 6

func bitwise(a attributes, r registers) {
	n := int(a.number(unix.NFTA_BITWISE_LEN))
	result := unknown(n)
	if a.number(attributeOperation) == 0 {
		result = r.from(a.number(unix.NFTA_BITWISE_SREG), n).
			masked(a[unix.NFTA_BITWISE_MASK], a[unix.NFTA_BITWISE_XOR])
	}
	r.load(a.number(unix.NFTA_BITWISE_DREG), result)
}

// byteorder turns round what the machine keeps the other way than the network.
func byteorder(a attributes, r registers) {
	n, size := int(a.number(unix.NFTA_BYTEORDER_LEN)), int(a.number(unix.NFTA_BYTEORDER_SIZE))
	value := r.from(a.number(unix.NFTA_BYTEORDER_SREG), n).clone()
	if size > 0 && binary.NativeEndian.Uint16([]byte{0, 1}) != 1 {
		for at := 0; at+size <= n; at += size {
			slices.Reverse(value.value[at : at+size])
			slices.Reverse(value.known[at : at+size])
		}
	}
	r.load(a.number(unix.NFTA_BYTEORDER_DREG), value)
}

// elementsAStep is how many elements are compared in the time of a rule.
const elementsAStep = 16

// lookup asks a set or a map. A map to anything but verdicts fills a register
// with what is not followed.
func (w *walk) lookup(c *chain, a attributes, r registers) (step, error) {
	s, err := w.rules.set(setName{c.family, c.table, a.text(unix.NFTA_LOOKUP_SET)})
	if err != nil {
		return step{}, err
	}
	w.rules.steps += len(s.elements) / elementsAStep
	candidates, in := s.find(r.from(a.number(unix.NFTA_LOOKUP_SREG), 0))
	const inverted = 1 << 0 // NFT_LOOKUP_F_INV
	switch {
	case a.number(unix.NFTA_LOOKUP_FLAGS)&inverted != 0:
		return goesOn(in.not()), nil
	case !a.has(unix.NFTA_LOOKUP_DREG):
		return goesOn(in), nil
	case a.number(unix.NFTA_LOOKUP_DREG) != 0:
		r.load(a.number(unix.NFTA_LOOKUP_DREG), unknown(registersSize))
		return goesOn(in), nil
	}
	result := step{matches: yes, certain: in == yes}
	for _, e := range candidates {
		if e.verdict != nil {
			result.verdicts = append(result.verdicts, *e.verdict)
		}
	}
	if s.changes { // another verdict may have come in by then
		result.verdicts, result.certain = append(result.verdicts, verdict{code: codeDrop}), false
	}
	if len(result.verdicts) == 0 {
		return goesOn(no), nil
	}
	return result, nil
}
