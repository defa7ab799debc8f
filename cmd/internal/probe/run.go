package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"postern/enforce"
	"postern/enforce/dane"
	"postern/enforce/mtasts"
	"postern/enforce/published"
	"postern/enforce/resolver"
)

// A prober is one run.
type prober struct {
	Options
	caller
	directory *published.Directory
	now       time.Time
	mxOf      map[netip.Addr][]string // of the domains in to_mx_of

	published chan struct{} // closed when what follows is there
	listing   published.Listing
	hosts     []dane.Host

	mu sync.Mutex // held where Finished is called
}

// Run looks at all that o asks for, until the context ends; what is not known then
// is left out or said to be unknown. The error is for Options that make no sense.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Policy == nil || o.Known.Resolver == nil || o.Known.Verify == nil || o.Port == 0 ||
		o.Host == "" && !o.Address.IsValid() && o.Domain == "" {
		return nil, errors.New("probe: nothing to look at, or nothing to judge by")
	}
	if o.Patience <= 0 {
		o.Patience = perConnection
	}
	p := &prober{
		Options:   o,
		caller:    caller{helo: o.Helo, patience: o.Patience, turn: make(chan struct{}, atOnce), there: map[netip.AddrPort]chan struct{}{}},
		directory: published.New(o.Known.Resolver, o.Known.Policies),
		now:       time.Now(),
		published: make(chan struct{}),
	}
	r := &Report{Kind: "domain", Domain: o.Domain, Port: o.Port, Hosts: []Host{}}
	p.target(ctx, r)
	var aside sync.WaitGroup
	aside.Go(func() { p.consult(ctx) })
	p.mxOf = p.followed(ctx)
	p.visit(ctx, r)
	aside.Wait()
	p.conclude(r)
	return r, nil
}

// target settles which hosts there are.
func (p *prober) target(ctx context.Context, r *Report) {
	switch {
	case p.Address.IsValid():
		r.Kind, r.Hosts = "host", []Host{{Addresses: []Address{}}}
		r.Target = netip.AddrPortFrom(p.Address, p.Port).String()
		return
	case p.Host != "":
		r.Kind, r.Hosts, r.Target = "host", []Host{{Name: p.Host, Addresses: []Address{}}}, p.Host
		return
	}
	r.Target = p.Domain
	mx, err := p.Known.Resolver.MX(ctx, p.Domain)
	r.MX = &MX{State: "found", Secure: mx.Secure}
	switch {
	case err != nil:
		r.MX.State, r.MX.Detail = "failed", quote(err.Error())
	case mx.Null:
		r.MX.State, r.MX.Detail = "null", "it says that it takes no mail (RFC 7505)"
	case len(mx.Hosts) == 0:
		r.MX.State, r.MX.Detail = "none", "it has neither an MX record nor an address"
	case mx.Implicit:
		r.MX.State, r.MX.Detail = "implicit", "it has no MX record, so that its own address takes its mail (RFC 5321 §5.1)"
	}
	for _, h := range mx.Hosts[:min(len(mx.Hosts), mostHosts)] {
		preference := h.Preference
		r.Hosts = append(r.Hosts, Host{Name: h.Name, Preference: &preference, Addresses: []Address{}})
	}
	if more := len(mx.Hosts) - mostHosts; more > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("%d more hosts were left out", more))
	}
}

// consult asks what the domain, and each host, publishes.
func (p *prober) consult(ctx context.Context) {
	defer close(p.published)
	var both sync.WaitGroup
	if p.Domain != "" {
		both.Go(func() {
			p.listing = p.directory.Look(ctx, p.Domain, p.Port, enforce.Auto{DANE: true, MTASTS: true})
		})
	}
	if p.Host != "" {
		// Not under the domain's name: that this host is one of its hosts is said by
		// who asks, and not by DNS.
		mx := resolver.MX{Secure: true, Hosts: []resolver.MXHost{{Name: p.Host}}, Expires: p.now.Add(time.Hour)}
		both.Go(func() { p.hosts = dane.Lookup(ctx, p.Known.Resolver, p.Host, mx, p.Port) })
	}
	both.Wait()
	if p.Host == "" && !p.Address.IsValid() {
		p.hosts = p.listing.Hosts
	}
}

// followed finds the addresses of the MX hosts of the domains that rules name.
func (p *prober) followed(ctx context.Context) map[netip.Addr][]string {
	found := map[netip.Addr][]string{}
	var mu sync.Mutex
	var all errgroup.Group
	all.SetLimit(atOnce)
	for _, domain := range p.Policy.MXDomains() {
		all.Go(func() error {
			mx, err := p.Known.Resolver.MX(ctx, domain)
			if err != nil {
				return nil // as a proxy that has just begun
			}
			for _, h := range mx.Hosts[:min(len(mx.Hosts), mostHosts)] {
				addresses, err := p.Known.Resolver.Addresses(ctx, h.Name)
				if err != nil {
					continue
				}
				mu.Lock()
				for _, a := range addresses.Addrs {
					if !slices.Contains(found[a], domain) {
						found[a] = append(found[a], domain)
					}
				}
				mu.Unlock()
			}
			return nil
		})
	}
	_ = all.Wait()
	return found
}

// visit goes to every address of every host.
func (p *prober) visit(ctx context.Context, r *Report) {
	var lookups, visits sync.WaitGroup
	addresses := make([][]netip.Addr, len(r.Hosts))
	for i := range r.Hosts {
		lookups.Go(func() { addresses[i] = p.addresses(ctx, &r.Hosts[i]) })
	}
	lookups.Wait()
	for i := range r.Hosts {
		h := &r.Hosts[i]
		h.Addresses = make([]Address, len(addresses[i]))
		for n, a := range addresses[i] {
			to := netip.AddrPortFrom(a, p.Port)
			if p.there[to] == nil {
				p.there[to] = make(chan struct{}, atOnceThere)
			}
			h.Addresses[n].Address = to.String()
		}
	}
	for i := range r.Hosts {
		h := &r.Hosts[i]
		for n, a := range addresses[i] {
			s := &sitting{prober: p, name: h.Name, place: i, to: netip.AddrPortFrom(a, p.Port), out: &h.Addresses[n]}
			visits.Go(func() {
				s.sit(ctx)
				p.mu.Lock()
				defer p.mu.Unlock()
				if p.Finished != nil {
					p.Finished(s.name, s.out)
				}
			})
		}
	}
	visits.Wait()
}

// addresses gives those of a host, and says why there are none.
func (p *prober) addresses(ctx context.Context, h *Host) []netip.Addr {
	if h.Name == "" {
		return []netip.Addr{p.Address}
	}
	found, err := p.Known.Resolver.Addresses(ctx, h.Name)
	switch {
	case err != nil:
		h.Detail = "its addresses cannot be looked up: " + quote(err.Error())
	case len(found.Addrs) == 0:
		h.Detail = "it has no address"
	case len(found.Addrs) > mostAddresses:
		h.Detail = fmt.Sprintf("%d more addresses were left out", len(found.Addrs)-mostAddresses)
	}
	return found.Addrs[:min(len(found.Addrs), mostAddresses)]
}

// conclude adds what holds for more than one address.
func (p *prober) conclude(r *Report) {
	if p.Domain != "" {
		r.MTASTS = policyOf(p.listing.Policy)
	}
	for i := range r.Hosts {
		h := &r.Hosts[i]
		if i < len(p.hosts) {
			h.DANE = daneOf(p.hosts[i])
		}
		if p.listing.Policy.State == mtasts.Found && h.Name != "" && p.listing.Policy.Mode != mtasts.ModeNone {
			allows := p.listing.Policy.MatchMX(h.Name)
			h.MTASTS = &allows
		}
		for _, a := range h.Addresses {
			if a.Reached {
				r.Reached++
			}
			switch {
			case a.Verdict == nil:
			case a.Verdict.Reason != "":
				r.Refused++
			case a.Verdict.Verdict == unknown:
				r.Unknown++
			}
		}
	}
	r.Fine = r.Reached > 0 && r.Refused == 0 && r.Unknown == 0
	if p.Domain == "" {
		r.Notes = append(r.Notes, "no recipient domain was given: rules for domains, and what a domain publishes, were not judged")
	}
}
