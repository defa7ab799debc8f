package intercept

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// differences says in words how our tables in the kernel differ from the given
// ones; none means that they agree.
func differences(wanted []table) ([]string, error) {
	connection, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("intercept: nftables: %w", err)
	}
	present, err := ownTables(connection)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, t := range present {
		if !slices.ContainsFunc(wanted, func(w table) bool { return w.family == t.Family }) {
			out = append(out, fmt.Sprintf("table %s %s is not part of the plan", familyName(t.Family), tableName))
		}
	}
	for _, t := range wanted {
		if !slices.ContainsFunc(present, func(p *nftables.Table) bool { return p.Family == t.family }) {
			out = append(out, fmt.Sprintf("table %s %s is missing", familyName(t.family), tableName))
			continue
		}
		found, err := t.differences(connection)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

func (t table) differences(connection *nftables.Conn) ([]string, error) {
	chains, err := connection.ListChainsOfTableFamily(t.family)
	if err != nil {
		return nil, fmt.Errorf("intercept: listing nftables chains: %w", err)
	}
	chains = slices.DeleteFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name != tableName })
	var out []string
	for _, present := range chains {
		if !slices.ContainsFunc(t.chains, func(c chain) bool { return c.name == present.Name }) {
			out = append(out, fmt.Sprintf("chain %s of table %s is not part of the plan", present.Name, familyName(t.family)))
		}
	}
	for _, c := range t.chains {
		i := slices.IndexFunc(chains, func(p *nftables.Chain) bool { return p.Name == c.name })
		if i < 0 {
			out = append(out, fmt.Sprintf("chain %s of table %s is missing", c.name, familyName(t.family)))
			continue
		}
		if !c.hookedLike(chains[i]) {
			out = append(out, fmt.Sprintf("chain %s of table %s is hooked in differently", c.name, familyName(t.family)))
		}
		rules, err := kernelRules(t.family, tableName, c.name)
		if err != nil {
			return nil, err
		}
		if difference := c.compare(t.family, rules); difference != "" {
			out = append(out, difference)
		}
	}
	for _, s := range t.sets {
		same, err := s.sameAs(connection, &nftables.Table{Name: tableName, Family: t.family})
		if err != nil {
			return nil, err
		}
		if !same {
			out = append(out, fmt.Sprintf("set %s of table %s has other members", s.name, familyName(t.family)))
		}
	}
	return out, nil
}

func (c chain) hookedLike(present *nftables.Chain) bool {
	if c.hook == nil {
		return present.Hooknum == nil
	}
	return present.Hooknum != nil && *present.Hooknum == *c.hook.number() &&
		present.Priority != nil && *present.Priority == c.hook.priority && present.Type == c.hook.kind
}

// compare names the first rule that differs, for those behind it are displaced by
// one that is missing or too much.
func (c chain) compare(family nftables.TableFamily, present [][]byte) string {
	where := fmt.Sprintf("chain %s of table %s", c.name, familyName(family))
	if len(present) != len(c.rules) {
		where += fmt.Sprintf(" has %d rules, the plan %d", len(present), len(c.rules))
	}
	for i, r := range c.rules {
		switch {
		case i >= len(present):
			return fmt.Sprintf("%s: rule %d is missing: %q", where, i+1, r.comment)
		case !r.sameAs(family, present[i]):
			return fmt.Sprintf("%s: rule %d is not %q", where, i+1, r.comment)
		}
	}
	if len(present) > len(c.rules) {
		return fmt.Sprintf("%s: rule %d is not part of the plan", where, len(c.rules)+1)
	}
	return ""
}

// sameAs holds the rule as we would send it against the kernel's description of
// the one it has. The kernel adds attributes that have defaults, so every
// attribute of ours must be there with our value, and no expression more.
func (r rule) sameAs(family nftables.TableFamily, present []byte) bool {
	elements, err := netlink.UnmarshalAttributes(present)
	if err != nil || len(elements) != len(r.exprs) {
		return false
	}
	for i, e := range r.exprs {
		ours, err := expr.Marshal(byte(family), e)
		if err != nil || !contains(elements[i].Data, ours) {
			return false
		}
	}
	return true
}

// volatile attributes name things by a number that only lives as long as the
// transaction: a set's id, which also has a name.
const lookupSetID = unix.NFTA_LOOKUP_SET_ID

// contains tells whether every attribute of want is in have, nested ones by the
// same rule.
func contains(have, want []byte) bool {
	wanted, err := netlink.UnmarshalAttributes(want)
	if err != nil {
		return false
	}
	present, err := netlink.UnmarshalAttributes(have)
	if err != nil {
		return false
	}
	lookup := slices.ContainsFunc(wanted, func(a netlink.Attribute) bool {
		return a.Type == unix.NFTA_EXPR_NAME && string(a.Data) == "lookup\x00"
	})
	for _, w := range wanted {
		i := slices.IndexFunc(present, func(p netlink.Attribute) bool { return kind(p) == kind(w) })
		if i < 0 {
			// Where it has no meaning the kernel leaves out what was sent as zero.
			if slices.ContainsFunc(w.Data, func(b byte) bool { return b != 0 }) {
				return false
			}
			continue
		}
		if w.Type&netlink.Nested != 0 {
			if lookup {
				w.Data = withoutSetID(w.Data)
			}
			if !contains(present[i].Data, w.Data) {
				return false
			}
		} else if !bytes.Equal(present[i].Data, w.Data) {
			return false
		}
	}
	return true
}

func kind(a netlink.Attribute) uint16 { return a.Type &^ (netlink.Nested | netlink.NetByteOrder) }

func withoutSetID(data []byte) []byte {
	attributes, err := netlink.UnmarshalAttributes(data)
	if err != nil {
		return data
	}
	attributes = slices.DeleteFunc(attributes, func(a netlink.Attribute) bool { return kind(a) == lookupSetID })
	trimmed, err := netlink.MarshalAttributes(attributes)
	if err != nil {
		return data
	}
	return trimmed
}

// kernelRules are the expressions of a chain's rules, in order, as the kernel
// describes them. The library's own reader is not used: it takes the rule apart
// into expressions and fails on tproxy.
func kernelRules(family nftables.TableFamily, table, chain string) ([][]byte, error) {
	connection, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("intercept: nftables: %w", err)
	}
	defer connection.Close()
	attributes, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_RULE_TABLE, Data: append([]byte(table), 0)},
		{Type: unix.NFTA_RULE_CHAIN, Data: append([]byte(chain), 0)},
	})
	if err != nil {
		return nil, err
	}
	header := []byte{byte(family), unix.NFNETLINK_V0, 0, 0}
	messages, err := connection.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE),
			Flags: netlink.Request | netlink.Dump,
		},
		Data: append(header, attributes...),
	})
	if err != nil {
		return nil, fmt.Errorf("intercept: listing nftables rules: %w", err)
	}
	var rules [][]byte
	for _, message := range messages {
		decoder, err := netlink.NewAttributeDecoder(message.Data[len(header):])
		if err != nil {
			return nil, fmt.Errorf("intercept: listing nftables rules: %w", err)
		}
		for decoder.Next() {
			if decoder.Type() == unix.NFTA_RULE_EXPRESSIONS {
				rules = append(rules, decoder.Bytes())
			}
		}
		if err := decoder.Err(); err != nil {
			return nil, fmt.Errorf("intercept: listing nftables rules: %w", err)
		}
	}
	return rules, nil
}

// sameAs compares members, in whatever order the kernel lists them.
func (s set) sameAs(connection *nftables.Conn, t *nftables.Table) (bool, error) {
	sets, err := connection.GetSets(t)
	if err != nil {
		return false, fmt.Errorf("intercept: listing nftables sets: %w", err)
	}
	i := slices.IndexFunc(sets, func(present *nftables.Set) bool { return present.Name == s.name })
	if i < 0 || sets[i].Interval != s.interval {
		return false, nil
	}
	elements, err := connection.GetSetElements(sets[i])
	if err != nil {
		return false, fmt.Errorf("intercept: listing nftables set %s: %w", s.name, err)
	}
	return slices.Equal(members(s.elements), members(elements)), nil
}

func members(elements []nftables.SetElement) []string {
	out := make([]string, 0, len(elements))
	for _, element := range elements {
		flags := binary.BigEndian.AppendUint16(nil, 0)
		if element.IntervalEnd {
			flags[1] = 1
		}
		out = append(out, string(element.Key)+string(flags))
	}
	slices.Sort(out)
	return out
}
