package revocation

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/crypto/ocsp"
	"golang.org/x/sync/singleflight"
)

// known gives what is known of a certificate without asking anybody. A revocation
// that was heard of stands against a stapled answer that is older: a peer chooses
// which of the answers that still hold it staples.
func (c *Checker) known(l link, now time.Time) (Result, bool) {
	k := c.cache.find(l.id, now)
	if l.noStaple == nil && l.staple.state != Unknown && (k == nil || k.result.State != Revoked || l.staple.this.After(k.this)) {
		return l.staple.result(FromStaple, l.name()), true
	}
	if k != nil {
		r := k.result
		r.Cached = true
		return r, true
	}
	if r, yes := l.needless(); yes {
		return r, true
	}
	for _, address := range l.lists() {
		k := c.cache.find(listKey(l.issuer, address), now)
		if k == nil || k.crl == nil {
			continue
		}
		if a, err := k.crl.find(l.cert); err == nil {
			r := a.result(FromCRL, l.name())
			r.Cached = true
			return r, true
		}
	}
	return Result{}, false
}

// stale reports whether what is known has to be renewed soon.
func (c *Checker) stale(l link, now time.Time) bool {
	k := c.cache.find(l.id, now)
	return k != nil && !now.Before(k.renew)
}

// begin asks about a certificate, unless somebody does already. Nobody has to wait
// for what comes of it.
func (c *Checker) begin(l link, now time.Time) <-chan singleflight.Result {
	return c.links.DoChan(string(l.id[:]), func() (any, error) {
		if r, known := c.known(l, now); known && !c.stale(l, now) {
			return r, nil // it came between looking and asking
		}
		if !c.enter() {
			return l.unknown("too many certificates are asked about already"), nil
		}
		defer c.leave()
		return c.ask(c.ctx, l, now), nil
	})
}

func (c *Checker) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.running >= c.most {
		return false
	}
	c.running++
	c.done.Add(1)
	return true
}

func (c *Checker) leave() {
	c.mu.Lock()
	c.running--
	c.mu.Unlock()
	c.done.Done()
}

// ask asks one address after the other until one answers, responders first: they
// are asked about one certificate, and a list is about all. The answer is kept,
// and for a shorter time that there is none.
func (c *Checker) ask(ctx context.Context, l link, now time.Time) Result {
	var faults []string
	for _, address := range l.responders() {
		a, err := c.askResponder(ctx, l, address, now)
		if err == nil && a.state != Unknown {
			return c.keep(l, a, FromOCSP, now)
		}
		if err == nil {
			err = errors.New(a.result(FromOCSP, "").Detail)
		}
		faults = append(faults, fmt.Sprintf("%s: %v", quote(address), err))
	}
	for _, address := range l.lists() {
		list, err := c.list(ctx, l.issuer, address, now)
		if err == nil {
			var a answer
			if a, err = list.find(l.cert); err == nil {
				return c.keep(l, a, FromCRL, now)
			}
		}
		faults = append(faults, fmt.Sprintf("%s: %v", quote(address), err))
	}
	k := &kept{key: l.id, result: l.unknown(strings.Join(faults, "; ")), until: now.Add(keepFault), renew: now.Add(keepFault)}
	if ctx.Err() == nil {
		k = c.cache.put(k, now)
	}
	return k.result
}

// keep puts an answer into the cache. The skew that a clock is allowed must not
// end what is kept before it began.
func (c *Checker) keep(l link, a answer, source Source, now time.Time) Result {
	r := a.result(source, l.name())
	until, renew := keepUntil(a.next.Add(skew), now)
	return c.cache.put(&kept{key: l.id, result: r, this: a.this, until: until, renew: renew}, now).result
}

// askResponder asks by POST, and by GET a server that has no POST (RFC 6960
// appendix A.1). The scheme is http alone: the certificate of an https responder
// would have to be asked about at itself.
func (c *Checker) askResponder(ctx context.Context, l link, address string, now time.Time) (answer, error) {
	request, err := ocsp.CreateRequest(l.cert, l.issuer, nil)
	if err != nil {
		return answer{}, fmt.Errorf("the question cannot be put: %w", err)
	}
	q := question{method: http.MethodPost, address: address, body: request, most: maxAnswer, schemes: []string{"http"}}
	der, err := c.web.ask(ctx, q)
	if status := statusError(0); errors.As(err, &status) {
		q.method, q.body = http.MethodGet, nil
		q.address = strings.TrimSuffix(address, "/") + "/" + url.PathEscape(base64.StdEncoding.EncodeToString(request))
		if der, err = c.web.ask(ctx, q); err != nil {
			err = status
		}
	}
	if err != nil {
		return answer{}, err
	}
	return readAnswer(der, l, now)
}

func listKey(issuer *x509.Certificate, address string) key {
	return keyOf(issuer, []byte("list"), []byte(address))
}

// list gives the issuer's list at the address. All the certificates of an issuer
// may name the same, so that it is fetched once for all of them, and so is the
// news that it cannot be had.
func (c *Checker) list(ctx context.Context, issuer *x509.Certificate, address string, now time.Time) (*crl, error) {
	k := listKey(issuer, address)
	got, err, _ := c.lists.Do(string(k[:]), func() (any, error) {
		if found := c.cache.find(k, now); found != nil && now.Before(found.renew) {
			return found.crl, found.fault
		}
		list, err := c.fetchList(ctx, issuer, address, now)
		fresh := &kept{key: k, crl: list, fault: err, until: now.Add(keepFault), renew: now.Add(keepFault)}
		if err == nil {
			fresh.this = list.this
			fresh.until, fresh.renew = keepUntil(list.next.Add(skew), now)
		}
		if ctx.Err() == nil {
			fresh = c.cache.put(fresh, now)
		}
		return fresh.crl, fresh.fault
	})
	return got.(*crl), err
}

func (c *Checker) fetchList(ctx context.Context, issuer *x509.Certificate, address string, now time.Time) (*crl, error) {
	der, err := c.web.ask(ctx, question{method: http.MethodGet, address: address, most: maxList, schemes: []string{"http", "https"}})
	if err != nil {
		return nil, err
	}
	return readList(der, issuer, now)
}
