package intercept

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
)

// InputRule lets intercepted connections in past a firewall: their packets are
// local input from then on. The zero value is of a plan that intercepts nothing.
//
// It is said whatever the firewall looks like. That a chain drops at its end, and
// whether a rule before that lets these packets through, cannot be told by
// looking, and iptables-legacy is not seen by nftables at all.
type InputRule struct {
	// NFT is the rule for an input chain of nftables.
	NFT string
	// IPTables are commands that put the same first in the INPUT chain, one a
	// family that Postern listens in.
	IPTables []string
}

func (p Plan) inputRule() InputRule {
	var r InputRule
	switch p.Method {
	case TProxy:
		r.NFT = fmt.Sprintf("meta mark & %#x == %#x accept", Mark, Mark)
	case Redirect:
		r.NFT = fmt.Sprintf("ct status dnat tcp dport { %s } accept", strings.Join(p.listenPorts(), ", "))
	default:
		return r
	}
	for _, v4 := range []bool{true, false} {
		address, ok := p.listener(v4)
		if !ok {
			continue
		}
		match := fmt.Sprintf("-m mark --mark %#x/%#x", Mark, Mark)
		if p.Method == Redirect {
			match = fmt.Sprintf("-p tcp --dport %d -m conntrack --ctstate DNAT", address.Port())
		}
		command := "iptables"
		if !v4 {
			command = "ip6tables"
		}
		r.IPTables = append(r.IPTables, fmt.Sprintf("%s -I INPUT %s -j ACCEPT", command, match))
	}
	return r
}

// listenPorts are those of the daemon's sockets, each once.
func (p Plan) listenPorts() []string {
	var ports []string
	for _, address := range p.Listen {
		if port := strconv.Itoa(int(address.Port())); !slices.Contains(ports, port) {
			ports = append(ports, port)
		}
	}
	return ports
}

// inputWarnings names other tables' input chains that drop by default, for those
// certainly need the rule.
func (p Plan) inputWarnings() []string {
	connection, err := nftables.New()
	if err != nil {
		return nil
	}
	chains, err := connection.ListChains()
	if err != nil {
		return nil
	}
	var texts []string
	for _, c := range chains {
		if c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookInput ||
			c.Policy == nil || *c.Policy != nftables.ChainPolicyDrop || c.Table.Name == tableName {
			continue
		}
		texts = append(texts, fmt.Sprintf("chain %s of table %s drops input by default: it needs the rule `%s`",
			c.Name, c.Table.Name, p.inputRule().NFT))
	}
	return texts
}
