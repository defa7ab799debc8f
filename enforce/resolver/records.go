package resolver

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// An MX is who takes a domain's mail.
type MX struct {
	Hosts   []MXHost // the preferred first; none: the domain takes no mail, or does not exist
	Null    bool     // it says that it takes none (RFC 7505)
	Secure  bool     // DNSSEC secures the answer, or that there is none; not the addresses of an Implicit one
	Expires time.Time
	// Implicit: there is no MX record but an address, so that the domain itself is
	// the one host (RFC 5321 §5.1).
	Implicit bool
}

// An MXHost is one of the hosts that take a domain's mail.
type MXHost struct {
	Name       string // lower case, without the trailing dot
	Preference uint16
}

// mostHosts bounds the MX hosts of one domain.
const mostHosts = 64

// MX gives the MX hosts of a domain, a lower-case A-label.
func (r *Resolver) MX(ctx context.Context, domain string) (MX, error) {
	a, err := r.ask(ctx, domain, dns.TypeMX)
	if err != nil {
		return MX{}, err
	}
	mx := MX{Secure: a.secure, Expires: a.expires}
	for i, rr := range a.records {
		record := rr.(*dns.MX)
		name := strings.TrimSuffix(strings.ToLower(record.Mx), ".")
		switch {
		case name == "" && len(a.records) == 1:
			mx.Null = true
		case hostname(name):
			mx.Hosts = append(slices.Grow(mx.Hosts, len(a.records)-i), MXHost{name, record.Preference})
		}
	}
	slices.SortStableFunc(mx.Hosts, func(a, b MXHost) int { return cmp.Compare(a.Preference, b.Preference) })
	mx.Hosts = once(mx.Hosts)
	if len(a.records) > 0 {
		return mx, nil
	}
	addresses, err := r.Addresses(ctx, domain)
	if err != nil {
		return MX{}, err
	}
	mx.Expires = earlier(mx.Expires, addresses.Expires)
	if len(addresses.Addrs) > 0 {
		mx.Implicit, mx.Hosts = true, []MXHost{{Name: domain}}
	}
	return mx, nil
}

// once leaves each host where it is preferred most, and mostHosts of them.
func once(hosts []MXHost) []MXHost {
	left := hosts[:0]
	for _, h := range hosts {
		if !slices.ContainsFunc(left, func(known MXHost) bool { return known.Name == h.Name }) {
			left = append(left, h)
		}
		if len(left) == mostHosts {
			break
		}
	}
	return left
}

// Addresses are those of a host.
type Addresses struct {
	Addrs   []netip.Addr
	Name    string // of the host behind all aliases; its own where there is none
	Aliased bool   // there are aliases
	Secure  bool   // DNSSEC secures all that came, aliases and denials too; see [Resolver.Addresses]
	Expires time.Time
}

// Addresses gives the addresses of a host, a lower-case A-label, of both families.
//
// That one of them cannot be had is no error where the other has some. Those are
// Secure then if DNSSEC secures them: who keeps the other's answer away must not
// make a signed zone look like an unsigned one.
func (r *Resolver) Addresses(ctx context.Context, host string) (Addresses, error) {
	answers, errs := r.families(ctx, host)
	found := Addresses{Name: host, Secure: true}
	for i, a := range answers {
		switch {
		case errors.Is(errs[i], ErrNotKept): // what the other has is not all then
			return Addresses{}, ErrNotKept
		case errs[i] != nil:
			found.Expires = sooner(found.Expires, time.Now().Add(failureKept))
			continue
		}
		found.Secure = found.Secure && a.secure
		found.Expires = sooner(found.Expires, a.expires)
		if n := len(a.aliases); n > 0 {
			found.Name, found.Aliased = a.aliases[n-1], true
		}
		found.Addrs = slices.Grow(found.Addrs, len(a.records))
		for _, rr := range a.records {
			if address := addressOf(rr); address.IsValid() {
				found.Addrs = append(found.Addrs, address)
			}
		}
	}
	if err := cmp.Or(errs[0], errs[1]); err != nil && len(found.Addrs) == 0 {
		return Addresses{}, err
	}
	return found, nil
}

// families answers for both families of addresses, A first. Only where neither is
// kept are they asked for at the same time, by a second goroutine.
func (r *Resolver) families(ctx context.Context, host string) (answers [2]*answer, errs [2]error) {
	answers[0], errs[0] = r.kept.ask(ctx, host, dns.TypeA)
	answers[1], errs[1] = r.kept.ask(ctx, host, dns.TypeAAAA)
	first, second := errors.Is(errs[0], ErrNotKept), errors.Is(errs[1], ErrNotKept)
	switch {
	case r.kept == r:
	case first && second:
		return r.askFamilies(ctx, host)
	case first:
		answers[0], errs[0] = r.ask(ctx, host, dns.TypeA)
	case second:
		answers[1], errs[1] = r.ask(ctx, host, dns.TypeAAAA)
	}
	return answers, errs
}

func (r *Resolver) askFamilies(ctx context.Context, host string) (answers [2]*answer, errs [2]error) {
	var other sync.WaitGroup
	other.Go(func() { answers[0], errs[0] = r.ask(ctx, host, dns.TypeA) })
	answers[1], errs[1] = r.ask(ctx, host, dns.TypeAAAA)
	other.Wait()
	return answers, errs
}

// sooner is the earlier of two times, of which the first may be none.
func sooner(t, other time.Time) time.Time {
	if t.IsZero() {
		return other
	}
	return earlier(t, other)
}

func addressOf(rr dns.RR) netip.Addr {
	switch record := rr.(type) {
	case *dns.A:
		address, _ := netip.AddrFromSlice(record.A.To4())
		return address
	case *dns.AAAA:
		address, _ := netip.AddrFromSlice(record.AAAA.To16())
		return address
	}
	return netip.Addr{}
}

// An Alias is where the CNAME record of a name itself leads, not that of another
// behind it.
type Alias struct {
	Target  string // empty: there is none
	Secure  bool
	Expires time.Time
}

// Alias gives the CNAME record of a name. Of a name whose alias leads out of what
// DNSSEC secures this is what tells whether it stands in it itself.
func (r *Resolver) Alias(ctx context.Context, name string) (Alias, error) {
	a, err := r.ask(ctx, name, dns.TypeCNAME)
	if err != nil {
		return Alias{}, err
	}
	alias := Alias{Secure: a.secure, Expires: a.expires}
	for _, rr := range a.records {
		alias.Target = strings.TrimSuffix(strings.ToLower(rr.(*dns.CNAME).Target), ".")
	}
	return alias, nil
}

// A TXT is the text records of a name.
type TXT struct {
	Records []string // the strings of each, joined: any octets, as they were sent
	Secure  bool
	Expires time.Time
}

// TXT gives the text records of a name.
func (r *Resolver) TXT(ctx context.Context, name string) (TXT, error) {
	a, err := r.ask(ctx, name, dns.TypeTXT)
	if err != nil {
		return TXT{}, err
	}
	txt := TXT{Secure: a.secure, Expires: a.expires}
	for _, rr := range a.records {
		txt.Records = append(txt.Records, unescape(strings.Join(rr.(*dns.TXT).Txt, "")))
	}
	return txt, nil
}

// unescape undoes the escapes of zone files (RFC 1035 §5.1), in which the library
// gives strings.
func unescape(text string) string {
	if !strings.Contains(text, `\`) {
		return text
	}
	var plain strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			plain.WriteByte(text[i])
			continue
		}
		i++
		if number, err := strconv.ParseUint(text[i:min(i+3, len(text))], 10, 8); err == nil && i+3 <= len(text) {
			plain.WriteByte(byte(number))
			i += 2
		} else {
			plain.WriteByte(text[i])
		}
	}
	return plain.String()
}

// A TLSA is the TLSA records of a name (RFC 6698 §2).
type TLSA struct {
	Records []TLSARecord
	Secure  bool
	Expires time.Time
}

// A TLSARecord is one association of a service with a certificate or key.
type TLSARecord struct {
	Usage, Selector, MatchingType uint8
	Data                          []byte
}

// TLSA gives the TLSA records of a name, "_25._tcp.mx.example.com".
func (r *Resolver) TLSA(ctx context.Context, name string) (TLSA, error) {
	a, err := r.ask(ctx, name, dns.TypeTLSA)
	if err != nil {
		return TLSA{}, err
	}
	tlsa := TLSA{Secure: a.secure, Expires: a.expires}
	for i, rr := range a.records {
		record := rr.(*dns.TLSA)
		if data, err := hex.DecodeString(record.Certificate); err == nil {
			tlsa.Records = append(slices.Grow(tlsa.Records, len(a.records)-i), TLSARecord{record.Usage, record.Selector, record.MatchingType, data})
		}
	}
	return tlsa, nil
}
