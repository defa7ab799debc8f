package dane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"postern/enforce/resolver"
)

// A State is what the TLSA records of one MX host come to.
type State uint8

// The states of a host. The zero value binds nobody.
const (
	None        State = iota // no records that DNSSEC secures
	Usable                   // some that can be used
	Unusable                 // some, none of which can be used: TLS is demanded, unauthenticated (RFC 7672 §2.1.1, §2.2)
	Failed                   // what came is bogus, or nothing came: mail is deferred (RFC 7672 §2.1.2)
	Unavailable              // there is no resolver to ask
)

func (s State) String() string {
	return [...]string{"none", "usable", "unusable", "failed", "unavailable"}[min(s, Unavailable)]
}

// A Host is an MX host and its TLSA records.
type Host struct {
	Name    string   // as in the MX record
	Base    string   // the TLSA base domain: Name, or what stands behind its aliases; empty where there are no records
	Names   []string // that a certificate may be for under usage 2 (RFC 7672 §3.2.2)
	State   State
	Records []Record // all of them, at Usable and Unusable
	Detail  string   // in words why there are no Records that can be used
	// Expires is when to ask again. Of a failure it has passed already: the
	// resolver keeps those as long as it sees fit.
	Expires time.Time
}

// MostHosts is how many MX hosts of one domain are looked up, the preferred first.
const MostHosts = 16

// Lookup finds the TLSA records of a domain's MX hosts for a port, in the order
// of mx, all hosts at the same time. The domain is a lower-case A-label.
//
// Hosts that DNSSEC does not secure have none, whatever their zones say: who can
// forge the MX records need not forge those (RFC 7672 §2.2.1). Hosts beyond
// MostHosts have none either, though somebody might have published some for the
// seventeenth host and for none before: to defer a domain's mail for good for the
// number of its hosts would be worse, and that number is DNSSEC-secure.
//
// What r keeps is taken from there at once, on the caller's goroutine; others are
// started for those hosts only of which something has to be asked.
func Lookup(ctx context.Context, r *resolver.Resolver, domain string, mx resolver.MX, port uint16) []Host {
	hosts := make([]Host, len(mx.Hosts))
	var missing []int
	for i, h := range mx.Hosts {
		hosts[i] = Host{Name: h.Name, Expires: mx.Expires}
		switch {
		case !mx.Secure:
			hosts[i].Detail = "DNSSEC does not secure the MX records"
		case i >= MostHosts:
			hosts[i].Detail = fmt.Sprintf("not looked up, after %d hosts", MostHosts)
		default:
			var err error
			if hosts[i], err = find(ctx, r.Kept(), h.Name, port); errors.Is(err, resolver.ErrNotKept) {
				missing = append(missing, i)
			}
		}
	}
	ask(ctx, r, hosts, missing, port)
	names := make([]string, 0, 3*len(hosts))
	for i := range hosts {
		from := len(names)
		names = identifiers(names, hosts[i], domain, mx.Secure)
		hosts[i].Names = slices.Clip(names[from:])
	}
	return hosts
}

// ask looks up those of hosts that are missing, at the same time.
func ask(ctx context.Context, r *resolver.Resolver, hosts []Host, missing []int, port uint16) {
	if len(missing) == 0 {
		return
	}
	var all sync.WaitGroup
	for _, i := range missing[1:] {
		all.Go(func() { hosts[i], _ = find(ctx, r, hosts[i].Name, port) })
	}
	first := &hosts[missing[0]]
	*first, _ = find(ctx, r, first.Name, port)
	all.Wait()
}

// identifiers appends to names those that a host's certificate may be for: the TLSA
// base domain, the host's, and the domain's own, of which only a secure answer says
// that the host stands for it (RFC 7672 §3.2.2).
func identifiers(names []string, h Host, domain string, secure bool) []string {
	from := len(names)
	for _, n := range [...]string{h.Base, h.Name, domain} {
		if n != "" && (n != domain || secure || n == h.Name) && !slices.Contains(names[from:], n) {
			names = append(names, n)
		}
	}
	return names
}

// find looks up one host's records. Its addresses come first, for they tell
// whether its zone is signed at all: servers of unsigned zones often don't answer
// questions of types that they don't know (RFC 7672 §2.2.2). An error, of the
// resolver, is in the Host already.
func find(ctx context.Context, r *resolver.Resolver, name string, port uint16) (h Host, err error) {
	h = Host{Name: name}
	addresses, err := r.Addresses(ctx, name)
	if err != nil {
		return h.failed(err, "its addresses"), err
	}
	h.Expires = addresses.Expires
	if len(addresses.Addrs) == 0 {
		h.Detail = "it has no address"
		return h, nil
	}
	bases, err := candidates(ctx, r, name, addresses)
	if err != nil {
		return h.failed(err, "its alias"), err
	}
	if len(bases) == 0 {
		h.Detail = "DNSSEC does not secure its addresses"
		return h, nil
	}
	h.Detail = "there are no TLSA records that DNSSEC secures"
	for _, base := range bases {
		owner := "_" + strconv.Itoa(int(port)) + "._tcp." + base
		if len(owner) > longestName {
			continue // there can be no such name, and so no record
		}
		tlsa, err := r.TLSA(ctx, owner)
		if err != nil {
			return h.failed(err, "its TLSA records"), err
		}
		if tlsa.Expires.Before(h.Expires) {
			h.Expires = tlsa.Expires
		}
		if !tlsa.Secure || len(tlsa.Records) == 0 {
			continue
		}
		h.Base, h.Records, h.State, h.Detail = base, tlsa.Records, Usable, ""
		if !slices.ContainsFunc(tlsa.Records, canUse) {
			h.State, h.Detail = Unusable, "none of its TLSA records can be used"
		}
		return h, nil
	}
	return h, nil
}

// longestName is that of a domain name in characters (RFC 1035 §2.3.4).
const longestName = 253

// candidates are the TLSA base domains to try, in their order (RFC 7672 §2.2.2).
// Where DNSSEC secures all the way to the addresses, the name behind the aliases
// and then the host's own; where it secures only the host's own alias, that host's
// own; else none.
func candidates(ctx context.Context, r *resolver.Resolver, name string, a resolver.Addresses) ([]string, error) {
	switch {
	case a.Secure && a.Aliased && a.Name != name:
		return []string{a.Name, name}, nil
	case a.Secure:
		return []string{name}, nil
	case !a.Aliased:
		return nil, nil
	}
	alias, err := r.Alias(ctx, name)
	if err != nil || !alias.Secure {
		return nil, err
	}
	return []string{name}, nil
}

// failed is the host after an answer that could not be had.
func (h Host) failed(err error, what string) Host {
	h.State, h.Detail, h.Expires = Failed, fmt.Sprintf("%s cannot be looked up: %s", what, err), time.Now()
	if errors.Is(err, resolver.ErrUnavailable) {
		h.State = Unavailable
	}
	return h
}
