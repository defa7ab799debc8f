package intercept

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Attributes of a rule that iptables-nft made (linux/netfilter/nf_tables.h,
// nft_target_attributes) and the flag of its CT target (xt_CT.h).
const (
	targetName   = 1
	targetInfo   = 3
	ctNoTracking = 1 << 0
)

// trackingWarnings name chains that take connections out of conntrack. Those are
// asked for no NAT, and so are never redirected: they would pass by in silence.
// Which ones such a rule means cannot be told by looking. TProxy needs no
// conntrack.
func (p Plan) trackingWarnings() []string {
	if p.Method != Redirect {
		return nil
	}
	connection, err := nftables.New()
	if err != nil {
		return nil
	}
	chains, err := connection.ListChains()
	if err != nil {
		return nil
	}
	// Only before conntrack can it be said; chains are jumped to within a table.
	early := map[nftables.Table]bool{}
	for _, c := range chains {
		if c.Priority != nil && *c.Priority < *nftables.ChainPriorityConntrack {
			early[nftables.Table{Name: c.Table.Name, Family: c.Table.Family}] = true
		}
	}
	var texts []string
	for _, c := range chains {
		if c.Table.Name == tableName || !early[nftables.Table{Name: c.Table.Name, Family: c.Table.Family}] {
			continue
		}
		rules, err := kernelRules(c.Table.Family, c.Table.Name, c.Name)
		if err == nil && slices.ContainsFunc(rules, untracks) {
			texts = append(texts, fmt.Sprintf("chain %s of table %s has connections untracked (notrack): "+
				"those to the intercepted ports pass by without Postern if it means them, too", c.Name, c.Table.Name))
		}
	}
	return texts
}

// untracks looks for notrack among the expressions of a rule.
func untracks(rule []byte) bool {
	elements, err := netlink.UnmarshalAttributes(rule)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(elements, func(element netlink.Attribute) bool {
		switch expression := attributes(element.Data); text(expression[unix.NFTA_EXPR_NAME]) {
		case "notrack":
			return true
		case "target": // of iptables-nft
			target := attributes(expression[unix.NFTA_EXPR_DATA])
			switch info := target[targetInfo]; text(target[targetName]) {
			case "NOTRACK":
				return true
			case "CT":
				return len(info) >= 2 && binary.NativeEndian.Uint16(info)&ctNoTracking != 0
			}
		}
		return false
	})
}

// attributes are nested ones by their number; none where there is something else.
func attributes(data []byte) map[uint16][]byte {
	all := map[uint16][]byte{}
	list, err := netlink.UnmarshalAttributes(data)
	if err != nil {
		return all
	}
	for _, a := range list {
		all[kind(a)] = a.Data
	}
	return all
}

// text is an attribute without the zero behind it.
func text(data []byte) string {
	if len(data) == 0 {
		return ""
	}
	return string(data[:len(data)-1])
}
