package mtasts

import (
	"container/list"
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"postern/enforce/kept"
)

// The bounds of a Cache.
const (
	MostDomains = 10_000 // in memory and as files; policies that hold go last
	MostFlights = 1024   // lookups at a time
)

// How often a domain is looked at.
const (
	lookAgain     = 5 * time.Minute  // the TXT record; RFC 8461 §3.3 has it as the least between failed fetches too
	lookAgainSoon = 30 * time.Second // where the record could not be looked up and no policy holds
	lookFresh     = 10 * time.Second // for Fresh
)

// Options say how a Cache reaches the world. TXT and Dial are needed.
type Options struct {
	// TXT gives the TXT records of a name, each the concatenation of its strings,
	// following CNAME. A name without any is no error, or a net.DNSError that says
	// IsNotFound; every other error means that it is not known whether there are
	// any. It ends when ctx does.
	TXT func(ctx context.Context, name string) (records []string, err error)
	// Dial connects to a policy host, "mta-sts.example.com:443". The name comes
	// from whoever sends mail and its address from whoever owns the name: Dial
	// decides which addresses may be reached.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Roots verify the policy hosts; nil stands for the system's.
	Roots *x509.CertPool
	// Dir holds the cache on disk, one file a domain; "" keeps it in memory alone.
	Dir string
	// Keeper tells other gateways of policies that are fetched, and brings theirs; nil:
	// there are none. It is not the Cache's to close.
	Keeper kept.Keeper
	// Report is told of what an administrator should see: a stored policy that
	// could not be read or written, a policy that could not be refreshed (RFC 8461
	// §10.2; not of those with mode none). subject is a domain or a file's name. It
	// and the text of err are printable ASCII of at most 256 bytes. Called by several
	// goroutines at once; nil is silent.
	Report func(subject string, err error)
}

// A Cache finds and keeps the policies of domains. Its methods may be called by
// any number of sessions at once.
type Cache struct {
	options Options
	web     *http.Client
	disk    *disk

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	flying sync.WaitGroup

	mu      sync.Mutex
	entries map[string]*entry
	flights map[string]*flight
	// Who was asked for longest ago stands in front. Domains without a policy, of
	// which anybody can name as many as they like, push out their like only.
	holding, others list.List
	changed         changed
}

// An entry is what is known of one domain.
type entry struct {
	domain string
	policy Policy // fetched and perhaps run out; State is Found or Unknown
	last   State  // what the latest look found
	err    error  // and why it failed

	looked, next time.Time // at the TXT record
	failedID     string    // that a fetch failed for
	failures     int
	retry        time.Time // no fetch for failedID before
	refresh      time.Time // the policy is fetched anew, ahead of its end
	asked        time.Time

	unread bool // on disk only
	onDisk bool
	in     *list.List
	place  *list.Element
}

// New makes a Cache. Dir is made, for its owner alone, where it does not exist; that
// it can't be opened or listed is an error, and what stands in it never is.
func New(o Options) (*Cache, error) {
	c := &Cache{options: o, web: newClient(o), entries: map[string]*entry{}, flights: map[string]*flight{}}
	if o.Dir != "" {
		var err error
		if c.disk, err = openDisk(o.Dir); err != nil {
			return nil, err
		}
		domains, strange, err := c.disk.list()
		if err != nil {
			c.disk.close()
			return nil, err
		}
		for _, name := range strange {
			c.report(printable(name), fmt.Errorf("%w: not one of ours", ErrStored))
		}
		for _, d := range domains {
			c.settle(&entry{domain: d, unread: true, onDisk: true})
		}
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if o.Keeper != nil {
		o.Keeper.Keep(policies{c})
	}
	return c, nil
}

// Close ends what is under way and waits for it. Policies that hold are still
// answered with; nothing is looked up any more.
func (c *Cache) Close() error {
	c.mu.Lock()
	c.cancel() // under the lock: no lookup begins after the wait
	c.mu.Unlock()
	c.flying.Wait()
	return c.disk.close()
}

// Policy gives what is known of domain, which is lower-case A-labels without the
// trailing dot, else ErrDomain.
//
// A policy that holds is given at once. Where it is time to look at the TXT record
// again, that goes on behind, so that a session never waits for what it does not
// need. Where none holds, Policy looks and waits: until the answer is there, at most
// FetchTimeout, or until ctx ends. Then the look goes on and its answer is kept.
//
// An error means that nothing is known: of ctx, ErrDomain, ErrBusy or ErrClosed.
// What a look found out, a failure too, is no error but the State of the Policy.
func (c *Cache) Policy(ctx context.Context, domain string) (Policy, error) {
	return c.ask(ctx, domain, false)
}

// Fresh is Policy having looked at the TXT record within the last ten seconds, and
// having fetched the policy if its id is new. It is to be asked before a policy
// refuses a message (RFC 8461 §5: not for good before it was looked for an updated
// one). With an error the Policy is what Policy would have given.
func (c *Cache) Fresh(ctx context.Context, domain string) (Policy, error) {
	return c.ask(ctx, domain, true)
}

// Recall is Policy where that neither waits nor has anything begun: ok tells that it
// is so, and else Policy is to be asked.
func (c *Cache) Recall(domain string) (p Policy, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[domain] // nobody enters what is no domain
	if e == nil || e.unread {
		return Policy{}, false
	}
	now := time.Now()
	if e.due(now, false) {
		return Policy{}, false
	}
	e.touch(now)
	return e.answer(now), true
}

func (c *Cache) ask(ctx context.Context, domain string, fresh bool) (Policy, error) {
	if !isDomain(domain) {
		return Policy{}, ErrDomain
	}
	c.read(domain)
	now := time.Now()
	known, due := Policy{Domain: domain}, true
	c.mu.Lock()
	if e := c.entries[domain]; e != nil {
		e.touch(now)
		known, due = e.answer(now), e.due(now, fresh)
	}
	if !due {
		c.mu.Unlock()
		return known, nil
	}
	var f *flight
	err := context.Cause(ctx)
	if err == nil || known.State == Found && !fresh { // who has no time left has nothing begun to wait for
		f, err = c.begin(domain, false)
	}
	c.mu.Unlock()
	if known.State != Found {
		known = Policy{Domain: domain} // too old to be said again
	} else if !fresh {
		return known, nil
	}
	if err != nil {
		return known, err
	}
	select {
	case <-f.done:
		if f.err != nil {
			return known, f.err
		}
		return f.answer.clone(), nil
	case <-ctx.Done():
		return known, context.Cause(ctx)
	}
}

// touch notes that somebody asked for it.
func (e *entry) touch(now time.Time) {
	e.asked = now
	e.in.MoveToBack(e.place)
}

// holds reports whether a fetched policy has not run out.
func (e *entry) holds(now time.Time) bool {
	return e.policy.State == Found && now.Before(e.policy.Expires)
}

// answer is what is known now. Unknown is one whose policy has run out.
func (e *entry) answer(now time.Time) Policy {
	p := Policy{Domain: e.domain}
	if e.holds(now) {
		p = e.policy.clone()
	} else if e.last != Found {
		p.State = e.last
	}
	if e.err != nil {
		p.Err, p.Detail = e.err, e.err.Error()
	}
	return p
}

func (e *entry) due(now time.Time, fresh bool) bool {
	if fresh && now.Sub(e.looked) >= lookFresh {
		return true
	}
	return !now.Before(e.next) || !e.holds(now) && (e.last == Found || e.last == Unknown)
}

func (p Policy) clone() Policy {
	p.MX = slices.Clone(p.MX)
	return p
}

// settle puts e where it belongs among those that could be pushed out, and pushes
// out whoever is too many. The lock is held, or nobody else knows c yet.
func (c *Cache) settle(e *entry) {
	if c.entries[e.domain] != e {
		c.entries[e.domain] = e
	}
	to := &c.others
	if e.policy.State == Found || e.unread {
		to = &c.holding
	}
	if e.in != to {
		if e.in != nil {
			e.in.Remove(e.place)
		}
		e.in, e.place = to, to.PushBack(e)
	}
	for len(c.entries) > MostDomains {
		front := c.others.Front()
		if front == nil {
			front = c.holding.Front()
		}
		e := front.Value.(*entry)
		if c.drop(e); e.policy.State == Found {
			c.note(e.domain)
		}
	}
}

// drop forgets a domain, on disk too, so that there are never more files than
// entries.
func (c *Cache) drop(e *entry) {
	delete(c.entries, e.domain)
	e.in.Remove(e.place)
	c.unlink(e)
}

func (c *Cache) unlink(e *entry) {
	if e.onDisk {
		e.onDisk = false
		c.disk.remove(e.domain)
	}
}

func (c *Cache) report(subject string, err error) {
	if c.options.Report != nil {
		c.options.Report(subject, err)
	}
}
