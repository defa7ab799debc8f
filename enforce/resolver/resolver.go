package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
)

// TrustAD says whose word for DNSSEC is believed: of which servers the AD bit.
type TrustAD uint8

// The zero value believes a server on this machine, to which there is no way in
// between that could be forged.
const (
	TrustLoopback TrustAD = iota
	TrustAlways           // for a way there that nobody else can write to: neither AD nor ErrUnavailable can be forged on it
	TrustNever
)

// Options say whom a Resolver asks and what it believes.
type Options struct {
	Servers []netip.AddrPort // in the order in which they are asked, those that are believed first; at least one
	TrustAD TrustAD
	Timeout time.Duration // of one question, all servers and attempts together; 0 is 10 s
	Entries int           // answers kept; 0 is 20,000
}

// Why there is no answer. That a name or a record does not exist is an answer.
var (
	// ErrFailed: a server said that it could not find out (SERVFAIL), as it does
	// where signatures are bogus, or refused, or said what cannot be read.
	ErrFailed = errors.New("dns: the server failed")
	// ErrTimeout: nobody answered in time.
	ErrTimeout = errors.New("dns: no answer in time")
	// ErrUnavailable: there is no server at any of the addresses: connections are
	// refused, or there is no way there, or nothing comes back whatever is asked.
	ErrUnavailable = errors.New("dns: no server is there")
	// ErrNotKept: there is no answer without asking, which [Resolver.Kept] does not.
	ErrNotKept = errors.New("dns: no answer is kept")
)

// A Resolver answers questions about names. Its methods may be called by any
// number of sessions at once: who asks the same at the same time shares one
// answer, and one that stops waiting leaves it to be had later.
type Resolver struct {
	servers []netip.AddrPort
	trust   TrustAD
	timeout time.Duration
	cache   *cache
	asking  singleflight.Group
	open    chan struct{} // a place for each question that is being asked
	vitals  vitals
	kept    *Resolver // see Kept
}

// mostOpen bounds the questions that are asked at one time, and with them the
// sockets: whoever sends mail chooses the names, and name servers that say nothing
// keep each question for its whole time.
const mostOpen = 2048

// New makes a Resolver.
func New(o Options) *Resolver {
	r := &Resolver{open: make(chan struct{}, mostOpen), servers: slices.Clone(o.Servers), trust: o.TrustAD, timeout: o.Timeout}
	slices.SortStableFunc(r.servers, func(a, b netip.AddrPort) int {
		switch {
		case r.BelievesServer(a) == r.BelievesServer(b):
			return 0
		case r.BelievesServer(a):
			return -1
		}
		return 1
	})
	if r.timeout <= 0 {
		r.timeout = 10 * time.Second
	}
	if o.Entries <= 0 {
		o.Entries = 20_000
	}
	r.cache = newCache(o.Entries)
	r.kept = &Resolver{servers: r.servers, trust: r.trust, cache: r.cache}
	r.kept.kept = r.kept
	return r
}

// Kept is the Resolver that answers from what this one keeps, failures too, and
// asks nobody: what would have to be asked is ErrNotKept at once. It never waits and
// starts nothing, so that who looks there first pays for asking only where there is
// something to ask.
func (r *Resolver) Kept() *Resolver { return r.kept }

// Believes reports whether the AD bit of any of its servers is believed. Of a
// Resolver that believes none nothing is ever Secure.
func (r *Resolver) Believes() bool {
	for _, s := range r.servers {
		if r.BelievesServer(s) {
			return true
		}
	}
	return false
}

// BelievesServer reports whether the AD bit of a server at that address is believed.
func (r *Resolver) BelievesServer(server netip.AddrPort) bool {
	return r.trust == TrustAlways || r.trust == TrustLoopback && server.Addr().Unmap().IsLoopback()
}

// A question is what the cache is asked by.
type question struct {
	name string // lower case, without the trailing dot
	kind uint16
}

// An answer is what one question came to. It is shared, and never changed.
type answer struct {
	records []dns.RR // of the kind that was asked for, behind all aliases
	aliases []string // the names that CNAMEs led to, in their order, without the dot
	secure  bool
	err     error
	expires time.Time
}

// ask answers a question, from what is kept or by asking.
func (r *Resolver) ask(ctx context.Context, name string, kind uint16) (*answer, error) {
	if !hostname(name) {
		return nil, fmt.Errorf("%w: not a name", ErrFailed)
	}
	q := question{name, kind}
	a := r.cache.find(q, time.Now())
	switch {
	case a != nil:
		return a, a.err
	case r.kept == r:
		return nil, ErrNotKept
	}
	return r.inquire(ctx, q)
}

// inquire asks the servers, or waits for who does already.
func (r *Resolver) inquire(ctx context.Context, q question) (*answer, error) {
	if err := ctx.Err(); err != nil { // who has no time left has nothing begun
		return nil, fmt.Errorf("%w (%w)", ErrTimeout, err)
	}
	found := r.asking.DoChan(dns.TypeToString[q.kind]+" "+q.name, func() (any, error) {
		if a := r.cache.find(q, time.Now()); a != nil {
			return a, nil // it came between looking and asking
		}
		own, cancel := context.WithTimeout(context.Background(), r.timeout)
		defer cancel()
		select {
		case r.open <- struct{}{}:
			defer func() { <-r.open }()
		case <-own.Done():
			return &answer{err: fmt.Errorf("%w: too many questions at once", ErrTimeout)}, nil
		}
		a := r.lookup(own, q)
		r.cache.keep(q, a)
		return a, nil
	})
	select {
	case f := <-found:
		a := f.Val.(*answer)
		return a, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w (%w)", ErrTimeout, ctx.Err())
	}
}

// hostname reports whether name is one to ask for: labels of lower-case letters,
// digits, hyphens and underscores, without the trailing dot (RFC 1035 §2.3.4 for
// the lengths).
func hostname(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	label := 0
	for i := range len(name) {
		switch c := name[i]; {
		case c == '.':
			if label == 0 {
				return false
			}
			label = 0
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
			if label++; label > 63 {
				return false
			}
		default:
			return false
		}
	}
	return label > 0
}
