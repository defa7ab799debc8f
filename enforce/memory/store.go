package memory

import (
	"cmp"
	"errors"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"postern/enforce/kept"
)

// The bounds of a Store.
const (
	DefaultEntries = 100_000 // destinations, and as many domains; each is some 400 octets of memory
	MostDomains    = 100     // of one session that are learnt from
	shareOfBlock   = 16      // of a class's room, for one IPv4 /16, IPv6 /32, or last two labels of a domain
	shareOfClient  = 4       // of a class's room, for the domains of one client
	mostOfAHost    = 64      // destinations of one IPv4 address or IPv6 /64, in one class
)

// Options are what a Store is told.
type Options struct {
	Path     string        // of the file; "" has none
	Remember time.Duration // how long after the last session with TLS; at least a second
	Hold     time.Duration // how long a hold is kept after it was renewed; 0 is a day
	Entries  int           // destinations, and as many domains, half of them verified; 0 is DefaultEntries

	// Report is told what is wrong with the file, once until that changes. It is
	// called by Open and by a goroutine of the Store's, and must not call the Store.
	Report func(error)

	// Keeper keeps what is remembered where there is no Path; nil: nobody does. It is
	// not the Store's to close.
	Keeper kept.Keeper
}

// A Store remembers what destinations and recipient domains could do. It answers
// from memory alone; a file, if there is one, is read by Open and written behind,
// every few seconds and by Close. One Store has a file, and commands beside it.
// Its methods may be called by any number of sessions at once.
type Store struct {
	remember     atomic.Int64 // seconds
	hold         atomic.Int64 // a time.Duration
	destinations table[netip.AddrPort]
	domains      table[domainKey]
	behind       *behind     // nil: there is no file
	keeper       kept.Keeper // behind, or another; nil: nobody keeps anything
}

// Open makes a Store and reads its file. A file that is damaged is given another
// name and begun anew; one that is locked, or can't be read or written, is tried
// again as long as the Store lives. All of that is reported and the Store works,
// in memory alone where it must: an error is none of the file's, but of options
// that make no sense.
func Open(o Options) (*Store, error) {
	s, err := newStore(o)
	if err != nil {
		return nil, err
	}
	if s.behind != nil {
		s.behind.turn(time.Now())
		go s.behind.run()
	}
	return s, nil
}

// newStore makes one that has not looked at its file yet.
func newStore(o Options) (*Store, error) {
	if o.Remember < time.Second || o.Entries < 0 {
		return nil, errors.New("memory: remember for at least a second, and no less than no entries")
	}
	if o.Entries == 0 {
		o.Entries = DefaultEntries
	}
	s := new(Store)
	s.Remember(o.Remember)
	s.Hold(cmp.Or(o.Hold, 24*time.Hour))
	s.destinations.bounds, s.destinations.encode = boundsOfDestination, encodeDestination
	s.domains.bounds, s.domains.encode = boundsOfDomain, encodeDomain
	s.destinations.init(o.Entries)
	s.domains.init(o.Entries)
	s.keeper = o.Keeper
	if o.Path != "" {
		s.behind = newBehind(o.Path, o.Report)
		s.keeper = s.behind
	}
	if s.keeper != nil {
		s.destinations.keep()
		s.domains.keep()
		s.keeper.Keep(&records[netip.AddrPort]{destinationsBucket, &s.destinations, decodeDestination,
			func(what Subject) func(netip.AddrPort) bool { return what.hasDestination }, s.remember.Load})
		s.keeper.Keep(&records[domainKey]{domainsBucket, &s.domains, decodeDomain,
			func(what Subject) func(domainKey) bool { return what.hasDomain }, s.remember.Load})
	}
	return s, nil
}

// Remember changes how long is remembered.
func (s *Store) Remember(d time.Duration) { s.remember.Store(int64(d / time.Second)) }

// Hold changes how long holds are kept.
func (s *Store) Hold(d time.Duration) { s.hold.Store(int64(d)) }

// Learn takes into account that a session with addr came as far as TLS, and that
// addr took mail for domains (lower-case A-labels) in it. Nothing but this makes
// an entry; it binds at once when the session verified, and otherwise when the
// same key was seen repeatedly (Occasions, Apart, Spread).
//
// A client chooses whom it names a domain to. So of domains, what was not verified
// for them is learnt for that client alone.
func (s *Store) Learn(addr netip.AddrPort, domains []string, o Observation) {
	if o.SPKI == ([32]byte{}) || !addr.IsValid() {
		return
	}
	remember := s.remember.Load()
	s.destinations.learn(destination(addr), &o, remember)
	client := netip.Prefix{}
	if o.Verified = o.VerifiedDomains; !o.Verified {
		if client = clientOf(o.Client); !client.IsValid() {
			return
		}
	}
	for _, d := range domains[:min(len(domains), MostDomains)] {
		if d != "" && len(d) <= mostDomain && strings.IndexByte(d, 0) < 0 {
			s.domains.learn(domainKey{strings.Clone(d), client}, &o, remember)
		}
	}
}

// Missed counts, for people to read, that a session of client with addr came to no
// TLS. Nothing is forgotten or weakened by it.
func (s *Store) Missed(addr netip.AddrPort, client netip.Addr, domains []string, at time.Time) {
	s.destinations.miss(destination(addr), at.Unix())
	for _, d := range domains[:min(len(domains), MostDomains)] {
		s.domains.miss(domainKey{domain: d}, at.Unix())
		s.domains.miss(domainKey{d, clientOf(client)}, at.Unix())
	}
}

// Recall gives what is known of a destination, and false where nothing binds.
func (s *Store) Recall(addr netip.AddrPort, now time.Time) (Known, bool) {
	return s.destinations.recall(destination(addr), now.Unix(), s.remember.Load())
}

// RecallDomain gives what is known of the destinations of a domain, as verified
// sessions or those of this client had it, and false where nothing binds.
func (s *Store) RecallDomain(domain string, client netip.Addr, now time.Time) (Known, bool) {
	if k, ok := s.domains.recall(domainKey{domain: domain}, now.Unix(), s.remember.Load()); ok {
		return k, true
	}
	return s.domains.recall(domainKey{domain, clientOf(client)}, now.Unix(), s.remember.Load())
}

// Keep adds to h the holds that are kept, and keeps what h comes to have. It is
// called once, before h is used.
func (s *Store) Keep(h *Holds) {
	if s.keeper != nil {
		h.keep()
		s.keeper.Keep(holdRecords{h, func() time.Duration { return time.Duration(s.hold.Load()) }})
	}
}

// Forget forgets what is known under a subject.
func (s *Store) Forget(what Subject) {
	s.destinations.forget(what.hasDestination)
	s.domains.forget(what.hasDomain)
}

// Close writes into the file what is not written yet, and waits a few seconds for
// that at most. The Store goes on in memory alone. The error was not reported.
func (s *Store) Close() error {
	if s.behind == nil {
		return nil
	}
	return s.behind.Close()
}

// destination is an address as it is remembered.
func destination(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

func boundsOfDestination(a netip.AddrPort, most int) []bound {
	host := clientOf(a.Addr())
	return []bound{{share{network: host}, mostOfAHost}, {share{network: block(host)}, most / shareOfBlock}}
}

func boundsOfDomain(k domainKey, most int) []bound {
	parent := k.domain
	if i := strings.LastIndexByte(parent, '.'); i > 0 {
		parent = parent[strings.LastIndexByte(parent[:i], '.')+1:]
	}
	list := []bound{{share{below: parent, network: k.client}, most / shareOfBlock}}
	if k.client.IsValid() {
		list = append(list, bound{share{network: k.client}, most / shareOfClient})
	}
	return list
}
