package mtasts

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const example = "example.com"

// A world is a domain with a TXT record and a policy host, as a test wants them.
// The host is net/http's server behind real TLS. Its connections are pipes: a test
// lives in a synctest bubble, in which days are nothing.
type world struct {
	t         testing.TB
	authority *authority

	mu       sync.Mutex
	records  []string
	txtErr   error
	policy   string
	status   int
	wait     chan struct{} // requests wait for it, if there is one
	down     bool
	many     bool // every domain is as example.com
	lookups  int
	requests int
	now      int // requests at the same time
	most     int
	reports  []string

	connections chan net.Conn
	closing     chan struct{}
	once        sync.Once
}

// newWorld has a policy as RFC 8461 §3.2 shows it, good for a week. names are what
// the policy host's certificate is good for.
func newWorld(t testing.TB, names ...string) *world {
	w := &world{t: t, authority: newAuthority(t), records: []string{"v=STSv1; id=1;"}, policy: policyOfSection3, status: http.StatusOK,
		connections: make(chan net.Conn), closing: make(chan struct{})}
	if names == nil {
		names = []string{"mta-sts.example.com"}
	}
	server := &http.Server{Handler: w, ErrorLog: log.New(io.Discard, "", 0)}
	served := make(chan struct{})
	config := &tls.Config{Certificates: []tls.Certificate{w.authority.issue(t, never, names...)}}
	go func() {
		defer close(served)
		_ = server.Serve(tls.NewListener(w, config))
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-served
	})
	return w
}

func (w *world) Accept() (net.Conn, error) {
	select {
	case c := <-w.connections:
		return c, nil
	case <-w.closing:
		return nil, net.ErrClosed
	}
}

func (w *world) Close() error {
	w.once.Do(func() { close(w.closing) })
	return nil
}

func (w *world) Addr() net.Addr { return &net.TCPAddr{} }

func (w *world) ServeHTTP(response http.ResponseWriter, request *http.Request) {
	w.mu.Lock()
	w.requests++
	w.now++
	w.most = max(w.most, w.now)
	policy, status, wait := w.policy, w.status, w.wait
	w.mu.Unlock()
	defer w.set(func() { w.now-- })
	if request.URL.Path != policyPath || request.Method != http.MethodGet || len(request.Cookies()) > 0 || request.Header.Get("Accept-Encoding") != "" {
		w.t.Errorf("a request for %v with %v", request.URL, request.Header)
	}
	if wait != nil {
		select {
		case <-wait:
		case <-request.Context().Done():
		}
	}
	response.Header().Set("Content-Type", "text/plain; charset=utf-8")
	response.Header().Set("Set-Cookie", "a=b")
	response.Header().Set("Cache-Control", "max-age=1000000")
	response.WriteHeader(status)
	_, _ = io.WriteString(response, policy)
}

// set changes the world.
func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// counts are how often the TXT record was looked up and the policy requested.
func (w *world) counts() [2]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return [2]int{w.lookups, w.requests}
}

func (w *world) expect(lookups, requests int) {
	w.t.Helper()
	if got := w.counts(); got != [2]int{lookups, requests} {
		w.t.Errorf("%d lookups and %d requests, want %d and %d", got[0], got[1], lookups, requests)
	}
}

func (w *world) expectReports(want ...string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.reports, want) {
		w.t.Errorf("reports %q, want %q", w.reports, want)
	}
	w.reports = nil
}

// options reach the world.
func (w *world) options(dir string) Options {
	return Options{Dir: dir, Roots: w.authority.roots(), TXT: w.txt, Dial: w.dial, Report: func(subject string, err error) {
		w.set(func() { w.reports = append(w.reports, subject+": "+err.Error()) })
	}}
}

func (w *world) txt(_ context.Context, name string) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lookups++
	if !w.many && name != "_mta-sts."+example {
		return nil, &net.DNSError{Name: name, IsNotFound: true}
	}
	return w.records, w.txtErr
}

var errDown = errors.New("connection refused")

func (w *world) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	if !w.many && (network != "tcp" || address != "mta-sts.example.com:443") {
		w.t.Errorf("dialled %s %s", network, address)
	}
	down := w.down
	w.mu.Unlock()
	if down {
		w.set(func() { w.requests++ })
		return nil, errDown
	}
	ours, theirs := pipe()
	select {
	case w.connections <- theirs:
		return ours, nil
	case <-w.closing:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// cache makes a Cache in the world. It is closed with the test, or before.
func (w *world) cache(dir string) *Cache {
	w.t.Helper()
	c, err := New(w.options(dir))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	return c
}

// ask is Policy for example.com, which has to know.
func ask(t testing.TB, c *Cache) Policy {
	t.Helper()
	p, err := c.Policy(t.Context(), example)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// until asks again when what goes on behind has had time to.
func until(t testing.TB, c *Cache, later time.Duration) Policy {
	t.Helper()
	time.Sleep(later) // in a bubble
	ask(t, c)
	time.Sleep(time.Second)
	return ask(t, c)
}
