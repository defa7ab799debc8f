package revocation

import (
	"context"
	"crypto/x509"
	"sync"
	"time"
)

// An Endpoint is an address that a chain names, and what became of asking there.
type Endpoint struct {
	Kind        Source // FromOCSP or FromCRL
	URL         string // as the certificate has it; quoted and cut if it could do harm where it is printed
	Certificate string // the subject of the certificate that names it, quoted and cut
	OK          bool   // an answer came that holds, whatever it says
	Detail      string // what is wrong, or what the answer says
	Duration    time.Duration
}

// reachAtOnce bounds the addresses that are asked at one time.
const reachAtOnce = 8

// Reachability asks every OCSP and CRL address of a chain as Check takes it, each
// by itself, and never the cache; what it hears is not kept either. The endpoints
// are in the order of the chain. It ends with the context.
func (c *Checker) Reachability(ctx context.Context, chain []*x509.Certificate, now time.Time) []Endpoint {
	var asks []func(context.Context) (answer, error)
	var all []Endpoint
	for _, l := range linksOf(chain, nil, now) {
		for _, address := range l.responders() {
			all = append(all, Endpoint{Kind: FromOCSP, URL: shown(address), Certificate: l.name()})
			asks = append(asks, func(ctx context.Context) (answer, error) { return c.askResponder(ctx, l, address, now) })
		}
		for _, address := range l.lists() {
			all = append(all, Endpoint{Kind: FromCRL, URL: shown(address), Certificate: l.name()})
			asks = append(asks, func(ctx context.Context) (answer, error) {
				list, err := c.fetchList(ctx, l.issuer, address, now)
				if err != nil {
					return answer{}, err
				}
				return list.find(l.cert)
			})
		}
	}
	var wait sync.WaitGroup
	turn := make(chan struct{}, reachAtOnce)
	for i := range all {
		wait.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			begun := time.Now()
			a, err := asks[i](ctx)
			all[i].Duration = time.Since(begun)
			all[i].tell(a, err)
		})
	}
	wait.Wait()
	return all
}

// tell puts what came of it into the endpoint.
func (e *Endpoint) tell(a answer, err error) {
	switch {
	case err != nil:
		e.Detail = err.Error()
		return
	case a.state == Good:
		e.Detail = "good"
	default:
		e.Detail = a.result(e.Kind, "").Detail
	}
	e.OK = true
}
