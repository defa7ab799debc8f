package mtasts

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// host starts a policy host on loopback and makes a Cache for which it is that of
// example.com.
func host(t *testing.T, a *authority, config *tls.Config, handler http.HandlerFunc) *Cache {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.TLS = config
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return at(t, a, server.Listener.Addr().String())
}

// at is a Cache for which mta-sts.example.com is at address.
func at(t *testing.T, a *authority, address string) *Cache {
	t.Helper()
	c, err := New(Options{Roots: a.roots(),
		TXT: func(context.Context, string) ([]string, error) { return []string{"v=STSv1; id=1"}, nil },
		Dial: func(ctx context.Context, network, asked string) (net.Conn, error) {
			if asked != "mta-sts.example.com:443" {
				t.Errorf("dialled %s", asked)
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func serve(contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{contentType}
		if contentType == "" {
			w.Header()["Content-Type"] = nil // or net/http guesses
		}
		_, _ = io.WriteString(w, body)
	}
}

const plain = "text/plain"

func TestOnlyAPolicyHostWithACertificateForItsNameIsBelieved(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	past := time.Now().Add(-time.Hour)
	for _, c := range []struct {
		name   string
		config *tls.Config
		found  bool
		cause  string // of the failure
	}{
		{"its own name", &tls.Config{Certificates: []tls.Certificate{a.issue(t, never, "mta-sts.example.com")}}, true, ""},
		{"a wildcard", &tls.Config{Certificates: []tls.Certificate{a.issue(t, never, "*.example.com")}}, true, ""},
		{"TLS 1.2", &tls.Config{Certificates: []tls.Certificate{a.issue(t, never, "mta-sts.example.com")}, MaxVersion: tls.VersionTLS12}, true, ""},
		{"by SNI", &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if h.ServerName != "mta-sts.example.com" {
				return nil, fmt.Errorf("SNI %q", h.ServerName)
			}
			cert := a.issue(t, never, "mta-sts.example.com")
			return &cert, nil
		}}, true, ""},

		{"the domain's name", &tls.Config{Certificates: []tls.Certificate{a.issue(t, never, "example.com")}}, false, "x509: certificate "},
		{"a provider's name", &tls.Config{Certificates: []tls.Certificate{a.issue(t, never, "mta-sts.provider.example")}}, false, "x509: certificate "},
		{"a common name alone", &tls.Config{Certificates: []tls.Certificate{a.issue(t, never)}}, false, "x509: certificate "},
		{"a wildcard too high", &tls.Config{Certificates: []tls.Certificate{a.issue(t, never, "*.com")}}, false, "x509: certificate "},
		{"an unknown authority", &tls.Config{Certificates: []tls.Certificate{stranger.issue(t, never, "mta-sts.example.com")}}, false, "x509: certificate signed by unknown authority"},
		{"expired", &tls.Config{Certificates: []tls.Certificate{a.issue(t, past, "mta-sts.example.com")}}, false, "x509: certificate has expired"},
		{"TLS 1.1", &tls.Config{Certificates: []tls.Certificate{a.issue(t, never, "mta-sts.example.com")}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false, "tls: protocol version not supported"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			requests := 0
			cache := host(t, a, c.config, func(w http.ResponseWriter, r *http.Request) {
				requests++
				serve(plain, policyOfSection3)(w, r)
			})
			p := ask(t, cache)
			if c.found {
				expect(t, p, Found, ModeEnforce, "1")
				return
			}
			expect(t, p, FetchFailed, "", "")
			if !errors.Is(p.Err, ErrFetch) || errors.Is(p.Err, ErrWebPKI) != strings.HasPrefix(c.cause, "x509") || !strings.Contains(p.Detail, c.cause) || requests != 0 {
				t.Errorf("%v, %d requests", p.Err, requests)
			}
		})
	}
}

func TestOnlyAPlain200OfBoundedLengthIsAPolicy(t *testing.T) {
	a := newAuthority(t)
	config := &tls.Config{Certificates: []tls.Certificate{a.issue(t, never, "mta-sts.example.com")}}
	full := policyOfSection3 + strings.Repeat("x: "+strings.Repeat("y", 1020)+"\n", 63)
	full += "x: " + strings.Repeat("y", mostBody-len(full)-4) + "\n"
	for _, c := range []struct {
		name    string
		handler http.HandlerFunc
		state   State
		detail  string
	}{
		{"text/plain", serve(plain, policyOfSection3), Found, ""},
		{"with a charset", serve("text/plain; charset=us-ascii", policyOfAppendix), Found, ""},
		{"in capitals, with parameters", serve("Text/PLAIN; a=b; charset=latin-1", policyOfSection3), Found, ""},
		{"with a parameter that can't be read", serve("text/plain; charset", policyOfSection3), Found, ""},
		{"as long as may be", serve(plain, full), Found, ""},

		{"HTML", serve("text/html", policyOfSection3), FetchFailed, "content type is not text/plain"},
		{"another text", serve("text/plainer", policyOfSection3), FetchFailed, "content type is not text/plain"},
		{"no content type", serve("", policyOfSection3), FetchFailed, "content type is not text/plain"},
		{"a content type that is none", serve("text/plain, text/html", policyOfSection3), FetchFailed, "content type is not text/plain"},
		{"one byte too long", serve(plain, full+"\n"), FetchFailed, "more than 65536 bytes"},
		{"without end", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", plain)
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, full); err != nil {
					return
				}
			}
		}, FetchFailed, "more than 65536 bytes"},
		{"a header without end", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("y", 2*mostHeader))
		}, FetchFailed, "net/http: server response headers exceeded"},
		{"cut off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", plain)
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, policyOfSection3)
		}, FetchFailed, "unexpected EOF"},
		{"not HTTP", func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "220 mx.example.com ESMTP\r\n\x1b[2J")
		}, FetchFailed, "net/http: HTTP/1.x transport connection broken: malformed HTTP"},
		{"404", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404); serve(plain, policyOfSection3)(w, r) }, FetchFailed, "HTTP status 404"},
		{"201", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", plain)
			w.WriteHeader(201)
			_, _ = io.WriteString(w, policyOfSection3)
		}, FetchFailed, "HTTP status 201"},
		{"a redirect to itself", redirect("/there"), FetchFailed, "HTTP status 301"},
		{"a redirect to another host", redirect("https://mta-sts.provider.example" + policyPath), FetchFailed, "HTTP status 301"},
		{"a redirect to clear", redirect("http://mta-sts.example.com" + policyPath), FetchFailed, "HTTP status 301"},
		{"compressed unasked", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", plain)
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, "\x1f\x8b\x08\x00")
		}, Invalid, "line 1: not a key and a value"},
		{"no policy", serve(plain, "<html></html>"), Invalid, "line 1: not a key and a value"},
		{"a policy without hosts", serve(plain, "version: STSv1\nmode: enforce\nmax_age: 1\n"), Invalid, "no mx"},
		{"nothing", serve(plain, ""), Invalid, "empty"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cache := host(t, a, config.Clone(), func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != policyPath || r.Host != "mta-sts.example.com" {
					t.Errorf("asked for %s of %s", r.URL, r.Host)
				}
				c.handler(w, r)
			})
			p := ask(t, cache)
			if p.State != c.state || !strings.Contains(p.Detail, c.detail) {
				t.Errorf("%+v, want %v %q", p, c.state, c.detail)
			}
			kind := map[State]error{FetchFailed: ErrFetch, Invalid: ErrInvalid}[c.state]
			if !errors.Is(p.Err, kind) {
				t.Errorf("%v is not %v", p.Err, kind)
			}
		})
	}
}

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", plain)
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusMovedPermanently)
		_, _ = io.WriteString(w, policyOfSection3)
	}
}

func TestTheCallerDoesNotWaitForASlowBody(t *testing.T) {
	a := newAuthority(t)
	release := make(chan struct{})
	half := make(chan struct{})
	cache := host(t, a, &tls.Config{Certificates: []tls.Certificate{a.issue(t, never, "mta-sts.example.com")}},
		func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", plain)
			_, _ = io.WriteString(w, policyOfSection3[:40])
			_ = http.NewResponseController(w).Flush()
			close(half)
			<-release
			_, _ = io.WriteString(w, policyOfSection3[40:])
		})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-half
		cancel()
	}()
	if p, err := cache.Policy(ctx, example); !errors.Is(err, context.Canceled) || p.State != Unknown {
		t.Errorf("%+v, %v", p, err)
	}
	close(release)
	expect(t, ask(t, cache), Found, ModeEnforce, "1")
}

// listening is the address that openssl s_server says it accepts at.
func listening(t *testing.T, out io.Reader) string {
	t.Helper()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if address, ok := strings.CutPrefix(lines.Text(), "ACCEPT "); ok {
			return address
		}
	}
	t.Fatal("openssl did not say where it listens")
	return ""
}

func TestAPolicyIsFetchedFromOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	a := newAuthority(t)
	for _, c := range []struct {
		name string
		args []string
		host string
		want State
	}{
		{"TLS 1.3", []string{"-tls1_3"}, "mta-sts.example.com", Found},
		{"TLS 1.2", []string{"-tls1_2"}, "mta-sts.example.com", Found},
		{"TLS 1.1", []string{"-tls1_1", "-cipher", "ALL:@SECLEVEL=0"}, "mta-sts.example.com", FetchFailed},
		{"another name", nil, "mta-sts.provider.example", FetchFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			cert, key := files(t, a.issue(t, never, c.host))
			root := t.TempDir()
			if err := os.Mkdir(filepath.Join(root, ".well-known"), 0o700); err != nil {
				t.Fatal(err)
			}
			put(t, root, policyPath, policyOfSection3)
			cmd := exec.Command(openssl, append([]string{"s_server", "-accept", "127.0.0.1:0", "-WWW", "-cert", cert, "-key", key}, c.args...)...)
			cmd.Dir = root
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			})
			p := ask(t, at(t, a, listening(t, out)))
			if p.State != c.want || (p.State == Found) != p.MatchMX("mail.example.com") {
				t.Errorf("%+v", p)
			}
		})
	}
}
