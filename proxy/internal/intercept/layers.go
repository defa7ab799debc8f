package intercept

import (
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
)

// layerWarnings say what does not come to Postern because another interface lies
// on one of the plan. A bridge carries frames with a VLAN tag too, which belong to
// other networks than its own addresses do: they are not lifted, for the bridge
// would drop them.
func (p Plan) layerWarnings(m machine, bridges []bridge) []string {
	var texts []string
	for _, b := range bridges {
		link, ok := m.byName(b.name).(*netlink.Bridge)
		if ok && link.VlanFiltering != nil && *link.VlanFiltering {
			texts = append(texts, fmt.Sprintf("%s filters VLANs: only connections in the VLAN that %s itself is in without a tag come to Postern; "+
				"in others those of ports without a tag are lost", b.name, b.name))
		}
	}
	for _, link := range m.links {
		below := m.links[link.Attrs().ParentIndex]
		if below == nil {
			continue
		}
		name, under := link.Attrs().Name, below.Attrs().Name
		switch {
		case link.Type() == "macvlan" && slices.Contains(p.Interfaces, under) && !slices.Contains(p.Interfaces, name):
			texts = append(texts, fmt.Sprintf("packets to the MAC address of %s come in there and not on %s: "+
				"what this machine routes of them passes by without Postern unless %s is named, too", name, under, name))
		case link.Type() != "vlan" || below.Type() != "bridge":
		case slices.Contains(p.Interfaces, name):
			texts = append(texts, fmt.Sprintf("%s is a VLAN on the bridge %s: what this machine routes is taken there, "+
				"what is bridged passes by without Postern", name, under))
		case slices.Contains(p.Interfaces, under):
			texts = append(texts, fmt.Sprintf("%s is a VLAN on the bridge %s: frames with its tag pass by without Postern", name, under))
		}
	}
	slices.Sort(texts)
	return texts
}
