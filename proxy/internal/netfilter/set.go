package netfilter

import (
	"bytes"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

type setName struct {
	family      byte
	table, name string
}

// set is one of nftables, or a map to verdicts.
type set struct {
	elements []element
	// other is what a catch-all element has for every key that is in no other.
	other *element
	// changes is true where packets themselves add elements, or time removes them:
	// what is in it now says nothing of later.
	changes bool
}

// element is a range of keys, one where first and last are the same. Of a
// concatenation every field has a range of its own.
type element struct {
	first, last []byte
	fields      bool
	verdict     *verdict
	// limited is one that by a limit or a quota of its own is sometimes not there.
	limited bool
}

// Attributes that golang.org/x/sys does not have (linux/netfilter/nf_tables.h).
const (
	attributeKeyEnd = 10     // NFTA_SET_ELEM_KEY_END
	attributeExprs  = 11     // NFTA_SET_ELEM_EXPRESSIONS
	catchAll        = 1 << 1 // NFT_SET_ELEM_CATCHALL
	concatenation   = 1 << 7 // NFT_SET_CONCAT
)

func (r *ruleset) set(name setName) (*set, error) {
	if s, ok := r.sets[name]; ok {
		return s, nil
	}
	s, err := r.readSet(name)
	if err == nil {
		r.sets[name] = s
	}
	return s, err
}

func readSet(connection *netlink.Conn, name setName) (*set, error) {
	which := []netlink.Attribute{
		{Type: unix.NFTA_SET_TABLE, Data: append([]byte(name.table), 0)},
		{Type: unix.NFTA_SET_NAME, Data: append([]byte(name.name), 0)},
	}
	var flags uint32
	sets, err := list(connection, unix.NFT_MSG_GETSET, name.family, which[0])
	if err != nil {
		return nil, err
	}
	for _, m := range sets {
		if a := parse(m.Data[headerSize:]); a.text(unix.NFTA_SET_NAME) == name.name {
			flags = a.number(unix.NFTA_SET_FLAGS)
		}
	}
	messages, err := list(connection, unix.NFT_MSG_GETSETELEM, name.family, which...)
	if err != nil {
		return nil, err
	}
	s := &set{changes: flags&(unix.NFT_SET_TIMEOUT|unix.NFT_SET_EVAL) != 0}
	var listed []listedElement
	for _, m := range messages {
		for _, each := range parseList(parse(m.Data[headerSize:])[unix.NFTA_SET_ELEM_LIST_ELEMENTS]) {
			listed = append(listed, listedElementOf(parse(each.Data)))
		}
	}
	s.add(listed, flags&unix.NFT_SET_INTERVAL != 0 && flags&concatenation == 0)
	return s, nil
}

// listedElement is one as the kernel lists it.
type listedElement struct {
	key, keyEnd []byte
	verdict     *verdict
	flags       uint32
	limited     bool
}

func listedElementOf(a attributes) listedElement {
	l := listedElement{
		key: a.value(unix.NFTA_SET_ELEM_KEY), keyEnd: a.value(attributeKeyEnd),
		verdict: verdictOf(a.nested(unix.NFTA_SET_ELEM_DATA)), flags: a.number(unix.NFTA_SET_ELEM_FLAGS),
	}
	own := [][]byte{a[unix.NFTA_SET_ELEM_EXPR]} // where there is only one
	for _, each := range parseList(a[attributeExprs]) {
		own = append(own, each.Data)
	}
	for _, data := range own {
		name := parse(data).text(unix.NFTA_EXPR_NAME)
		l.limited = l.limited || name != "" && name != "counter" && name != "last"
	}
	return l
}

// add makes ranges of what was listed. In an interval set without concatenation a
// range is two elements, its first key and the one behind its last, in any order;
// a range without an end reaches to the last key there is.
func (s *set) add(listed []listedElement, intervals bool) {
	if intervals {
		slices.SortStableFunc(listed, func(a, b listedElement) int {
			if c := bytes.Compare(a.key, b.key); c != 0 {
				return c
			}
			// An end at the key where the next range begins comes before it.
			return int(b.flags&unix.NFT_SET_ELEM_INTERVAL_END) - int(a.flags&unix.NFT_SET_ELEM_INTERVAL_END)
		})
	}
	for i, l := range listed {
		e := element{first: l.key, last: l.key, verdict: l.verdict, limited: l.limited}
		switch {
		case l.flags&catchAll != 0:
			s.other = &e
			continue
		case l.flags&unix.NFT_SET_ELEM_INTERVAL_END != 0:
			continue
		case l.keyEnd != nil:
			e.last, e.fields = l.keyEnd, true
		case intervals && i+1 < len(listed):
			e.last = before(listed[i+1].key)
		case intervals:
			e.last = bytes.Repeat([]byte{0xff}, len(l.key))
		}
		s.elements = append(s.elements, e)
	}
}

// before is the key that precedes, in the order of memcmp.
func before(key []byte) []byte {
	out := slices.Clone(key)
	for i := len(out) - 1; i >= 0; i-- {
		out[i]--
		if out[i] != 0xff {
			break
		}
	}
	return out
}

// holds tells whether the key lies in e.
func (e element) holds(key bits) truth {
	switch {
	case len(e.first) == 0 || len(key.value) < len(e.first) || len(e.last) != len(e.first):
		return maybe
	case bytes.Equal(e.first, e.last):
		return key.equals(e.first)
	case !e.fields:
		return key.within(e.first, e.last)
	}
	// Fields are whole words, of which one may have several. Where a range is not
	// that of a prefix, more than one word of it may differ, and the words by
	// themselves do not tell.
	const word = 4
	result, open := yes, false
	for at := 0; at+word <= len(e.first); at += word {
		first, last := e.first[at:at+word], e.last[at:at+word]
		in := key.slice(at, at+word).within(first, last)
		if open && in != yes {
			in = maybe
		}
		open = !bytes.Equal(first, last)
		result = result.and(in)
	}
	return result
}

// find gives what of the elements the key may be in, and whether it is in one
// for certain or in none for certain.
func (s *set) find(key bits) (candidates []element, in truth) {
	in = no
	for _, e := range s.elements {
		switch e.holds(key) {
		case yes:
			if !s.changes && !e.limited {
				return []element{e}, yes
			}
			fallthrough
		case maybe:
			candidates, in = append(candidates, e), maybe
		}
	}
	if s.other != nil && !s.other.limited {
		return append(candidates, *s.other), yes // in one of these, at least
	}
	if s.other != nil {
		return append(candidates, *s.other), maybe
	}
	if s.changes {
		in = maybe
	}
	return candidates, in
}
