package resolver

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// A server that is silent about one name may be waiting for others that are, which
// somebody may have brought about; one that is silent about everything is not there,
// behind a firewall of this machine perhaps. The two are told apart by a question
// that takes nobody else to answer: one that must not be passed on (RD clear, RFC
// 1035 §4.1.1). Whatever comes back is a sign of life.

// How long such a question waits, and for how long its outcome holds.
const (
	signOfLife = time.Second
	awayFor    = 30 * time.Second
)

var errAway = errors.New("no sign of life")

// vitals are what is known of the servers' lives.
type vitals struct {
	mu   sync.Mutex
	away map[netip.AddrPort]time.Time // until when it is not asked
}

func (v *vitals) isAway(server netip.AddrPort) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return time.Now().Before(v.away[server])
}

func (v *vitals) setAway(server netip.AddrPort) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.away == nil {
		v.away = map[netip.AddrPort]time.Time{}
	}
	v.away[server] = time.Now().Add(awayFor)
}

// silent makes errAway of the silence of a server that gives no sign of life. Of one
// that is believed and is not on this machine silence is taken for no such thing:
// who stands in between could make it.
func (r *Resolver) silent(ctx context.Context, server netip.AddrPort, err error) error {
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() || r.BelievesServer(server) && !server.Addr().Unmap().IsLoopback() {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), signOfLife)
	defer cancel()
	query := new(dns.Msg)
	query.SetQuestion(".", dns.TypeNS)
	query.RecursionDesired = false
	if _, err := ask(ctx, "udp", query, server); err == nil {
		return errors.Join(ErrTimeout, errors.New("it is there"))
	} else if errors.As(err, &timeout) && timeout.Timeout() || notThere(err) {
		r.vitals.setAway(server)
		return errAway
	}
	return err
}
