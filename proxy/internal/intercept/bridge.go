package intercept

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// bridge is an interface of the plan that is an Ethernet bridge, as the machine
// has it now.
type bridge struct {
	name    string
	address []byte   // its MAC address
	ports   []string // sorted
}

// unfinished is true of one that cannot carry anything yet: its ports come later.
func (b bridge) unfinished() bool { return len(b.ports) < 2 }

// The chains of the bridge table, one a direction, and one for what routers answer.
const (
	towardsServer = "towards-server"
	towardsClient = "towards-client"
	tooBigChain   = "too-big"
)

// beforeBridging is where nft's priority dstnat stands in the bridge family: the
// forwarding decision has not been made.
const beforeBridging nftables.ChainPriority = -300

// waitingTable is bridgeTable for a machine that starts, where an interface of the
// plan is not there yet and may turn out to be a bridge, or a bridge has no ports
// yet, which only its address and ports could be lifted from. Until Up is said
// again, new connections to the intercepted ports wait across every bridge but
// through the ports that are known: their first packet is dropped, and clients
// repeat it after a second. It is not for longer than that.
func (p Plan) waitingTable(bridges []bridge) table {
	t := p.bridgeTable(bridges)
	wait := chain{name: towardsServer + strconv.Itoa(len(bridges)), rules: append(p.bridgeExemptions(source),
		rule{"wait until the bridge is known", verdict(expr.VerdictDrop)})}
	prerouting := &t.chains[len(t.chains)-1]
	for _, v4 := range []bool{true, false} {
		if !p.reaches(v4) {
			continue
		}
		condition := join(isEtherType(v4), isTCP())
		for i := range bridges {
			condition = join(condition, incomingElsewhere(setInterfaces+strconv.Itoa(i)))
		}
		prerouting.rules = append(prerouting.rules, rule{"new connections across bridges", join(condition,
			portIn(destinationPort, setPorts), isSYN(), jump(wait.name))})
	}
	t.chains = append([]chain{wait}, t.chains...)
	return t
}

// bridgeTable lifts what passes a bridge to this machine's own IP layer, where
// the inet table waits for it: connections towards the intercepted ports, and
// the answers from there, which belong to Postern's upstream legs. What bypass
// and sources leave alone is not lifted, so it is bridged as it always was; nor
// is a family that would only pass.
func (p Plan) bridgeTable(bridges []bridge) table {
	t := table{family: nftables.TableFamilyBridge, sets: p.commonSets()}
	prerouting := chain{
		name: hookChain,
		hook: &hook{kind: nftables.ChainTypeFilter, priority: beforeBridging},
	}
	var chains []chain
	for i, b := range bridges {
		number := strconv.Itoa(i)
		ports := setInterfaces + number
		t.sets = append(t.sets, interfaceSet(ports, b.ports))
		for _, direction := range []struct {
			chain  string
			port   uint32
			client end
		}{
			{towardsServer + number, destinationPort, source},
			{towardsClient + number, sourcePort, destination},
		} {
			for _, v4 := range []bool{true, false} {
				if !p.reaches(v4) {
					continue
				}
				prerouting.rules = append(prerouting.rules, rule{
					"what passes " + b.name, join(isEtherType(v4), isTCP(), incomingOn(ports),
						portIn(direction.port, setPorts), jump(direction.chain))})
			}
			chains = append(chains, chain{
				name: direction.chain,
				rules: append(p.bridgeExemptions(direction.client),
					rule{"to the IP layer of " + b.name, toHost(b.address)}),
			})
		}
		if p.PreserveSource {
			errors, rules := p.tooBig(b, ports, tooBigChain+number)
			chains, prerouting.rules = append(chains, errors), append(prerouting.rules, rules...)
		}
	}
	t.chains = append(chains, prerouting)
	return t
}

// tooBig lifts what routers behind the bridge say of packets that are too big for
// the way (RFC 1191, RFC 8201), where the packet was one of a connection to an
// intercepted port. They say it to the client, whose address Postern sends from.
func (p Plan) tooBig(b bridge, ports, name string) (chain, []rule) {
	c := chain{name: name}
	var rules []rule
	for _, v4 := range []bool{true, false} {
		if !p.reaches(v4) {
			continue
		}
		// Not by the sets: nft prints what it could not read again where raw octets
		// are looked up in a set of ports or addresses.
		for _, port := range p.Ports {
			rules = append(rules, rule{"packets that were too big behind " + b.name, join(isEtherType(v4), isICMP(v4),
				incomingOn(ports), isTooBig(v4, port), jump(name))})
		}
		for _, prefix := range p.Bypass {
			if prefix.Addr().Is4() == v4 {
				c.rules = append(c.rules, rule{"bypass by the server", join(isEtherType(v4),
					serverInside(prefix), verdict(expr.VerdictReturn))})
			}
		}
	}
	c.rules = append(c.rules, p.bridgeExemptions(destination)...)
	c.rules = append(c.rules, rule{"to the IP layer of " + b.name, toHost(b.address)})
	return c, rules
}

// bridgeExemptions are the exemptions in the direction whose client is at the
// given end. nfproto is bridge in this family, so the EtherType tells IPv4 from
// IPv6.
func (p Plan) bridgeExemptions(client end) []rule {
	var rules []rule
	for _, v4 := range []bool{true, false} {
		if len(spans(p.Bypass, v4)) == 0 {
			continue
		}
		for _, which := range []end{source, destination} {
			rules = append(rules, rule{"bypass", join(
				addressIn(which, v4, familySet(setBypass, v4), false), verdict(expr.VerdictReturn))})
		}
	}
	rules = append(rules, p.onlySources(client)...)
	for i := range rules {
		rules[i].exprs = byEtherType(rules[i].exprs)
	}
	return rules
}

// byEtherType replaces the leading match on nfproto by one on the EtherType.
func byEtherType(exprs []expr.Any) []expr.Any {
	for _, v4 := range []bool{true, false} {
		family := isFamily(v4)
		value, ok := exprs[1].(*expr.Cmp)
		if ok && bytes.Equal(value.Data, family[1].(*expr.Cmp).Data) {
			return join(isEtherType(v4), exprs[len(family):])
		}
	}
	return exprs
}

// checkBridges refuses what would silently not work.
func (p Plan) checkBridges(m machine, bridges []bridge) error {
	if p.Method == None || len(bridges) == 0 {
		return nil
	}
	for _, sysctl := range []string{"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"} {
		if value, err := m.sysctl(sysctl); err == nil && value == "1" {
			return &ObstacleError{
				Key: "intercept.interfaces",
				What: fmt.Sprintf("%s is a bridge and %s = 1 (br_netfilter), which silently disables interception",
					bridges[0].name, sysctlName(sysctl)),
				Remedy: fmt.Sprintf("sysctl -w %s=0 (and unload br_netfilter if nothing needs it)", sysctlName(sysctl)),
			}
		}
	}
	return nil
}
