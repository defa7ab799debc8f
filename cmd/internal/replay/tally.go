package replay

import (
	"cmp"
	"slices"
	"strings"
)

// A Change is what another policy makes of a unit.
type Change uint8

// The changes, with the words of the output.
const (
	Same Change = iota
	NewlyRefused
	NewlyAllowed
	OtherReason
	NotTold
)

func (c Change) String() string {
	return [...]string{"same", "newly refused", "newly allowed", "other reason", "cannot be told"}[min(c, NotTold)]
}

// Changed gives what became of u, and why: the reason, both reasons, or what is
// missing.
func (u Unit) Changed() (Change, string) {
	switch missing := or(u.Is.Unknown, u.Was.Unknown); {
	case missing != "":
		return NotTold, missing
	case u.Is.Refused && !u.Was.Refused:
		return NewlyRefused, or(string(u.Is.Reason), "one of several reasons")
	case !u.Is.Refused && u.Was.Refused:
		return NewlyAllowed, string(u.Was.Reason)
	case u.Is.Refused && u.Is.Reason != "" && u.Is.Reason != u.Was.Reason:
		return OtherReason, string(u.Was.Reason) + " -> " + string(u.Is.Reason)
	}
	return Same, string(u.Is.Reason)
}

// A Group are the changes of one kind, for one destination and reason.
type Group struct {
	Change      Change
	Recipient   bool
	Destination string // a recipient's domain or a server's address; "" for those beyond MaxGroups
	Why         string
	Count       int
}

// Counts are units by what became of them.
type Counts [NotTold + 1]int

// A Tally counts. What it holds grows with what is different, and no further than
// MaxGroups.
type Tally struct {
	Records, Unjudged    int
	Sessions, Recipients Counts
	groups               map[Group]int // by a group without its count
}

// MaxGroups bounds how many groups are told apart; what comes later is counted
// without its destination.
const MaxGroups = 10_000

// Bounds on what of a record is kept, octets.
const (
	longestDestination = 255
	longestWhy         = 120
)

// NewTally makes an empty one.
func NewTally() *Tally { return &Tally{groups: map[Group]int{}} }

// Add counts the units of one record.
func (t *Tally) Add(units []Unit) {
	t.Records++
	if len(units) == 0 {
		t.Unjudged++
	}
	for _, u := range units {
		change, why := u.Changed()
		counts := &t.Sessions
		if u.Recipient {
			counts = &t.Recipients
		}
		counts[change]++
		if change == Same {
			continue
		}
		g := Group{Change: change, Recipient: u.Recipient, Destination: bounded(u.Destination, longestDestination), Why: bounded(why, longestWhy)}
		if _, known := t.groups[g]; !known && len(t.groups) >= MaxGroups {
			g.Destination = ""
			if _, known := t.groups[g]; !known && len(t.groups) >= 2*MaxGroups {
				g.Why = ""
			}
		}
		t.groups[g]++
	}
}

// bounded cuts what a record says, in a copy: the line that it stands in must not
// be kept for it.
func bounded(s string, most int) string {
	return strings.Clone(strings.ToValidUTF8(s[:min(len(s), most)], "?"))
}

// Groups gives the groups, each change by itself, the largest first.
func (t *Tally) Groups() []Group {
	all := make([]Group, 0, len(t.groups))
	for g, n := range t.groups {
		g.Count = n
		all = append(all, g)
	}
	slices.SortFunc(all, func(a, b Group) int {
		return cmp.Or(cmp.Compare(a.Change, b.Change), cmp.Compare(b.Count, a.Count), cmp.Compare(a.Destination, b.Destination), cmp.Compare(a.Why, b.Why))
	})
	return all
}
