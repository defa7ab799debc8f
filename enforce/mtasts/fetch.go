package mtasts

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"time"
)

// Where a domain says that it has a policy, and where it has it (RFC 8461 §3.1,
// §3.2).
const (
	recordPrefix = "_mta-sts."
	hostPrefix   = "mta-sts."
	policyPath   = "/.well-known/mta-sts.txt"
)

// FetchTimeout is how long one look at a domain may last in all: the TXT record
// and the policy (RFC 8461 §3.3).
const FetchTimeout = time.Minute

const mostHeader = 16 << 10 // bytes

// newClient makes the HTTPS client: one connection a request, straight to the
// policy host, verified against the name in the URL; no redirects, no cookies, no
// cache and no compression (RFC 8461 §3.3).
func newClient(o Options) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  nil, // nor from the environment: who verifies the policy is who asks
			DialContext:            o.dial,
			TLSClientConfig:        &tls.Config{RootCAs: o.Roots, MinVersion: tls.VersionTLS12},
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: mostHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// A dialError is one of Options.Dial, told apart from all that TLS and HTTP say.
type dialError struct{ error }

func (e dialError) Unwrap() error { return e.error }

func (o Options) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := o.Dial(ctx, network, address)
	if err != nil {
		return nil, dialError{err}
	}
	return conn, nil
}

// lookup gives the id that the domain's TXT record says, "" where there is no
// usable record.
func (c *Cache) lookup(ctx context.Context, domain string) (id string, err error) {
	records, err := c.options.TXT(ctx, recordPrefix+domain)
	var missing *net.DNSError
	if errors.As(err, &missing) && missing.IsNotFound {
		return "", nil
	}
	if err != nil {
		return "", failed(ErrLookup, err, err)
	}
	return parseTXT(records), nil
}

// fetch gets the domain's policy. Its errors are ErrFetch or ErrInvalid.
func (c *Cache) fetch(ctx context.Context, domain string) (document, error) {
	body, err := c.get(ctx, "https://"+hostPrefix+domain+policyPath)
	if err != nil {
		return document{}, failed(ErrFetch, err, keepable(err))
	}
	d, err := parsePolicy(body)
	if err != nil {
		return document{}, failed(ErrInvalid, err, nil)
	}
	return d, nil
}

// keepable is what of err is worth to be told apart and small. An error about a
// certificate has the chain in it.
func keepable(err error) error {
	var dialled dialError
	var unverified *tls.CertificateVerificationError
	switch {
	case errors.As(err, &dialled):
		return dialled.error
	case errors.As(err, &unverified):
		return ErrWebPKI
	case errors.Is(err, context.DeadlineExceeded):
		return context.DeadlineExceeded
	}
	return nil
}

func (c *Cache) get(ctx context.Context, address string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("User-Agent", "postern")
	response, err := c.web.Do(request)
	if err != nil {
		var around *url.Error // says the address again
		if errors.As(err, &around) {
			err = around.Err
		}
		return "", err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("HTTP status %d", response.StatusCode)
	}
	// Parameters are ignored, those that can't be read among them (§3.2).
	kind, _, err := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if kind != "text/plain" || err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
		return "", errors.New("content type is not text/plain")
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, mostBody+1))
	if err != nil {
		return "", err
	}
	if len(body) > mostBody {
		return "", fmt.Errorf("more than %d bytes", mostBody)
	}
	return string(body), nil
}
