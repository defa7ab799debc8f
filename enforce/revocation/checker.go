package revocation

import (
	"context"
	"crypto/x509"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// Options say how a Checker asks and how much it keeps. The zero value of a field
// stands for its default.
type Options struct {
	Dial    DialFunc      // by default that of a net.Dialer
	Timeout time.Duration // for one address, with its redirects; 10 s
	Entries int           // certificates and lists that are kept; 8192
	Octets  int           // that these take in memory; 64 MiB
	Fetches int           // certificates that are asked about at one time; 128
}

// A Checker says whether certificates were revoked. Its methods may be called by
// any number of sessions at once.
type Checker struct {
	web   *web
	cache *cache

	links, lists singleflight.Group // by key: who asks the same waits for the same

	ctx  context.Context // of what is fetched: no session's
	stop context.CancelFunc

	mu      sync.Mutex
	running int
	most    int
	closed  bool
	done    sync.WaitGroup
}

// New gives a Checker. Close ends what it does in the background.
func New(o Options) *Checker {
	c := &Checker{
		web:   newWeb(o.Dial, or(o.Timeout, 10*time.Second)),
		cache: newCache(or(o.Entries, 8192), or(o.Octets, 64<<20)),
		most:  or(o.Fetches, 128),
	}
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c
}

func or[T int | time.Duration](value, otherwise T) T {
	if value <= 0 {
		return otherwise
	}
	return value
}

// Close gives up what is being fetched and waits for its end. A Checker that is
// closed goes on saying what it knows.
func (c *Checker) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop()
	c.done.Wait()
}

// Check says whether a certificate of the chain was revoked, at the time now. The
// chain is one that crypto/x509 verified, the leaf first and the root last; the
// root itself is not asked about. The staple is the OCSP answer of the handshake,
// and may be empty.
//
// It waits for answers that are not known yet until the context ends; they are
// still fetched then, for who asks next. A chain of a root alone is Good.
func (c *Checker) Check(ctx context.Context, chain []*x509.Certificate, staple []byte, now time.Time) Result {
	return c.check(chain, staple, now, func(open []link) []Result {
		waits := make([]<-chan singleflight.Result, len(open))
		for i, l := range open {
			waits[i] = c.begin(l, now)
		}
		results := make([]Result, len(open))
		for i, l := range open {
			select {
			case r := <-waits[i]:
				results[i] = r.Val.(Result)
			case <-ctx.Done():
				results[i] = l.unknown("there is no answer yet")
			}
		}
		return results
	})
}

// Cached says what is known without asking anybody, and whether that is all: a
// question that failed a short time ago counts as answered, by Unknown.
func (c *Checker) Cached(chain []*x509.Certificate, staple []byte, now time.Time) (Result, bool) {
	all := true
	r := c.check(chain, staple, now, func(open []link) []Result {
		all = false
		results := make([]Result, len(open))
		for i, l := range open {
			results[i] = l.unknown("nobody has been asked yet")
		}
		return results
	})
	return r, all
}

// Start begins to fetch what is not known of the chain, or has to be renewed soon,
// and returns at once. What would go beyond the bounds is left for another time.
func (c *Checker) Start(chain []*x509.Certificate, staple []byte, now time.Time) {
	for _, l := range linksOf(chain, staple, now) {
		if _, known := c.known(l, now); !known || c.stale(l, now) {
			c.begin(l, now)
		}
	}
}

// check gathers what is known and lets missing find the rest, unless a certificate
// is already known to be revoked.
func (c *Checker) check(chain []*x509.Certificate, staple []byte, now time.Time, missing func([]link) []Result) Result {
	links := linksOf(chain, staple, now)
	switch {
	case len(chain) == 0:
		return unknown("there is no verified chain")
	case len(links) == 0:
		return Result{State: Good, Detail: "the certificate is itself a root"}
	}
	results := make([]Result, len(links))
	var open []link
	var places []int // of what is open
	revoked := false
	for i, l := range links {
		var known bool
		if results[i], known = c.known(l, now); !known {
			open, places = append(open, l), append(places, i)
		}
		revoked = revoked || results[i].State == Revoked
	}
	if len(open) > 0 && !revoked {
		for i, r := range missing(open) {
			results[places[i]] = r
		}
	}
	return stapleNoted(links[0], join(results))
}

// stapleNoted adds what was wrong with the stapled answer, where it matters.
func stapleNoted(leaf link, r Result) Result {
	if leaf.noStaple == nil {
		return r
	}
	r.MissingStaple = leaf.mustStaple()
	if r.State == Unknown && leaf.noStaple != errNoStaple {
		r.Detail += "; of the stapled answer: " + leaf.noStaple.Error()
	}
	return r
}
