package netfilter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The following are what the kernel shows of nftables, as far as it matters here.
type (
	ruleset struct {
		chains []*chain
		// sets are read when a rule asks for one.
		sets    map[setName]*set
		readSet func(setName) (*set, error)
		// steps are the rules that were asked, and the elements of sets.
		steps int
	}
	chain struct {
		family      byte
		table, name string
		input       bool // hooked into input
		early       bool // hooked into prerouting, before conntrack
		priority    int32
		drops       bool // the policy
		owned       bool // nobody but the program that made the table may change it
		rules       []rule
	}
	rule struct {
		handle uint64
		exprs  []expression
	}
	expression struct {
		name       string
		attributes attributes
		verdict    *verdict // of an immediate one
	}
	// attributes by type. They are kept as the kernel wrote them, so that what is
	// not understood is known to be there: a library that skips it would have a
	// rule match that does not.
	attributes map[uint16][]byte
)

func (a attributes) has(kind uint16) bool { _, ok := a[kind]; return ok }

// number reads a big-endian attribute, zero where it is missing.
func (a attributes) number(kind uint16) uint32 {
	if data := a[kind]; len(data) >= 4 {
		return binary.BigEndian.Uint32(data)
	}
	return 0
}

func (a attributes) text(kind uint16) string {
	text, _, _ := bytes.Cut(a[kind], []byte{0})
	return string(text)
}

func (a attributes) nested(kind uint16) attributes { return parse(a[kind]) }

// value is a data attribute's octets.
func (a attributes) value(kind uint16) []byte { return a.nested(kind)[unix.NFTA_DATA_VALUE] }

// parse takes attributes apart. What is malformed yields none: the kernel wrote
// it.
func parse(data []byte) attributes {
	out := attributes{}
	for _, a := range parseList(data) {
		out[a.Type] = a.Data
	}
	return out
}

func parseList(data []byte) []netlink.Attribute {
	list, err := netlink.UnmarshalAttributes(data)
	if err != nil {
		return nil
	}
	for i := range list {
		list[i].Type &^= netlink.Nested | netlink.NetByteOrder
	}
	return list
}

// tableOwner is NFT_TABLE_F_OWNER (linux/netfilter/nf_tables.h, since Linux 5.12).
const tableOwner = 1 << 1

// ErrPrivilege is what Read returns where CAP_NET_ADMIN is missing.
var ErrPrivilege = errors.New("netfilter: the kernel shows its rules only to CAP_NET_ADMIN")

// header is that of nfnetlink (struct nfgenmsg): family, version, resource id.
const headerSize = 4

// list asks nftables for all of one kind, of all families (0) or one.
func list(connection *netlink.Conn, message uint16, family byte, which ...netlink.Attribute) ([]netlink.Message, error) {
	data, err := netlink.MarshalAttributes(which)
	if err != nil {
		return nil, err
	}
	messages, err := connection.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | message),
			Flags: netlink.Request | netlink.Dump,
		},
		Data: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, data...),
	})
	if errors.Is(err, unix.EPERM) {
		return nil, ErrPrivilege
	}
	if err != nil {
		return nil, fmt.Errorf("netfilter: nftables: %w", err)
	}
	return slices.DeleteFunc(messages, func(m netlink.Message) bool { return len(m.Data) < headerSize }), nil
}

// read takes all chains with their rules. A table that is dormant filters nothing
// and is left out.
func read(connection *netlink.Conn) (*ruleset, error) {
	type key struct {
		family      byte
		table, name string
	}
	r := &ruleset{sets: map[setName]*set{}}
	r.readSet = func(name setName) (*set, error) { return readSet(connection, name) }
	tables, err := list(connection, unix.NFT_MSG_GETTABLE, 0)
	if err != nil {
		return nil, err
	}
	dormant, owned := map[key]bool{}, map[key]bool{}
	for _, m := range tables {
		a := parse(m.Data[headerSize:])
		k := key{m.Data[0], a.text(unix.NFTA_TABLE_NAME), ""}
		dormant[k] = a.number(unix.NFTA_TABLE_FLAGS)&unix.NFT_TABLE_F_DORMANT != 0
		owned[k] = a.number(unix.NFTA_TABLE_FLAGS)&tableOwner != 0
	}
	chains, err := list(connection, unix.NFT_MSG_GETCHAIN, 0)
	if err != nil {
		return nil, err
	}
	found := map[key]*chain{}
	for _, m := range chains {
		c := chainOf(m.Data[0], parse(m.Data[headerSize:]))
		if dormant[key{c.family, c.table, ""}] || !slices.Contains(families, c.family) {
			continue
		}
		c.owned = owned[key{c.family, c.table, ""}]
		r.chains = append(r.chains, c)
		found[key{c.family, c.table, c.name}] = c
	}
	rules, err := list(connection, unix.NFT_MSG_GETRULE, 0)
	if err != nil {
		return nil, err
	}
	for _, m := range rules {
		a := parse(m.Data[headerSize:])
		if c := found[key{m.Data[0], a.text(unix.NFTA_RULE_TABLE), a.text(unix.NFTA_RULE_CHAIN)}]; c != nil {
			c.rules = append(c.rules, ruleOf(a))
		}
	}
	return r, nil
}

// families are those whose input chains an IP packet passes.
var families = []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6, unix.NFPROTO_INET}

func chainOf(family byte, a attributes) *chain {
	c := &chain{family: family, table: a.text(unix.NFTA_CHAIN_TABLE), name: a.text(unix.NFTA_CHAIN_NAME)}
	if hook := a.nested(unix.NFTA_CHAIN_HOOK); a.has(unix.NFTA_CHAIN_HOOK) {
		c.input = hook.number(unix.NFTA_HOOK_HOOKNUM) == unix.NF_INET_LOCAL_IN
		c.priority = int32(hook.number(unix.NFTA_HOOK_PRIORITY))
		const conntrack = -200 // NF_IP_PRI_CONNTRACK
		c.early = hook.number(unix.NFTA_HOOK_HOOKNUM) == unix.NF_INET_PRE_ROUTING && c.priority < conntrack
		const drop = 0 // NF_DROP
		c.drops = a.has(unix.NFTA_CHAIN_POLICY) && a.number(unix.NFTA_CHAIN_POLICY) == drop
	}
	return c
}

func ruleOf(a attributes) rule {
	var r rule
	if handle := a[unix.NFTA_RULE_HANDLE]; len(handle) == 8 {
		r.handle = binary.BigEndian.Uint64(handle)
	}
	for _, element := range parseList(a[unix.NFTA_RULE_EXPRESSIONS]) {
		e := parse(element.Data)
		r.exprs = append(r.exprs, expressionOf(e.text(unix.NFTA_EXPR_NAME), e.nested(unix.NFTA_EXPR_DATA)))
	}
	return r
}

// expressionOf takes the values out of their wrappers, once and not for each
// packet.
func expressionOf(name string, a attributes) expression {
	e := expression{name: name, attributes: a}
	wrapped := map[string][]uint16{
		"cmp":       {unix.NFTA_CMP_DATA},
		"range":     {unix.NFTA_RANGE_FROM_DATA, unix.NFTA_RANGE_TO_DATA},
		"bitwise":   {unix.NFTA_BITWISE_MASK, unix.NFTA_BITWISE_XOR},
		"immediate": {unix.NFTA_IMMEDIATE_DATA},
	}
	for _, kind := range wrapped[name] {
		data := a.nested(kind)
		e.verdict = verdictOf(data)
		a[kind] = data[unix.NFTA_DATA_VALUE]
	}
	return e
}

func familyName(family byte) string {
	switch family {
	case unix.NFPROTO_IPV4:
		return "ip"
	case unix.NFPROTO_IPV6:
		return "ip6"
	}
	return "inet"
}
