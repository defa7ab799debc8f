package memory

import (
	"cmp"
	"slices"
)

// What is kept elsewhere is joined with what is known here: by a restart, what the
// file has; in a cluster, what another gateway saw. Each may have seen what the
// other did not, and both may have been told of the same session, by each other or
// by the file. So nothing is added up: of two counts the greater stands. A number
// of occasions is then never greater than it was in truth (a client cannot be
// counted twice by going through two gateways), and may be smaller when gateways
// could not hear each other for hours. Since they hear each other within a second,
// and occasions are Apart by an hour, it is right otherwise.
//
// The order in which states are joined makes no difference, nor how often, but for
// unverified keys that there is no room for.

// joined is what s and o come to together.
//
//   - Of one public key: the earlier first; the later last and counted; the greater
//     version, occasions and count; verified if either is. The issuer's name is that
//     of the later sighting.
//   - Of two keys that verified, certificates are renewed: the one that was seen last
//     stays. It has the earlier first, the greater version, occasions and count of
//     both, as in verify.
//   - Of unverified keys mostKeys stay: those that bind before those that don't, then
//     those of more occasions, then those seen last.
func (s seen) joined(o seen) seen {
	var all []sighting
	for _, list := range [][]sighting{s.sightings, o.sightings} {
		for _, c := range list {
			i := slices.IndexFunc(all, func(have sighting) bool { return have.spki == c.spki })
			if i < 0 {
				all = append(all, c)
			} else {
				all[i].join(c)
			}
		}
	}
	slices.SortFunc(all, func(a, b sighting) int { return -a.compare(b) })
	out := seen{missed: max(s.missed, o.missed), lastMissed: max(s.lastMissed, o.lastMissed)}
	unverified := 0
	for _, c := range all {
		switch {
		case !c.verified:
			if unverified++; unverified <= mostKeys {
				out.sightings = append(out.sightings, c)
			}
		case len(out.sightings) == 0:
			out.sightings = append(out.sightings, c)
		default: // the first is verified, and later
			have := &out.sightings[0]
			have.first, have.version = min(have.first, c.first), max(have.version, c.version)
			have.occasions, have.count = max(have.occasions, c.occasions), max(have.count, c.count)
		}
	}
	return out
}

// join takes in what was seen of the same key.
func (s *sighting) join(o sighting) {
	if cmp.Or(cmp.Compare(o.last, s.last), cmp.Compare(o.issuer, s.issuer)) > 0 {
		s.issuer = o.issuer
	}
	s.first, s.last, s.counted = min(s.first, o.first), max(s.last, o.last), max(s.counted, o.counted)
	s.occasions, s.count = max(s.occasions, o.occasions), max(s.count, o.count)
	s.version = max(s.version, o.version)
	s.verified = s.verified || o.verified
}

// compare is how much more s is worth keeping than o. No two keys are worth the same.
func (s sighting) compare(o sighting) int {
	yes := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	by := cmp.Compare(yes(s.verified), yes(o.verified))
	if !s.verified {
		by = cmp.Or(by, cmp.Compare(yes(s.binds()), yes(o.binds())), cmp.Compare(s.occasions, o.occasions))
	}
	return cmp.Or(by, cmp.Compare(s.last, o.last), slices.Compare(s.spki[:], o.spki[:]))
}

// equal is for states that were joined: their sightings stand in one order.
func (s seen) equal(o seen) bool {
	return s.missed == o.missed && s.lastMissed == o.lastMissed && slices.Equal(s.sightings, o.sightings)
}
