package proxy

import (
	"net/netip"
	"sync"

	"go.uber.org/zap"

	"postern/enforce"
)

// complaints counts clients that refuse the certificates they are shown: they
// check DANE or MTA-STS themselves, or are Exchange talking to Exchange, and no
// certificate of Postern's will do for them.
type complaints struct {
	mu    sync.Mutex
	count map[netip.Addr]int
}

// mostComplaining bounds how many clients are counted, IPv6 by /64; those beyond
// are in the records alone.
const mostComplaining = 4096

// add counts one refusal and reports the count, and whether it is worth telling of:
// the first, the tenth, the hundredth and so on.
func (c *complaints) add(client netip.Addr) (count int, tell bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := sourceOf(client)
	if _, known := c.count[key]; !known && len(c.count) >= mostComplaining {
		return 0, false
	}
	if c.count == nil {
		c.count = map[netip.Addr]int{}
	}
	c.count[key]++
	return c.count[key], powerOfTen(c.count[key])
}

func powerOfTen(n int) bool {
	for n%10 == 0 && n > 0 {
		n /= 10
	}
	return n == 1
}

// tell is session.Snapshot.Complained: it logs what would mend it.
func (c *complaints) tell(log *zap.Logger) func(enforce.Connection) {
	return func(who enforce.Connection) {
		if count, tell := c.add(who.Client); tell {
			log.Warn("a client refuses the certificate that it is shown: it may check DANE or MTA-STS itself, or be Exchange that talks to Exchange",
				zap.Stringer("client", who.Client), zap.Stringer("upstream", who.Upstream), zap.Int("count", count),
				zap.String("mend", `[[rule]] name = "watched" from_networks = ["`+who.Client.String()+`"] inspect = "watch" owner = "…" expires = …; or bypass = ["`+who.Client.String()+`"] in [intercept]`))
		}
	}
}
