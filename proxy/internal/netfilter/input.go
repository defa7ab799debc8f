package netfilter

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Hindrance is a base chain of input that keeps packets out, or may.
type Hindrance struct {
	// Family is "ip", "ip6" or "inet", Table and Chain those of nftables.
	Family, Table, Chain string
	// XTables is true of the chain that iptables-nft makes.
	XTables bool
	// Owned is true of a table that a program keeps for itself: to everybody else
	// the kernel refuses to change it.
	Owned bool
	// Surely is true where one of Packets certainly does not get in; where it
	// cannot be told it is false.
	Surely bool
	// Packets are those of Surely, by what they are.
	Packets []string
	// Places are where they are dropped.
	Places []Place
}

// Input says which base chains of input, in the network namespace of the calling
// thread, keep any of the packets out. Each chain is asked by itself, for a packet
// that one accepts may still be dropped by the next. Chains of the named table,
// which are one's own, are not asked. It needs CAP_NET_ADMIN.
func Input(packets []Packet, own string) ([]Hindrance, error) {
	connection, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("netfilter: nftables: %w", err)
	}
	defer connection.Close()
	rules, err := read(connection)
	if err != nil {
		return nil, err
	}
	return rules.hindrances(packets, own)
}

func (r *ruleset) hindrances(packets []Packet, own string) ([]Hindrance, error) {
	var out []Hindrance
	found := map[*chain]int{}
	for _, p := range packets {
		untracked, err := r.untracks(p)
		if err != nil {
			return nil, err
		}
		if untracked {
			p.State = 0
		}
		w := r.follow(p)
		for _, c := range r.input(p.V4) {
			if c.table == own {
				continue
			}
			if err := w.base(c); err != nil {
				return nil, err
			}
			if len(w.drops) == 0 {
				continue
			}
			i, known := found[c]
			if !known {
				i = len(out)
				found[c] = i
				out = append(out, Hindrance{Family: familyName(c.family), Table: c.table, Chain: c.name, XTables: c.xtables(), Owned: c.owned})
			}
			out[i].add(p.What, !w.accepts, w.drops)
		}
	}
	return out, nil
}

// add keeps to what is certain, once anything is.
func (h *Hindrance) add(what string, surely bool, places []Place) {
	if surely && !h.Surely {
		h.Surely, h.Packets, h.Places = true, nil, nil
	}
	if surely != h.Surely {
		return
	}
	if !slices.Contains(h.Packets, what) {
		h.Packets = append(h.Packets, what)
	}
	for _, p := range places {
		if !slices.Contains(h.Places, p) {
			h.Places = append(h.Places, p)
		}
	}
}

// xtables tells the chains that iptables-nft makes, by their names and places,
// which are always the same.
func (c *chain) xtables() bool {
	priority := map[string]int32{"filter": 0, "mangle": -150, "security": 50, "nat": 100}
	p, ok := priority[c.table]
	return ok && c.family != unix.NFPROTO_INET && c.name == "INPUT" && c.priority == p
}

// Where says in words where a packet is dropped.
func (p Place) Where() string {
	switch {
	case p.Number == 0:
		return "the policy of chain " + p.Chain
	case p.Queued:
		return fmt.Sprintf("rule %d of chain %s (handle %d), which asks a program", p.Number, p.Chain, p.Handle)
	}
	return fmt.Sprintf("rule %d of chain %s (handle %d)", p.Number, p.Chain, p.Handle)
}

// Legacy gives the families, "ip" and "ip6", in which iptables-legacy keeps a
// filter table in the network namespace of the calling thread. Its rules cannot be
// seen from here.
func Legacy() []string {
	var found []string
	for _, each := range []struct{ family, path string }{
		{"ip", "/proc/thread-self/net/ip_tables_names"}, {"ip6", "/proc/thread-self/net/ip6_tables_names"},
	} {
		// A kernel without it, or a user who may not read it, has nothing to tell.
		names, err := os.ReadFile(each.path)
		if err == nil && slices.Contains(strings.Fields(string(names)), "filter") {
			found = append(found, each.family)
		}
	}
	return found
}
