package revocation

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// A DialFunc opens a connection, as (*net.Dialer).DialContext does.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

const (
	maxRedirects = 3
	maxAddress   = 1024 // octets of a URL
	// smallBody is what is read of an answer without ado, octets; only so many
	// larger ones are in memory at once.
	smallBody   = 1 << 20
	largeBodies = 2
)

// A web asks over HTTP. It keeps no connections: the next question to the same
// server is hours away.
type web struct {
	transport http.RoundTripper
	timeout   time.Duration
	large     chan struct{}
}

func newWeb(dial DialFunc, timeout time.Duration) *web {
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return &web{
		timeout: timeout,
		large:   make(chan struct{}, largeBodies),
		transport: &http.Transport{ // no proxy: whose it is, and what it lets through, nobody said here
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := dial(ctx, network, addr)
				if err != nil {
					return nil, err
				}
				if j, ok := ctx.Value(journeyKey{}).(*journey); ok && !j.mayVisit(conn.RemoteAddr()) {
					conn.Close()
					return nil, errors.New("redirected into a private network")
				}
				return conn, nil
			},
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    timeout,
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 32 << 10,
		},
	}
}

// A journey is one question with its redirects. The address in a certificate was
// put there by its authority; a redirect over plain HTTP, by anybody on the way,
// who must not have us visit what stands behind the firewall.
type journey struct {
	redirected bool // set between requests
	outside    atomic.Bool
}

type journeyKey struct{}

func (j *journey) mayVisit(addr net.Addr) bool {
	inside := true
	if ap, err := netip.ParseAddrPort(addr.String()); err == nil {
		ip := ap.Addr().Unmap()
		inside = ip.IsPrivate() || !ip.IsGlobalUnicast()
	}
	if !j.redirected {
		j.outside.Store(!inside)
		return true
	}
	return !inside || !j.outside.Load()
}

// A question is one request. The schemes are those that the address and every
// redirect must have.
type question struct {
	method  string
	address string
	body    []byte // an OCSP request; nil: none
	most    int    // octets of an answer
	schemes []string
}

// statusError is an answer with another status than 200.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("the server says HTTP %d", int(e)) }

// ask gives the body of the answer. It ends with the context, and within the
// timeout.
func (w *web) ask(ctx context.Context, q question) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	j := new(journey)
	ctx = context.WithValue(ctx, journeyKey{}, j)
	at, err := parseAddress(q.address, q.schemes)
	if err != nil {
		return nil, err
	}
	for range maxRedirects + 1 {
		resp, err := w.send(ctx, q, at)
		if err != nil {
			return nil, plain(err)
		}
		to, redirected := redirection(resp)
		if !redirected {
			return w.read(ctx, resp, q.most)
		}
		resp.Body.Close()
		next, err := at.Parse(to)
		if err != nil {
			return nil, fmt.Errorf("redirected to %s", quote(to))
		}
		if next, err = parseAddress(next.String(), q.schemes); err != nil {
			return nil, fmt.Errorf("redirected: %w", err)
		}
		if at.Scheme == "https" && next.Scheme != "https" {
			return nil, errors.New("redirected from https to http")
		}
		at, j.redirected = next, true
	}
	return nil, fmt.Errorf("redirected more than %d times", maxRedirects)
}

func (w *web) send(ctx context.Context, q question, at *url.URL) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, q.method, at.String(), bytes.NewReader(q.body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "postern")
	if q.body != nil {
		req.Header.Set("Content-Type", "application/ocsp-request") // RFC 6960 appendix A.1
	}
	return w.transport.RoundTrip(req)
}

func redirection(resp *http.Response) (to string, redirected bool) {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		to = resp.Header.Get("Location")
		return to, to != ""
	}
	return "", false
}

// read reads at most the given octets. One that is large waits for its turn, so
// that the memory in use has a bound.
func (w *web) read(ctx context.Context, resp *http.Response, most int) ([]byte, error) {
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, statusError(resp.StatusCode)
	}
	var body bytes.Buffer
	if _, err := io.CopyN(&body, resp.Body, int64(min(most, smallBody)+1)); errors.Is(err, io.EOF) {
		return body.Bytes(), nil
	} else if err != nil {
		return nil, plain(err)
	}
	if body.Len() > most {
		return nil, fmt.Errorf("the answer has more than %d octets", most)
	}
	select {
	case w.large <- struct{}{}:
		defer func() { <-w.large }()
	case <-ctx.Done():
		return nil, plain(ctx.Err())
	}
	if _, err := io.Copy(&body, io.LimitReader(resp.Body, int64(most+1-body.Len()))); err != nil {
		return nil, plain(err)
	}
	if body.Len() > most {
		return nil, fmt.Errorf("the answer has more than %d octets", most)
	}
	return body.Bytes(), nil
}

func parseAddress(address string, schemes []string) (*url.URL, error) {
	if len(address) > maxAddress {
		return nil, fmt.Errorf("an address of more than %d octets", maxAddress)
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil {
		return nil, errors.New("not an address that can be asked")
	}
	for _, s := range schemes {
		if u.Scheme == s {
			return u, nil
		}
	}
	return nil, fmt.Errorf("the scheme %s is not asked, only %s", quote(u.Scheme), strings.Join(schemes, " and "))
}

// plain words an error of net/http, which quotes what it was sent.
func plain(err error) error {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("given up")
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return errors.New("no answer in time")
	}
	text := err.Error()
	// A reply may quote it: without the resolver's address, or those of both ends.
	if lookup := (*net.DNSError)(nil); errors.As(err, &lookup) {
		text = "its name cannot be looked up: " + lookup.Err
	} else if op := (*net.OpError)(nil); errors.As(err, &op) {
		text = strings.ReplaceAll(text, op.Error(), op.Op+": "+op.Err.Error())
	}
	return errors.New(quote(text))
}
