package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// payload is the UDP payload that is announced, in octets: what passes without
// fragments (DNS Flag Day 2020).
const payload = 1232

// attempt is how long one server has for one attempt, unless less is left: in all
// there are two rounds of all servers, the second with what is left.
const attempt = 3 * time.Second

// lookup asks the servers in their order until one has an answer.
//
// Once a server that is believed has failed, and is not just away, those that are
// not believed are not asked any more. Their answer would be an insecure one, and
// bogus signatures or lost questions would have made it so: whoever can bring them
// about could take away what DNSSEC demands.
func (r *Resolver) lookup(ctx context.Context, q question) *answer {
	var last error
	unavailable, bound := true, false
	said := make([]bool, len(r.servers)) // that it failed, and would again
	for round := range 2 {
		for i, server := range r.servers {
			believed := r.BelievesServer(server)
			if ctx.Err() != nil {
				unavailable = false // who was not asked may be there
				break
			}
			if said[i] || bound && !believed {
				continue
			}
			var reply *dns.Msg
			err := errAway
			if !r.vitals.isAway(server) {
				if reply, err = exchange(ctx, q, server, round); err != nil {
					err = r.silent(ctx, server, err)
				}
			}
			if err == nil {
				a := read(reply, q, believed && reply.AuthenticatedData, time.Now())
				if a.err == nil {
					if !believed && r.Believes() {
						// The others are away, and may be back in a moment: what is secure
						// is not to be taken for insecure for as long as a TTL.
						a.expires = earlier(a.expires, time.Now().Add(failureKept))
					}
					return a
				}
				err, said[i] = a.err, true
			}
			if !notThere(err) {
				unavailable, bound = false, bound || believed
			}
			if last == nil || !notThere(err) {
				last = err
			}
		}
		if unavailable {
			break // asking again at once would find nobody either
		}
	}
	return &answer{err: reason(last, unavailable), expires: time.Now().Add(failureKept)}
}

// reason makes one of the package's errors of what the servers came to.
func reason(err error, unavailable bool) error {
	var timeout net.Error
	switch {
	case err == nil:
		return ErrTimeout
	case unavailable:
		return fmt.Errorf("%w (%w)", ErrUnavailable, errno(err))
	case errors.Is(err, ErrTimeout), errors.Is(err, errAway): // and time was up before the others
		return ErrTimeout
	case errors.Is(err, ErrFailed):
		return err
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return ErrTimeout
	}
	return fmt.Errorf("%w: %w", ErrFailed, errno(err))
}

// errno is the error of the kernel in err, without the addresses that an error of
// the net package names.
func errno(err error) error {
	if e := syscall.Errno(0); errors.As(err, &e) {
		return e
	}
	return err
}

// notThere reports whether err says that nobody listens there, or that there is no
// way. One that has answered anything is there.
func notThere(err error) bool {
	return errors.Is(err, errAway) || !errors.Is(err, ErrFailed) && (errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENETUNREACH) ||
		errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.EADDRNOTAVAIL))
}

// exchange asks one server, by UDP and, where its answer does not fit, by TCP.
func exchange(ctx context.Context, q question, server netip.AddrPort, round int) (*dns.Msg, error) {
	query := new(dns.Msg)
	query.SetQuestion(q.name+".", q.kind)
	query.SetEdns0(payload, true)
	query.AuthenticatedData = true // RFC 6840 §5.7
	limit := attempt
	if deadline, ok := ctx.Deadline(); ok && round > 0 {
		limit = time.Until(deadline)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	reply, err := ask(ctx, "udp", query, server)
	if err != nil || !reply.Truncated {
		return reply, err
	}
	reply, err = ask(ctx, "tcp", query, server)
	switch {
	case err != nil && notThere(err):
		return nil, fmt.Errorf("%w: its answer needs TCP, which it does not take", ErrFailed)
	case err == nil && reply.Truncated:
		return nil, fmt.Errorf("%w: its answer does not even fit TCP", ErrFailed)
	}
	return reply, err
}

// strangers is how many datagrams that are no answer to the question are passed
// over: somebody may be guessing at its ID.
const strangers = 100

// ask sends a query and waits for the reply that belongs to it.
func ask(ctx context.Context, network string, query *dns.Msg, server netip.AddrPort) (*dns.Msg, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	link := &dns.Conn{Conn: conn, UDPSize: 65535}
	if err := link.WriteMsg(query); err != nil {
		return nil, err
	}
	for range strangers {
		reply, err := link.ReadMsg()
		// One that was cut may be cut in the middle of a record.
		whole := err == nil || reply != nil && reply.Truncated && network == "udp"
		var broken net.Error
		switch {
		case whole && answers(reply, query):
			return reply, nil
		case errors.As(err, &broken):
			return nil, err
		case network == "tcp": // which nobody else could have written to
			return nil, fmt.Errorf("%w: no answer to the question (%v)", ErrFailed, err)
		}
	}
	return nil, fmt.Errorf("%w: answers to other questions", ErrFailed)
}

// answers reports whether reply is one to query (RFC 5452 §9.1).
func answers(reply, query *dns.Msg) bool {
	return reply.Response && reply.Id == query.Id && len(reply.Question) == 1 &&
		strings.EqualFold(reply.Question[0].Name, query.Question[0].Name) &&
		reply.Question[0].Qtype == query.Question[0].Qtype && reply.Question[0].Qclass == dns.ClassINET
}

// Bounds of one answer.
const (
	mostRecords = 256
	mostAliases = 8
)

// read makes an answer of a reply. An answer without records is one, too: with a
// proof if it is secure.
func read(reply *dns.Msg, q question, secure bool, now time.Time) *answer {
	if reply.Rcode != dns.RcodeSuccess && reply.Rcode != dns.RcodeNameError {
		return &answer{err: fmt.Errorf("%w: %s%s", ErrFailed, rcode(reply.Rcode), extended(reply))}
	}
	if len(reply.Answer) == 0 && !reply.RecursionAvailable && !reply.Authoritative {
		return &answer{err: fmt.Errorf("%w: it does not resolve", ErrFailed)} // but refers to others
	}
	a := &answer{secure: secure, expires: now.Add(mostPositive)}
	for name := q.name + "."; ; {
		alias, err := a.collect(reply, name, q.kind, now)
		if err != nil {
			return &answer{err: err}
		}
		if alias == "" || len(a.records) > 0 {
			break
		}
		if host := strings.TrimSuffix(alias, "."); !hostname(host) || len(a.aliases) == mostAliases || slices.Contains(a.aliases, host) {
			return &answer{err: fmt.Errorf("%w: an alias that leads nowhere", ErrFailed)}
		}
		a.aliases = append(a.aliases, strings.TrimSuffix(alias, "."))
		name = alias
	}
	if len(a.records) == 0 {
		a.expires = earlier(a.expires, now.Add(negative(reply)))
	}
	a.expires = later(a.expires, now.Add(leastKept))
	return a
}

// collect takes what a reply has of one name and kind, and tells the name that this
// one is an alias of. Both names have the trailing dot.
func (a *answer) collect(reply *dns.Msg, name string, kind uint16, now time.Time) (alias string, err error) {
	for _, rr := range reply.Answer {
		h := rr.Header()
		cname, is := rr.(*dns.CNAME)
		if h.Class != dns.ClassINET || !strings.EqualFold(h.Name, name) || h.Rrtype != kind && !is {
			continue
		}
		if h.Rdlength == 0 {
			// The library makes an empty record of it, which would say something: an
			// MX without a host, that there is none (RFC 7505).
			return "", fmt.Errorf("%w: a record without data", ErrFailed)
		}
		if h.Rrtype != kind {
			alias = strings.ToLower(cname.Target)
		} else if len(a.records) < mostRecords {
			a.records = append(a.records, rr)
		}
		a.expires = earlier(a.expires, now.Add(lifetime(h.Ttl)))
	}
	return alias, nil
}

// lifetime reads a TTL, of which the first bit is no part (RFC 2181 §8).
func lifetime(ttl uint32) time.Duration {
	if ttl >= 1<<31 {
		return 0
	}
	return time.Duration(ttl) * time.Second
}

func rcode(code int) string {
	if name, ok := dns.RcodeToString[code]; ok {
		return name
	}
	return fmt.Sprintf("code %d", code)
}

// extended gives the first extended error that a server added (RFC 8914), in words
// of our own and not in those that it may have added: " (…)".
func extended(reply *dns.Msg) string {
	opt := reply.IsEdns0()
	if opt == nil {
		return ""
	}
	for _, o := range opt.Option {
		if e, ok := o.(*dns.EDNS0_EDE); ok {
			if word, known := dns.ExtendedErrorCodeToString[e.InfoCode]; known {
				return ", " + word
			}
		}
	}
	return ""
}

// negative is how long it is kept that there is nothing (RFC 2308 §5).
func negative(reply *dns.Msg) time.Duration {
	for _, rr := range reply.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(mostNegative, lifetime(min(soa.Minttl, soa.Hdr.Ttl)))
		}
	}
	return failureKept
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
