package published

import (
	"context"
	"crypto/x509"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"postern/enforce"
	"postern/enforce/dane"
	"postern/enforce/mtasts"
	"postern/enforce/resolver"
)

// A Directory finds what domains publish. Its methods may be called by any number
// of sessions at once.
type Directory struct {
	resolver *resolver.Resolver
	policies *mtasts.Cache // nil: none are had
}

// New makes a Directory that asks r, and policies (nil: no domain has any).
func New(r *resolver.Resolver, policies *mtasts.Cache) *Directory {
	return &Directory{r, policies}
}

// A Server is who is held against what a domain publishes.
type Server struct {
	Address netip.AddrPort
	Chain   []*x509.Certificate // what it showed, the leaf first; empty without TLS
	Named   bool                // it matters whether the certificate is for an MX host
}

// A Listing is what a domain publishes.
type Listing struct {
	Domain string
	MX     resolver.MX
	MXErr  error       // why there is none; errors.Is tells those of resolver
	Hosts  []dane.Host // nil where DANE was not asked about
	Policy mtasts.Policy
	// PolicyErr: it is not known yet whether there is one.
	PolicyErr error
	asked     enforce.Auto
}

// Look finds what domain publishes, a lower-case A-label, for servers at port.
// Only the parts that are asked for are looked up, at the same time. It takes no
// longer than the context; what is not there then is there for who asks later.
// What is known already it gives without starting anything.
func (d *Directory) Look(ctx context.Context, domain string, port uint16, parts enforce.Auto) Listing {
	l := Listing{Domain: domain, asked: parts}
	if parts.MTASTS && d.policies != nil {
		var known bool
		if l.Policy, known = d.policies.Recall(domain); !known {
			return d.lookBoth(ctx, l, port)
		}
	}
	l.MX, l.Hosts, l.MXErr = d.records(ctx, domain, port, parts)
	return l
}

// lookBoth asks for the policy beside the records.
func (d *Directory) lookBoth(ctx context.Context, l Listing, port uint16) Listing {
	var policy sync.WaitGroup
	policy.Go(func() { l.Policy, l.PolicyErr = d.policies.Policy(ctx, l.Domain) })
	l.MX, l.Hosts, l.MXErr = d.records(ctx, l.Domain, port, l.asked)
	policy.Wait()
	return l
}

// records are those of DNS.
func (d *Directory) records(ctx context.Context, domain string, port uint16, parts enforce.Auto) (mx resolver.MX, hosts []dane.Host, err error) {
	mx, err = d.resolver.MX(ctx, domain)
	if err == nil && parts.DANE && !mx.Null {
		hosts = dane.Lookup(ctx, d.resolver, domain, mx, port)
	}
	return mx, hosts, err
}

// Held is what came of holding a domain's listing against a server.
type Held struct {
	enforce.Published
	// Names are the hosts that the domain would have its mail given to: of those
	// that its policy or its records allow, those at the server's address, or all
	// where none is. They are left out where nothing depends on them.
	Names []string
}

// Hold holds a listing against a server, at the time now. It may ask for addresses
// of the MX hosts, within the context.
func (d *Directory) Hold(ctx context.Context, l Listing, s Server, now time.Time) Held {
	h := Held{Published: enforce.Published{Domain: l.Domain}}
	h.MX, h.Detail = mxState(l)
	if l.asked.DANE {
		h.DANE = daneState(l, s, now)
	}
	var here []string
	if h.MX == enforce.MXKnown && (s.Named || l.binds()) {
		here, h.Names = d.names(ctx, l, s.Address.Addr())
	}
	h.NamesHost = len(s.Chain) > 0 && enforce.MatchNames(s.Chain[0].DNSNames, h.Names)
	if l.asked.MTASTS && l.PolicyErr != nil && l.Policy.State != mtasts.Found {
		h.MTASTS = enforce.MTASTS{State: enforce.MTASTSUnanswered, Detail: "it is not known yet whether it has an MTA-STS policy"}
	} else if l.asked.MTASTS {
		h.MTASTS = policyState(l.Policy, here, s)
		if l.Policy.State == mtasts.Found && !(h.MTASTS.MXMatches && h.MTASTS.CertificateMatches) {
			// A policy that is kept may be an old one: it is looked at again before
			// mail is refused by it (RFC 8461 §5.1).
			if fresh, err := d.policies.Fresh(ctx, l.Domain); err == nil {
				h.MTASTS = policyState(fresh, here, s)
			}
		}
	}
	return h
}

// binds reports whether the domain publishes anything that names hosts. Most do not,
// and the addresses of their MX hosts are nobody's business.
func (l Listing) binds() bool {
	return l.Policy.State == mtasts.Found || slices.ContainsFunc(l.Hosts, func(h dane.Host) bool { return h.State == dane.Usable })
}

func mxState(l Listing) (enforce.MXState, string) {
	switch {
	case errors.Is(l.MXErr, resolver.ErrUnavailable):
		return enforce.MXUnavailable, l.MXErr.Error()
	case l.MXErr != nil:
		return enforce.MXFailed, l.MXErr.Error()
	case l.MX.Null:
		return enforce.MXNone, "it takes no mail (null MX)"
	case len(l.MX.Hosts) == 0:
		return enforce.MXNone, "it has no MX host and no address"
	}
	return enforce.MXKnown, ""
}

// daneState holds a chain against the records of all MX hosts: those of one have
// to match.
func daneState(l Listing, s Server, now time.Time) enforce.DANE {
	if l.MXErr != nil {
		state := enforce.DANEFailed
		if errors.Is(l.MXErr, resolver.ErrUnavailable) {
			state = enforce.DANEUnavailable
		}
		return enforce.DANE{State: state, Detail: l.MXErr.Error()}
	}
	worst := enforce.DANE{State: enforce.DANENone, Detail: "no TLSA records that DNSSEC secures"}
	for _, host := range l.Hosts {
		one := enforce.DANE{Host: host.Name, Detail: host.Detail}
		switch host.State {
		case dane.Usable:
			var ok bool
			if ok, one.Detail = dane.Match(host.Records, s.Chain, host.Names, now); ok {
				one.State = enforce.DANEMatches
				return one
			}
			one.State = enforce.DANEDiffers
		case dane.Unusable:
			one.State = enforce.DANEUnusable
		case dane.Failed:
			one.State = enforce.DANEFailed
		case dane.Unavailable:
			one.State = enforce.DANEUnavailable
		default:
			continue
		}
		if graver(one.State, worst.State) {
			worst = one
		}
	}
	return worst
}

// graver orders what hosts came to where none matches: what is not known could
// have been a match or not, so it is waited for.
func graver(a, b enforce.DANEState) bool {
	order := []enforce.DANEState{enforce.DANENone, enforce.DANEUnavailable, enforce.DANEUnusable, enforce.DANEDiffers, enforce.DANEFailed}
	return slices.Index(order, a) > slices.Index(order, b)
}

func policyState(p mtasts.Policy, here []string, s Server) enforce.MTASTS {
	m := enforce.MTASTS{Detail: p.Detail}
	switch p.State {
	case mtasts.NoPolicy:
		m.State = enforce.MTASTSNone
	case mtasts.FetchFailed:
		m.State = enforce.MTASTSFailed
	case mtasts.Invalid:
		m.State = enforce.MTASTSInvalid
	case mtasts.Found:
		switch p.Mode {
		case mtasts.ModeNone:
			m.State = enforce.MTASTSModeNone
		case mtasts.ModeTesting:
			m.State = enforce.MTASTSTesting
		case mtasts.ModeEnforce:
			m.State = enforce.MTASTSEnforce
		}
		m.Detail = ""
		m.MXMatches = len(here) == 0 || slices.ContainsFunc(here, p.MatchMX)
		m.CertificateMatches = len(s.Chain) > 0 && p.MatchCertificate(s.Chain[0].DNSNames)
		if !m.MXMatches {
			m.Detail = "the MTA-STS policy does not name " + here[0]
		}
	}
	return m
}

// names gives the MX hosts at an address, and those to ask a server there for.
func (d *Directory) names(ctx context.Context, l Listing, at netip.Addr) (here, wanted []string) {
	addresses := d.addresses(ctx, l)
	var all []string
	for i, host := range l.MX.Hosts {
		all = append(all, host.Name)
		if slices.Contains(addresses[i], at) {
			here = append(here, host.Name)
		}
	}
	wanted = all
	if len(here) > 0 {
		wanted = here
	}
	return here, based(l, allowed(l, wanted))
}

// based puts the TLSA base domain in place of each host that has one: by that it is
// asked for (RFC 7672 §8.1), where it is an alias.
func based(l Listing, hosts []string) []string {
	named := slices.Clone(hosts)
	for i, name := range named {
		for _, h := range l.Hosts {
			if h.Name == name && h.State == dane.Usable && h.Base != "" {
				named[i] = h.Base
			}
		}
	}
	return named
}

// allowed leaves of hosts those that have records, or else that the policy names,
// if there are any.
func allowed(l Listing, hosts []string) []string {
	for _, may := range []func(string) bool{
		func(name string) bool {
			return slices.ContainsFunc(l.Hosts, func(h dane.Host) bool { return h.Name == name && h.State == dane.Usable })
		},
		func(name string) bool { return l.Policy.State == mtasts.Found && l.Policy.MatchMX(name) },
	} {
		if some := slices.DeleteFunc(slices.Clone(hosts), func(h string) bool { return !may(h) }); len(some) > 0 {
			return some
		}
	}
	return hosts
}

// mostAsked bounds how many MX hosts' addresses are asked for.
const mostAsked = 16

// addresses gives those of each MX host, as far as they can be had.
func (d *Directory) addresses(ctx context.Context, l Listing) [][]netip.Addr {
	found := make([][]netip.Addr, len(l.MX.Hosts))
	var missing []int
	for i, host := range l.MX.Hosts[:min(len(l.MX.Hosts), mostAsked)] {
		a, err := d.resolver.Kept().Addresses(ctx, host.Name)
		if found[i] = a.Addrs; errors.Is(err, resolver.ErrNotKept) {
			missing = append(missing, i)
		}
	}
	if len(missing) > 0 {
		d.askAddresses(ctx, l.MX.Hosts, missing, found)
	}
	return found
}

// askAddresses asks for those that are missing, at the same time. An error leaves
// none.
func (d *Directory) askAddresses(ctx context.Context, hosts []resolver.MXHost, missing []int, found [][]netip.Addr) {
	var all sync.WaitGroup
	for _, i := range missing {
		all.Go(func() {
			a, _ := d.resolver.Addresses(ctx, hosts[i].Name)
			found[i] = a.Addrs
		})
	}
	all.Wait()
}

// Hosts gives the MX hosts of domain: of those at an address if there are any.
func (d *Directory) Hosts(ctx context.Context, domain string, at netip.Addr) []string {
	l := d.Look(ctx, domain, 0, enforce.Auto{})
	if state, _ := mxState(l); state != enforce.MXKnown {
		return nil
	}
	_, wanted := d.names(ctx, l, at)
	return wanted
}
