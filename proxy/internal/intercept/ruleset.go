package intercept

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is that of all our tables. Nobody else's table is ever read for
// writing.
const tableName = "postern"

// The chains of the inet table. takeChain holds what Down takes out at once:
// nothing else may stand in it.
const (
	hookChain = "prerouting"
	takeChain = "take"
)

// afterNAT is the priority of the prerouting chain: behind destination NAT, so
// that a mail server behind a port forwarding is seen under its own address, and
// answers to masqueraded connections under the client's.
const afterNAT nftables.ChainPriority = -90

// The following describe our tables. They are both written to the kernel and
// held against what is there.
type (
	table struct {
		family nftables.TableFamily
		sets   []set
		chains []chain
	}
	set struct {
		name     string
		kind     nftables.SetDatatype
		order    binaryutil.ByteOrder // of the keys; nft needs it to show them
		interval bool
		elements []nftables.SetElement
	}
	chain struct {
		name string
		hook *hook // nil for a chain that is jumped to
		// rules in order
		rules []rule
	}
	hook struct {
		kind     nftables.ChainType
		at       *nftables.ChainHook // nil: prerouting
		priority nftables.ChainPriority
	}
	rule struct {
		// comment is shown by nft and by Show.
		comment string
		exprs   []expr.Any
	}
)

// number is where the kernel asks the chain.
func (h hook) number() *nftables.ChainHook {
	if h.at == nil {
		return nftables.ChainHookPrerouting
	}
	return h.at
}

// toListener begins the comment of the rules that send connections to Postern.
const toListener = "to the listening socket "

// tables is the whole of a plan in nftables; bridges are those of its
// interfaces that are bridges.
func (p Plan) tables(bridges []bridge) []table {
	var tables []table
	switch p.Method {
	case TProxy:
		tables = append(tables, p.tproxyTable())
	case Redirect:
		tables = append(tables, p.redirectTable())
	default:
		return nil
	}
	if len(bridges) > 0 {
		tables = append(tables, p.bridgeTable(bridges))
	}
	return tables
}

// tproxyTable has the order that was found to work; each rule stands where it
// does for a reason.
func (p Plan) tproxyTable() table {
	prerouting := chain{
		name: hookChain,
		hook: &hook{kind: nftables.ChainTypeFilter, priority: afterNAT},
		rules: []rule{
			// First, and on every interface, for answers of servers come in
			// elsewhere than connections of clients. It also holds what remains
			// of connections that are over (TIME_WAIT), without which a client
			// that uses its port again would hang.
			{"packets of Postern's own connections", join(
				isTCP(), socketTransparent(), setMark(), verdict(expr.VerdictAccept))},
			// Routers on the way answer to the client's address, which Postern sends
			// from. Without this the client would hear that a packet was too big (RFC
			// 1191, RFC 8201), and Postern would send it again for ever.
			{"errors about Postern's own connections (IPv4)", join(
				isICMP(true), socketTransparent(), setMark(), verdict(expr.VerdictAccept))},
			{"errors about Postern's own connections (IPv6)", join(
				isICMP(false), socketTransparent(), setMark(), verdict(expr.VerdictAccept))},
			{"connections to this machine are its own", join(
				fibIsLocal(), verdict(expr.VerdictReturn))},
			// Only a SYN: a connection that began without Postern goes on
			// without it.
			{"new connections to the intercepted ports", join(
				isTCP(), incomingOn(setInterfaces), portIn(destinationPort, setPorts), isSYN(), jump(takeChain))},
		},
	}
	take := chain{name: takeChain, rules: p.exemptions()}
	for _, v4 := range []bool{true, false} {
		if address, ok := p.listener(v4); ok {
			take.rules = append(take.rules, rule{toListener + address.String(), join(
				isFamily(v4), tproxyTo(address), setMark(), verdict(expr.VerdictAccept))})
		}
	}
	// tproxy ends the rule when it finds no socket, and the next one is asked.
	if p.WhenDown == Pass {
		take.rules = append(take.rules, rule{"no listening socket: pass", verdict(expr.VerdictAccept)})
	} else {
		take.rules = append(take.rules, rule{"no listening socket: block", join(isTCP(), rejectWithReset())})
	}
	return table{
		family: nftables.TableFamilyINet,
		sets:   append(p.commonSets(), interfaceSet(setInterfaces, p.Interfaces)),
		chains: []chain{take, prerouting},
	}
}

// redirectTable needs no rule for connections under way: only the first packet
// of a connection passes a nat chain. Conntrack may pick a running connection up
// in its middle, though, hence the SYN here too.
func (p Plan) redirectTable() table {
	prerouting := chain{
		name: hookChain,
		hook: &hook{kind: nftables.ChainTypeNAT, priority: *nftables.ChainPriorityNATDest},
		rules: []rule{
			// No packet of theirs comes by here. But conntrack only looks at
			// packets while some rule needs it, and once Down has emptied the
			// take chain this one is what keeps redirected connections alive.
			{"connections under way keep conntrack at work", join(
				ctEstablished(), verdict(expr.VerdictAccept))},
		},
	}
	sets := p.commonSets()
	if interfaces := p.elsewhere(); len(interfaces) > 0 {
		sets = append(sets, interfaceSet(setInterfaces, interfaces))
		prerouting.rules = append(prerouting.rules,
			rule{"connections to this machine are its own", join(fibIsLocal(), verdict(expr.VerdictReturn))},
			rule{"new connections to the intercepted ports", join(
				isTCP(), incomingOn(setInterfaces), portIn(destinationPort, setPorts), isSYN(), jump(takeChain))})
	}
	take := chain{name: takeChain, rules: p.exemptions()}
	for _, v4 := range []bool{true, false} {
		if address, ok := p.listener(v4); ok {
			take.rules = append(take.rules, rule{toListener + address.String(), join(
				isFamily(v4), isTCP(), redirectTo(address.Port()))})
		}
	}
	chains := []chain{take, prerouting}
	if p.takesOwn() {
		chains = append(chains, p.ownConnections())
	}
	return table{family: nftables.TableFamilyINet, sets: sets, chains: chains}
}

// exemptions return from the chain for what bypass and sources leave alone.
func (p Plan) exemptions() []rule {
	var rules []rule
	for _, v4 := range []bool{true, false} {
		if len(spans(p.Bypass, v4)) > 0 {
			rules = append(rules,
				rule{"bypass by source", join(
					addressIn(source, v4, familySet(setBypass, v4), false), verdict(expr.VerdictReturn))},
				rule{"bypass by destination", join(
					addressIn(destination, v4, familySet(setBypass, v4), false), verdict(expr.VerdictReturn))})
		}
	}
	return append(rules, p.onlySources(source)...)
}

// onlySources returns for clients that are not in sources. The client is the
// sender of packets to the server and the receiver of its answers.
func (p Plan) onlySources(client end) []rule {
	if len(p.Sources) == 0 {
		return nil
	}
	var rules []rule
	for _, v4 := range []bool{true, false} {
		condition := isFamily(v4)
		if len(spans(p.Sources, v4)) > 0 {
			condition = addressIn(client, v4, familySet(setSources, v4), true)
		}
		rules = append(rules, rule{"clients that are not in sources", join(condition, verdict(expr.VerdictReturn))})
	}
	return rules
}

// The sets. Those of addresses exist a family, and only where they have members.
const (
	setInterfaces = "interfaces"
	setPorts      = "ports"
	setBypass     = "bypass"
	setSources    = "sources"
)

func familySet(name string, v4 bool) string {
	if v4 {
		return name + "4"
	}
	return name + "6"
}

func (p Plan) commonSets() []set {
	ports := set{name: setPorts, kind: nftables.TypeInetService, order: binaryutil.BigEndian}
	for _, port := range p.Ports {
		ports.elements = append(ports.elements, nftables.SetElement{Key: bigEndian16(port)})
	}
	sets := []set{ports}
	for _, v4 := range []bool{true, false} {
		sets = append(sets, addressSet(setBypass, p.Bypass, v4)...)
		sets = append(sets, addressSet(setSources, p.Sources, v4)...)
	}
	return sets
}

func interfaceSet(name string, interfaces []string) set {
	s := set{name: name, kind: nftables.TypeIFName, order: binaryutil.NativeEndian}
	for _, each := range interfaces {
		s.elements = append(s.elements, nftables.SetElement{Key: interfaceKey(each)})
	}
	return s
}

// addressSet is the set of one family, or none.
func addressSet(name string, prefixes []netip.Prefix, v4 bool) []set {
	ranges := spans(prefixes, v4)
	if len(ranges) == 0 {
		return nil
	}
	s := set{name: familySet(name, v4), kind: nftables.TypeIPAddr, order: binaryutil.BigEndian, interval: true}
	if !v4 {
		s.kind = nftables.TypeIP6Addr
	}
	for _, r := range ranges {
		s.elements = append(s.elements, nftables.SetElement{Key: r.first.AsSlice()})
		// A range ends where the next address begins; the one that reaches the
		// last address of all has no end.
		if after := r.last.Next(); after.IsValid() {
			s.elements = append(s.elements, nftables.SetElement{Key: after.AsSlice(), IntervalEnd: true})
		}
	}
	return []set{s}
}

func interfaceKey(name string) []byte {
	key := make([]byte, interfaceNameSize)
	copy(key, name)
	return key
}

const interfaceNameSize = unix.IFNAMSIZ
