package revocation

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"
)

// What is asked goes on when the session that asked has no more time.
func TestWhoHasNoTimeLeavesTheAnswerToTheNext(t *testing.T) {
	p, n := newPKI(t), newNames(t)
	release := make(chan struct{})
	n.serve("ocsp.example", func(w http.ResponseWriter, r *http.Request) {
		<-release
		answering(respond(t, p, p.middle, nil))(w, r)
	})
	n.serve("crl.example", files(map[string][]byte{"/root.crl": revoke(t, p.root, nil)}))
	c := n.checker(Options{})
	if got, all := c.Cached(p.chain(), nil, time.Now()); got.State != Unknown || all {
		t.Errorf("%+v", got)
	}
	hurried, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if got := c.Check(hurried, p.chain(), nil, time.Now()); got.State != Unknown || got.Detail != "there is no answer yet" {
		t.Errorf("%+v", got)
	}
	var wait sync.WaitGroup
	for range 50 {
		wait.Go(func() {
			c.Start(p.chain(), nil, time.Now())
			if got := c.Check(t.Context(), p.chain(), nil, time.Now()); got.State != Good || got.Source != FromOCSP {
				t.Errorf("%+v", got)
			}
		})
	}
	close(release)
	wait.Wait()
	if got, all := c.Cached(p.chain(), nil, time.Now()); got.State != Good || !all || !got.Cached {
		t.Errorf("%+v", got)
	}
	if a, b := n.asked("ocsp.example/"), n.asked("crl.example/root.crl"); a != 1 || b != 1 {
		t.Errorf("asked %d and %d times", a, b)
	}
}

func TestAListIsFetchedOnceForAllCertificatesThatNameIt(t *testing.T) {
	p, n := newPKI(t), newNames(t)
	n.serve("crl.example", files(map[string][]byte{"/middle.crl": revoke(t, p.middle, nil, p.leaf), "/root.crl": revoke(t, p.root, nil)}))
	c := n.checker(Options{})
	var wait sync.WaitGroup
	for range 20 {
		q := pki{p.root, p.middle, issue(t, p.middle, "other", named("", crlAt))}
		wait.Go(func() {
			if got := c.Check(t.Context(), q.chain(), nil, time.Now()); got.State != Good {
				t.Errorf("%+v", got)
			}
		})
	}
	wait.Wait()
	q := pki{p.root, p.middle, issue(t, p.middle, "other", named("", crlAt))}
	if got, all := c.Cached(q.chain(), nil, time.Now()); got.State != Good || !all {
		t.Errorf("%+v", got) // never asked about, but its list is here
	}
	if n := n.asked("crl.example/middle.crl"); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestAFailureIsKeptForAShortTimeAndNeverOverAnAnswer(t *testing.T) {
	p, n := newPKI(t), newNames(t)
	now := time.Now()
	c := n.checker(Options{})
	n.serve("crl.example", files(map[string][]byte{"/root.crl": revoke(t, p.root, nil)}))
	if got := c.Check(t.Context(), p.chain(), nil, now); got.State != Unknown {
		t.Errorf("%+v", got)
	}
	n.serve("ocsp.example", answering(respond(t, p, p.middle, nil)))
	if got := c.Check(t.Context(), p.chain(), nil, now.Add(keepFault-1)); got.State != Unknown || !got.Cached {
		t.Errorf("%+v", got)
	}
	if got := c.Check(t.Context(), p.chain(), nil, now.Add(keepFault)); got.State != Good {
		t.Errorf("%+v", got)
	}
	n.serve("ocsp.example", http.NotFound)
	later := now.Add(20 * time.Hour) // to be renewed
	c.Start(p.chain(), nil, later)
	<-c.begin(linksOf(p.chain(), nil, later)[0], later)
	if got, _ := c.Cached(p.chain(), nil, later); got.State != Good {
		t.Errorf("%+v", got)
	}
}

// Who stands between, or the peer, would like an older answer to be believed.
func TestAnOlderAnswerDoesNotUndoARevocation(t *testing.T) {
	p, n := newPKI(t), newNames(t)
	now := time.Now()
	older := respond(t, p, p.middle, func(r *ocsp.Response) { r.ThisUpdate = now.Add(-3 * time.Hour) })
	n.serve("crl.example", files(map[string][]byte{"/root.crl": revoke(t, p.root, nil)}))
	n.serve("ocsp.example", answering(respond(t, p, p.middle, func(r *ocsp.Response) { r.Status, r.RevokedAt = ocsp.Revoked, now })))
	c := n.checker(Options{})
	if got := c.Check(t.Context(), p.chain(), nil, now); got.State != Revoked {
		t.Errorf("%+v", got)
	}
	n.serve("ocsp.example", answering(older))
	<-c.begin(linksOf(p.chain(), nil, now)[0], now)
	if got := c.Check(t.Context(), p.chain(), nil, now); got.State != Revoked {
		t.Errorf("the network's: %+v", got)
	}
	if got := c.Check(t.Context(), p.chain(), older, now); got.State != Revoked {
		t.Errorf("the peer's: %+v", got)
	}
}

func TestTheCheckerStopsAskingWhenItIsClosed(t *testing.T) {
	p, n := newPKI(t), newNames(t)
	arrived, release := make(chan struct{}, 2), make(chan struct{})
	hang := func(http.ResponseWriter, *http.Request) { arrived <- struct{}{}; <-release }
	n.serve("ocsp.example", hang)
	n.serve("crl.example", hang)
	c := n.checker(Options{})
	c.Start(p.chain(), nil, time.Now())
	<-arrived
	<-arrived
	c.Close()
	close(release)
	if got := c.Check(t.Context(), p.chain(), nil, time.Now()); got.State != Unknown {
		t.Errorf("%+v", got)
	}
}

func TestNoMoreIsAskedAtOnceThanAllowed(t *testing.T) {
	p, n := newPKI(t), newNames(t)
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	n.serve("ocsp.example", func(http.ResponseWriter, *http.Request) { arrived <- struct{}{}; <-release })
	c := n.checker(Options{Fetches: 1})
	c.begin(linksOf(p.chain(), nil, time.Now())[0], time.Now())
	<-arrived
	q := pki{p.root, p.middle, issue(t, p.middle, "other", named(ocspAt, crlAt))}
	if got := c.Check(t.Context(), q.chain(), nil, time.Now()); got.State != Unknown || !strings.Contains(got.Detail, "too many") {
		t.Errorf("%+v", got)
	}
	close(release)
}

func TestASlowAddressIsGivenUp(t *testing.T) {
	p, n := newPKI(t), newNames(t)
	release := make(chan struct{})
	defer close(release)
	n.serve("ocsp.example", func(http.ResponseWriter, *http.Request) { <-release })
	n.serve("crl.example", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte{0x30})
		w.(http.Flusher).Flush()
		<-release
	})
	got := n.checker(Options{Timeout: 50 * time.Millisecond}).Check(t.Context(), p.chain(), nil, time.Now())
	if got.State != Unknown || strings.Count(got.Detail, "no answer in time") != 2 {
		t.Errorf("%+v", got)
	}
}
