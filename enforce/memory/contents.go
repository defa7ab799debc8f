package memory

import (
	"net/netip"
	"time"

	"go.etcd.io/bbolt"
)

// CommandWait is how long Read and Forget wait for a daemon that writes.
const CommandWait = 5 * time.Second

// Contents are what a file has. Entries come in the order of their last session.
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

// A HeldClient is a hold as it stands in the file; whether it still lasts depends
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

// Read reads the file at path, beside a daemon or without one, and changes
// nothing. The error is os.ErrNotExist where nothing was ever remembered, and
// ErrDamaged where the daemon would begin a new file.
func Read(path string) (Contents, error) {
	var l loaded
	_, err := with(path, access{wait: CommandWait}, func(db *bbolt.DB) error {
		return db.View(func(tx *bbolt.Tx) (err error) {
			l, err = load(tx, mostFile)
			return err
		})
	})
	if err != nil {
		return Contents{}, err
	}
	c := Contents{Damaged: l.damaged}
	for _, r := range l.destinations {
		e := entryOf(r.seen)
		e.Destination = r.key
		c.Destinations = append(c.Destinations, e)
	}
	for _, r := range l.domains {
		e := entryOf(r.seen)
		e.Domain, e.Client = r.key.domain, r.key.client
		c.Domains = append(c.Domains, e)
	}
	for _, h := range l.holds {
		c.Holds = append(c.Holds, HeldClient{h.client, h.upstream, h.Offered, h.Since, h.renewed, h.Refused})
	}
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

// Forget takes what a subject names out of the file at path and gives how many
// entries and holds that were. A daemon that runs forgets what it has of them in
// memory within Behind of that, with whatever it learnt of them in between. The
// file is neither made nor given to another owner.
func Forget(path string, what Subject) (int, error) {
	n := 0
	_, err := with(path, access{write: true, wait: CommandWait}, func(db *bbolt.DB) error {
		return db.Update(func(tx *bbolt.Tx) error {
			if err := prepare(tx); err != nil {
				return err
			}
			l, err := load(tx, mostFile)
			if err != nil {
				return err
			}
			var gone loaded
			gone.of(l, what)
			n = len(gone.destinations) + len(gone.domains) + len(gone.holds)
			if err := gone.delete(tx); err != nil {
				return err
			}
			return ask(tx, what) // also of what the daemon has not written yet
		})
	})
	return n, err
}

func (l *loaded) of(all loaded, what Subject) {
	for _, r := range all.destinations {
		if what.hasDestination(r.key) {
			l.destinations = append(l.destinations, r)
		}
	}
	for _, r := range all.domains {
		if what.hasDomain(r.key) {
			l.domains = append(l.domains, r)
		}
	}
	for _, h := range all.holds {
		if what.hasHold(h.holdKey) {
			l.holds = append(l.holds, h)
		}
	}
}

func (l *loaded) delete(tx *bbolt.Tx) error {
	for _, r := range l.destinations {
		if err := tx.Bucket([]byte(destinationsBucket)).Delete(encodeDestination(r.key)); err != nil {
			return err
		}
	}
	for _, r := range l.domains {
		if err := tx.Bucket([]byte(domainsBucket)).Delete(encodeDomain(r.key)); err != nil {
			return err
		}
	}
	for _, h := range l.holds {
		if err := tx.Bucket([]byte(holdsBucket)).Delete(encodeHold(h.holdKey)); err != nil {
			return err
		}
	}
	return nil
}
