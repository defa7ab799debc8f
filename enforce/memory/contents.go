package memory

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"postern/enforce/kept"
)

// Contents are what is kept. Entries come in the order of their last session.
type Contents struct {
	Destinations []Entry
	Domains      []Entry
	Holds        []HeldClient
	Damaged      int // records that could not be read
}

// An Entry is what is remembered of a destination or of a domain.
type Entry struct {
	Destination netip.AddrPort // of a destination
	Domain      string         // of a domain
	Client      netip.Prefix   // of a domain that did not verify: whom it binds alone
	Sightings   []Sighting
	Missed      int       // sessions without TLS
	LastMissed  time.Time // zero: none

	seen seen
}

// A Sighting is one public key that was seen.
type Sighting struct {
	Verified    bool
	Binds       bool
	Version     uint16 // the best
	Issuer      string // cut and escaped; what follows a backslash was not printable
	SPKI        [32]byte
	First, Last time.Time
	Occasions   int
	Count       int // sessions
}

// A HeldClient is a hold as it is kept; whether it still lasts depends
// on the configuration.
type HeldClient struct {
	Client      netip.Prefix
	Destination netip.Addr
	Offered     uint16
	Since       time.Time
	Renewed     time.Time
	Refused     int
}

// Known gives what binds of an entry, and false where nothing does.
func (e Entry) Known(now time.Time, remember time.Duration) (Known, bool) {
	return e.seen.known(now.Unix(), int64(remember/time.Second))
}

// Of are the contents that a subject names.
func (c Contents) Of(what Subject) Contents {
	out := Contents{Damaged: c.Damaged}
	for _, e := range c.Destinations {
		if what.hasDestination(e.Destination) {
			out.Destinations = append(out.Destinations, e)
		}
	}
	for _, e := range c.Domains {
		if what.hasDomain(domainKey{e.Domain, e.Client}) {
			out.Domains = append(out.Domains, e)
		}
	}
	for _, h := range c.Holds {
		if what.hasHold(holdKey{h.Client, h.Destination}) {
			out.Holds = append(out.Holds, h)
		}
	}
	return out
}

// Len counts entries and holds.
func (c Contents) Len() int { return len(c.Destinations) + len(c.Domains) + len(c.Holds) }

// mostRead bounds what commands read of a kind; a file bounds itself.
const mostRead = mostFile

func limits() map[string]int {
	return map[string]int{destinationsBucket: mostRead, domainsBucket: mostRead, holdsBucket: mostRead}
}

// Read reads what is kept, beside gateways or without any, and changes nothing.
func Read(from kept.Archive) (Contents, error) {
	all, err := from.Read(limits())
	if err != nil {
		return Contents{}, err
	}
	var c Contents
	for _, r := range all[destinationsBucket] {
		key, s, err := decodeRecord(r, decodeDestination)
		if err != nil {
			c.Damaged++
			continue
		}
		e := entryOf(s)
		e.Destination = key
		c.Destinations = append(c.Destinations, e)
	}
	for _, r := range all[domainsBucket] {
		key, s, err := decodeRecord(r, decodeDomain)
		if err != nil {
			c.Damaged++
			continue
		}
		e := entryOf(s)
		e.Domain, e.Client = key.domain, key.client
		c.Domains = append(c.Domains, e)
	}
	for _, r := range all[holdsBucket] {
		h, err := decodeHoldRecord(r)
		if err != nil {
			c.Damaged++
		} else if !h.cleared {
			c.Holds = append(c.Holds, HeldClient{h.client, h.upstream, h.Offered, h.Since, h.renewed, h.Refused})
		}
	}
	for _, list := range [][]Entry{c.Destinations, c.Domains} {
		slices.SortStableFunc(list, func(a, b Entry) int { return cmp.Compare(a.seen.last(), b.seen.last()) })
	}
	slices.SortStableFunc(c.Holds, func(a, b HeldClient) int { return a.Renewed.Compare(b.Renewed) })
	return c, nil
}

func entryOf(s seen) Entry {
	e := Entry{Missed: int(s.missed), LastMissed: moment(s.lastMissed), seen: s}
	for i := range s.sightings {
		c := &s.sightings[i]
		e.Sightings = append(e.Sightings, Sighting{c.verified, c.binds(), c.version, c.issuer, c.spki,
			moment(c.first), moment(c.last), int(c.occasions), int(c.count)})
	}
	return e
}

// Forget takes what a subject names out of what is kept and gives how many entries
// and holds that were. Gateways that run forget what they have of them in memory
// within seconds, with whatever they learnt of them in between.
func Forget(from kept.Archive, what Subject) (int, error) {
	return from.Forget(what.String(), limits(), func(kind string, key []byte) bool {
		switch kind {
		case destinationsBucket:
			a, err := decodeDestination(key)
			return err == nil && what.hasDestination(a)
		case domainsBucket:
			k, err := decodeDomain(key)
			return err == nil && what.hasDomain(k)
		case holdsBucket:
			k, err := decodeHoldKey(key)
			return err == nil && what.hasHold(k)
		}
		return false
	})
}
