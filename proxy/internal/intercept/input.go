package intercept

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"postern/proxy/internal/netfilter"
)

// InputRule lets intercepted connections in past a firewall: their packets are
// local input from then on. The zero value is of a plan that intercepts nothing.
//
// It is said whatever the firewall looks like: not of every chain can be told
// whether it lets these packets in, and iptables-legacy is not seen by nftables
// at all.
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
		if _, ok := p.listener(v4); !ok {
			continue
		}
		command := "iptables"
		if !v4 {
			command = "ip6tables"
		}
		r.IPTables = append(r.IPTables, fmt.Sprintf("%s -I INPUT %s -j ACCEPT", command, p.iptablesMatch(v4)))
	}
	return r
}

// iptablesMatch is InputRule's match in a family that Postern listens in.
func (p Plan) iptablesMatch(v4 bool) string {
	if p.Method != Redirect {
		return fmt.Sprintf("-m mark --mark %#x/%#x", Mark, Mark)
	}
	address, _ := p.listener(v4)
	return fmt.Sprintf("-p tcp --dport %d -m conntrack --ctstate DNAT", address.Port())
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

// InputHindrance is an input chain of somebody else that keeps intercepted
// packets from Postern, or may.
type InputHindrance struct {
	// Chain is its family, table and name.
	Chain string
	// Surely is false where it cannot be told.
	Surely bool
	// What is in the way, in words.
	What string
	// Command puts the rule that lets them in first in the chain. Where Owned is
	// true only one program can: it has that one do it, or says so in a comment.
	Command string
	Owned   bool
}

// InputHindrances follows intercepted packets through every input chain in the
// network namespace of the calling thread. It needs CAP_NET_ADMIN. What
// iptables-legacy made is not seen.
func (p Plan) InputHindrances() ([]InputHindrance, error) {
	found, err := netfilter.Input(p.arrivals(), tableName)
	if errors.Is(err, netfilter.ErrPrivilege) {
		err = lacksNetAdmin(err)
	}
	out := make([]InputHindrance, len(found))
	for i, h := range found {
		out[i] = InputHindrance{
			Chain: h.Family + " " + h.Table + " " + h.Chain, Surely: h.Surely,
			What: hindranceWords(h), Command: p.letIn(h), Owned: h.Owned,
		}
	}
	return out, err
}

func hindranceWords(h netfilter.Hindrance) string {
	verb := "drops"
	if !h.Surely {
		verb = "may drop"
	}
	where := make([]string, len(h.Places))
	for i, place := range h.Places {
		where[i] = place.Where()
	}
	return fmt.Sprintf("the input chain %s %s %s %s %s, by %s", h.Family, h.Table, h.Chain, verb,
		strings.Join(h.Packets, ", "), strings.Join(where, " or "))
}

// letIn is a command for a shell, quoted for it.
func (p Plan) letIn(h netfilter.Hindrance) string {
	if h.Owned {
		return p.askOwner(h)
	}
	if !h.XTables {
		return fmt.Sprintf("nft 'insert rule %s %s %s %s'", h.Family, h.Table, h.Chain, p.inputRule().NFT)
	}
	command := "iptables"
	if h.Family == "ip6" {
		command = "ip6tables"
	}
	if h.Table != "filter" {
		command += " -t " + h.Table
	}
	return command + " -I INPUT " + p.iptablesMatch(h.Family == "ip") + " -j ACCEPT"
}

// askOwner is for a table that the kernel lets nobody else change, as firewalld has
// its own from 2.1 on. That one has no rule for a mark, but for a port.
func (p Plan) askOwner(h netfilter.Hindrance) string {
	interfaces := p.elsewhere()
	if h.Table != "firewalld" || p.Method != TProxy || len(interfaces) == 0 {
		return fmt.Sprintf("# only the program that made the table %s %s can change it: have it let in: %s", h.Family, h.Table, p.inputRule().NFT)
	}
	var commands []string
	for _, name := range interfaces {
		for _, port := range p.Ports {
			commands = append(commands, fmt.Sprintf(
				`firewall-cmd --permanent --zone="$(firewall-cmd --get-zone-of-interface='%s' || firewall-cmd --get-default-zone)" --add-port=%d/tcp`,
				strings.ReplaceAll(name, "'", `'\''`), port))
		}
	}
	return strings.Join(append(commands, "firewall-cmd --reload"), " && ")
}

// LegacyInputRules are the commands for filter tables of iptables-legacy, whose
// rules cannot be seen, one a family that Postern listens in.
func (p Plan) LegacyInputRules() []string {
	var commands []string
	for _, family := range netfilter.Legacy() {
		if _, ok := p.listener(family == "ip"); !ok || p.Method == None {
			continue
		}
		command := "iptables-legacy"
		if family == "ip6" {
			command = "ip6tables-legacy"
		}
		commands = append(commands, command+" -I INPUT "+p.iptablesMatch(family == "ip")+" -j ACCEPT")
	}
	return commands
}

// maxSources is up to how many networks of clients each is followed by itself;
// beyond, a rule that asks for the client cannot be told.
const maxSources = 16

// arrivals are the packets that have to get in: the first of a connection, those
// that follow, and answers of servers, which come in on any interface.
func (p Plan) arrivals() []netfilter.Packet {
	var packets []netfilter.Packet
	for _, v4 := range []bool{true, false} {
		listener, ok := p.listener(v4)
		if !ok || p.Method != TProxy && p.Method != Redirect {
			continue
		}
		for _, source := range p.sourcesOf(v4) {
			for _, port := range p.Ports {
				base := netfilter.Packet{V4: v4, DestinationPort: port}
				if p.Method == TProxy {
					base.Mark, base.Transparent = Mark, true
				} else {
					base.Redirected, base.Asked, base.DestinationPort = true, port, listener.Port()
				}
				packets = append(packets, p.connection(base, source)...)
				if p.Method != TProxy {
					continue // they are those of the machine's own connections, as any
				}
				answer := base
				answer.What = fmt.Sprintf("answers of servers (IPv%d)", familyNumber(v4))
				answer.SourcePort, answer.DestinationPort, answer.Destination = port, 0, source
				answer.Flags, answer.State = netfilter.SYN|netfilter.ACK, netfilter.Established
				packets = append(packets, answer)
			}
		}
	}
	return packets
}

// connection are the packets of a client, on each interface.
func (p Plan) connection(base netfilter.Packet, source netip.Prefix) []netfilter.Packet {
	var packets []netfilter.Packet
	base.Source = source
	for _, name := range p.Interfaces {
		base.Interface, base.Index = name, 0
		if link, err := net.InterfaceByName(name); err == nil {
			base.Index = link.Index
		}
		from := fmt.Sprintf("from %s (IPv%d)", name, familyNumber(base.V4))
		first, later := base, base
		first.What, first.Flags, first.State = "new connections "+from, netfilter.SYN, netfilter.New
		later.What, later.Flags, later.State = "connections under way "+from, netfilter.ACK, netfilter.Established
		packets = append(packets, first, later)
	}
	return packets
}

// sourcesOf are the networks of clients, or one that is not known.
func (p Plan) sourcesOf(v4 bool) []netip.Prefix {
	var networks []netip.Prefix
	for _, source := range p.Sources {
		if source.Addr().Is4() == v4 {
			networks = append(networks, source)
		}
	}
	switch {
	case len(p.Sources) == 0 || len(networks) > maxSources:
		return []netip.Prefix{{}}
	}
	return networks // none: nothing of that family is intercepted
}

// inputWarnings name the chains that keep intercepted packets out, and what would
// let them in. Where they cannot be read there is nothing to say that Up or Show
// will not say.
func (p Plan) inputWarnings() []string {
	found, err := p.InputHindrances()
	if err != nil {
		if errors.Is(err, ErrPrivilege) {
			return nil
		}
		return []string{fmt.Sprintf("whether firewalls let in what is intercepted cannot be told: %v", err)}
	}
	var texts []string
	for _, h := range found {
		texts = append(texts, h.What+": "+h.Command)
	}
	for _, command := range p.LegacyInputRules() {
		texts = append(texts, "iptables-legacy has a filter table here, which cannot be looked into: if it drops what it does not know: "+command)
	}
	return texts
}
