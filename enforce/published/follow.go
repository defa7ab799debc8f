package published

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"postern/enforce/resolver"
)

// A Follower keeps the addresses of the MX hosts of some domains, so that a
// connection can be known by its destination. It asks again as their TTL says, and
// keeps an address for a week after DNS last showed it: hosts rotate theirs, and a
// resolver that is not there must not undo a rule.
type Follower struct {
	file   string
	report func(error)

	mu       sync.Mutex
	resolver *resolver.Resolver
	domains  []string
	known    map[string]map[netip.Addr]Sighting // by domain
	failed   map[string]string                  // why a domain could not be looked up lately
	wake     chan struct{}

	rounds atomic.Int64                            // of asking for all
	table  atomic.Pointer[map[netip.Addr]followed] // what sessions look at
}

// A followed is what is known of an address. It is never changed.
type followed struct {
	domains []string
	host    string // "" where they name it differently
}

// A Sighting is an address that DNS showed for an MX host.
type Sighting struct {
	Host  string    `json:"host"`
	Seen  time.Time `json:"seen"`  // when DNS last showed it
	Until time.Time `json:"until"` // when it is dropped unless that shows it again
}

// How long an address is kept past its TTL, and how often DNS is asked.
const (
	keptPast   = 7 * 24 * time.Hour
	leastPause = 30 * time.Second
	mostPause  = time.Hour
	askFor     = 20 * time.Second
	mostKept   = 4096 // addresses of one domain
)

// NewFollower makes one that asks r. What it knows is kept in a file ("" for in
// memory only); what is wrong with that is reported, and no reason not to go on.
func NewFollower(r *resolver.Resolver, file string, report func(error)) *Follower {
	f := &Follower{resolver: r, file: file, report: report, known: map[string]map[netip.Addr]Sighting{},
		failed: map[string]string{}, wake: make(chan struct{}, 1)}
	if file != "" {
		if err := f.load(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			report(err)
		}
	}
	f.publish()
	return f
}

// Follow sets the domains to follow: lower-case A-labels. What is known of others
// is kept until its time is over, for a reload that names them again.
func (f *Follower) Follow(domains []string) {
	f.mu.Lock()
	f.domains = slices.Clone(domains)
	f.mu.Unlock()
	f.publish()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Ask has another resolver asked from now on.
func (f *Follower) Ask(r *resolver.Resolver) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resolver = r
}

// Run asks until the context ends.
func (f *Follower) Run(ctx context.Context) {
	for {
		f.mu.Lock()
		domains, r := f.domains, f.resolver
		f.mu.Unlock()
		pause := mostPause
		for _, d := range domains {
			pause = min(pause, f.refresh(ctx, r, d))
		}
		f.publish()
		f.rounds.Add(1)
		if f.file != "" && len(domains) > 0 {
			if err := f.save(); err != nil {
				f.report(err)
			}
		}
		timer := time.NewTimer(max(pause, leastPause))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-f.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// refresh asks for one domain and says when to ask again.
func (f *Follower) refresh(ctx context.Context, r *resolver.Resolver, domain string) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	now := time.Now()
	mx, err := r.MX(ctx, domain)
	if err != nil {
		f.fail(domain, err)
		return leastPause
	}
	until := mx.Expires
	found := map[netip.Addr]Sighting{}
	for _, host := range mx.Hosts[:min(len(mx.Hosts), mostAsked)] {
		a, err := r.Addresses(ctx, host.Name)
		if err != nil {
			f.fail(domain, err)
			until = now
			continue
		}
		for _, address := range a.Addrs {
			found[address] = Sighting{Host: host.Name, Seen: now, Until: a.Expires.Add(keptPast)}
		}
		if a.Expires.Before(until) {
			until = a.Expires
		}
	}
	f.merge(domain, found, now)
	return time.Until(until)
}

func (f *Follower) fail(domain string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed[domain] == "" {
		f.report(err)
	}
	f.failed[domain] = err.Error()
}

// merge enters what was found, and drops what is over.
func (f *Follower) merge(domain string, found map[netip.Addr]Sighting, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(found) > 0 {
		delete(f.failed, domain)
	}
	have := f.known[domain]
	if have == nil {
		have = map[netip.Addr]Sighting{}
		f.known[domain] = have
	}
	for a, s := range have {
		if now.After(s.Until) {
			delete(have, a)
		}
	}
	for a, s := range found {
		if _, known := have[a]; known || len(have) < mostKept {
			have[a] = s
		}
	}
}

// publish makes the table that sessions look at.
func (f *Follower) publish() {
	f.mu.Lock()
	defer f.mu.Unlock()
	table, now := map[netip.Addr]followed{}, time.Now()
	for d, addresses := range f.known {
		for a, s := range addresses {
			if !now.Before(s.Until) {
				delete(addresses, a)
			}
		}
		if len(addresses) == 0 {
			delete(f.known, d)
		}
	}
	for _, d := range f.domains {
		for a, s := range f.known[d] {
			one, known := table[a]
			if one.domains = append(one.domains, d); !known {
				one.host = s.Host
			} else if one.host != s.Host {
				one.host = ""
			}
			table[a] = one
		}
	}
	f.table.Store(&table)
}

// MXOf gives those of the followed domains of which an MX host has the address. The
// slice is shared and not to be changed.
func (f *Follower) MXOf(address netip.Addr) []string {
	return slices.Clip((*f.table.Load())[address].domains)
}

// Host gives the name of the MX host at the address, "" where none is known, or
// more than one.
func (f *Follower) Host(address netip.Addr) string {
	return (*f.table.Load())[address].host
}

// A Followed is what is known of a followed domain.
type Followed struct {
	Domain    string
	Addresses map[netip.Addr]Sighting
	Failed    string // why it could not be looked up lately; "" when it could
}

// Known gives what is known of each followed domain, in their order.
func (f *Follower) Known() []Followed {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []Followed
	for _, d := range f.domains {
		one := Followed{Domain: d, Addresses: map[netip.Addr]Sighting{}, Failed: f.failed[d]}
		for a, s := range f.known[d] {
			one.Addresses[a] = s
		}
		all = append(all, one)
	}
	return all
}

// mostStored bounds the file, in octets.
const mostStored = 16 << 20

func (f *Follower) load() error {
	known, err := ReadFollowed(f.file)
	if err == nil {
		f.known = known
	}
	return err
}

// ReadFollowed reads a Follower's file: the addresses of each domain. What a clock
// that was wrong has written is left out.
func ReadFollowed(file string) (map[string]map[netip.Addr]Sighting, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.Size() > mostStored {
		return nil, errors.New(file + ": too large")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	known := map[string]map[netip.Addr]Sighting{}
	if err := json.Unmarshal(data, &known); err != nil {
		return nil, errors.New(file + ": " + err.Error())
	}
	latest := time.Now().Add(mostTTL + keptPast)
	for _, addresses := range known {
		for a, s := range addresses {
			if s.Until.After(latest) {
				delete(addresses, a) // the clock was somewhere else then
			}
		}
	}
	return known, nil
}

// mostTTL is the longest that an answer of DNS is taken to hold.
const mostTTL = 24 * time.Hour

func (f *Follower) save() error {
	f.mu.Lock()
	data, err := json.Marshal(f.known)
	f.mu.Unlock()
	if err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(f.file), ".mx-")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(data)
	if err = errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	return os.Rename(temp.Name(), f.file)
}
