package netfilter

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// gives is a rule that ends in a verdict.
func gives(code int32, chain string) rule {
	return rule{exprs: []expression{{name: "immediate", verdict: &verdict{code, chain}}}}
}

func packet() Packet {
	return Packet{What: "a packet", V4: true, DestinationPort: 25, Flags: SYN, State: New}
}

func TestChainsWithTooManyWaysAreGivenUp(t *testing.T) {
	r := &ruleset{sets: map[setName]*set{}, steps: maxSteps - 100_000} // most of the patience is used up
	for i := range 16 {
		c := &chain{family: unix.NFPROTO_INET, table: "filter", name: fmt.Sprint("chain", i), input: i == 0}
		for range 8 {
			if i < 15 {
				c.rules = append(c.rules, gives(codeJump, fmt.Sprint("chain", i+1)))
			}
		}
		r.chains = append(r.chains, c)
	}
	if found, err := r.hindrances([]Packet{packet()}, "own"); !errors.Is(err, errTooLong) {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestWhatIsNotUnderstoodMayMatchAndMayNot(t *testing.T) {
	strange := gives(codeDrop, "")
	strange.exprs = append([]expression{{name: "invented"}}, strange.exprs...)
	c := &chain{family: unix.NFPROTO_IPV4, table: "filter", name: "INPUT", input: true, rules: []rule{strange}}
	r := &ruleset{chains: []*chain{c}, sets: map[setName]*set{}}
	found, err := r.hindrances([]Packet{packet()}, "own")
	if err != nil || len(found) != 1 || found[0].Surely || !found[0].XTables {
		t.Errorf("%+v, %v", found, err)
	}
	c.table = "own"
	if found, err := r.hindrances([]Packet{packet()}, "own"); err != nil || len(found) != 0 {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestAJumpToAChainThatIsNotListedIsAnError(t *testing.T) {
	r := &ruleset{sets: map[setName]*set{}, chains: []*chain{{family: unix.NFPROTO_INET, table: "filter", name: "input", input: true,
		rules: []rule{gives(codeGoto, "gone")}}}}
	if found, err := r.hindrances([]Packet{packet()}, "own"); err == nil {
		t.Errorf("%+v", found)
	}
}
