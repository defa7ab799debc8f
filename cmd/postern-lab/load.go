package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"postern/proxy/proxytest"
)

// loadOptions are the flags of the load.
type loadOptions struct {
	sessions int           // that are idle at once
	slow     int           // of each kind of slow client and server
	flood    int           // connections of a flood
	settle   time.Duration // until memory must have been given back; 0: nobody looks
	starving time.Duration // a delivery that took longer says that mail does not flow
	// lenience is what the end of a session may take beyond the limit: two last
	// words of two seconds, and a machine that does other things.
	lenience time.Duration
}

// loadTime bounds a load. It takes some minutes.
const loadTime = 20 * time.Minute

// load puts postern under hostile load of several kinds while an honest client
// keeps sending mail. It returns the exit code and must be called within
// netlab.Enter.
func load(postern string, o loadOptions, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithTimeout(context.Background(), loadTime)
	defer cancel()
	if limit, err := raiseFiles(uint64(2*o.sessions + spareFiles)); err != nil {
		fmt.Fprintln(stderr, "postern-lab:", err)
		return exitFinding
	} else if most := int(limit-spareFiles) / 2; most < o.sessions {
		fmt.Fprintf(stdout, "only %d files may be open here: %d sessions in place of %d\n", limit, most, o.sessions)
		o.sessions = most
	}
	code := exitFine
	for _, s := range scenarios {
		if !s.hold(ctx, postern, o, stdout, stderr) {
			code = exitFinding
		}
	}
	return code
}

// hold holds a scenario, shows it, and says whether all was as it should be.
func (s scenario) hold(ctx context.Context, postern string, o loadOptions, stdout, stderr io.Writer) bool {
	l := &assault{loadOptions: o, out: stdout}
	fmt.Fprintf(stdout, "\n%s\n", s.title)
	err := l.run(ctx, postern, s)
	for _, finding := range l.findings {
		fmt.Fprintf(stderr, "postern-lab: %s: %s\n", s.title, finding)
	}
	if err != nil {
		fmt.Fprintf(stderr, "postern-lab: %s: %v\n", s.title, err)
	}
	return err == nil && len(l.findings) == 0
}

// A scenario is one kind of load, with the limits that are to hold it.
type scenario struct {
	title     string
	timeouts  string
	limits    string
	deferring bool // the honest client may be put off, for there is no room
	act       func(*assault, context.Context) error
}

const (
	// short is what waiting is limited to where a limit is to be seen to hold. A
	// peer that sends an octet each drip is to it what one that sends an octet in
	// a minute is to five minutes.
	short = 3 * time.Second
	drip  = 600 * time.Millisecond

	shortTimeouts = "connect = \"3s\"\nhandshake = \"3s\"\ncommand = \"3s\"\ndata = \"3s\"\nfinal = \"3s\"\ndrain = \"3s\""
	longTimeouts  = "connect = \"10s\"\nhandshake = \"2m\"\ncommand = \"5m\"\ndrain = \"3s\""

	perSource  = 50  // sessions_per_source, where a flood is held by it
	everywhere = 200 // sessions, where a flood is held by that
)

var scenarios = []scenario{
	{"Slow clients: an octet now and then, and nothing read", shortTimeouts, "sessions_per_source = 2000", false, (*assault).slowClients},
	{"Slow servers: an octet now and then, and nothing read", shortTimeouts, "sessions_per_source = 2000", false, (*assault).slowServers},
	{"A flood from one source: idle, and half-open TLS", longTimeouts, fmt.Sprintf("sessions_per_source = %d", perSource), false,
		(*assault).floodFromOne},
	{"A flood from many sources: idle, and half-open TLS", longTimeouts,
		fmt.Sprintf("sessions = %d\nsessions_per_source = %d", everywhere, perSource), true, (*assault).floodFromMany},
	{"Very many idle sessions, and reloads under them", longTimeouts, "sessions = 60000\nsessions_per_source = 2000", false, (*assault).idle},
}

// An assault is one scenario under way.
type assault struct {
	loadOptions
	scenario
	out      io.Writer
	lab      *lab
	daemon   *daemon
	counters []*proxytest.Counter
	cert     tls.Certificate
	honest   *honest
	sources  []netip.Addr // of hostile clients
	dialled  atomic.Int64 // connections made, the honest client's included
	findings []string
}

// The addresses of the load.
var (
	honestClient = at("10.1.0.80")
	honestServer = at("203.0.113.10")
	idleServers  = addrs(at("203.0.113.20"), at("203.0.113.21"), at("203.0.113.22"), at("203.0.113.23"))
)

const hostileSources = 100

// run holds one scenario: honest mail before, during and after it. The error is
// what kept it from being held.
func (l *assault) run(ctx context.Context, postern string, s scenario) (err error) {
	l.scenario = s
	if l.lab, err = newLab(postern, nil); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.tearDown()) }()
	if err := l.setUp(ctx); err != nil {
		return err
	}
	before := l.memory()
	l.honest = newHonest(l)
	serving, done := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); l.honest.run(serving) }()
	pause(ctx, 2*time.Second)
	l.honest.begin("during")
	err = s.act(l, ctx)
	l.honest.begin("after")
	pause(ctx, 2*time.Second)
	done()
	<-ended
	l.honest.judge()
	if err != nil {
		return err
	}
	if err := l.allRecorded(ctx); err != nil {
		return err
	}
	l.row("memory before and after", fmt.Sprintf("%.1f MB, %.1f MB", megabytes(before), megabytes(l.memory())))
	return l.daemon.stop(ctx)
}

func (l *assault) setUp(ctx context.Context) error {
	for i := range hostileSources {
		l.sources = append(l.sources, netip.AddrFrom4([4]byte{10, 1, 0, byte(100 + i)}))
	}
	if err := l.lab.addClients(append(l.sources, honestClient)); err != nil {
		return err
	}
	var err error
	if l.cert, err = l.lab.pki.Issue(proxytest.Leaf{Names: []string{"mx.load.example"}}); err != nil {
		return err
	}
	for _, address := range append(addrs(honestServer), idleServers...) {
		counter, err := l.lab.count(address, proxytest.CounterConfig{Name: "mx.load.example", TLS: serverTLS(l.cert)})
		if err != nil {
			return err
		}
		l.counters = append(l.counters, counter)
	}
	if err := l.lab.configure("enforce", l.timeouts, "[limits]\n"+l.limits+"\n"); err != nil {
		return err
	}
	l.daemon, err = l.lab.start(ctx)
	return err
}

func (l *assault) tearDown() error {
	var errs []error
	if l.daemon != nil {
		l.daemon.mu.Lock()
		ended := l.daemon.ended
		l.daemon.mu.Unlock()
		if !ended {
			errs = append(errs, l.daemon.kill())
		}
	}
	for _, counter := range l.counters {
		errs = append(errs, counter.Close())
	}
	return errors.Join(append(errs, l.lab.close())...)
}

// dial connects from a client of the lab.
func (l *assault) dial(ctx context.Context, from, to netip.Addr) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := l.lab.network.Client.Dial(ctx, netip.AddrPortFrom(from, 0), netip.AddrPortFrom(to, smtpPort))
	if err == nil {
		l.dialled.Add(1)
	}
	return conn, err
}

// allRecorded waits until each connection has ended in a record: what is left in
// the program has none.
func (l *assault) allRecorded(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	want := int(l.dialled.Load())
	err := l.daemon.wait(ctx, func() bool { return len(l.daemon.records) >= want })
	l.daemon.mu.Lock()
	got := len(l.daemon.records)
	l.daemon.mu.Unlock()
	l.row("connections made, and sessions that ended", fmt.Sprintf("%d, %d", want, got))
	if got != want {
		l.finding("%d connections were made and %d sessions ended", want, got)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return nil // is the finding
	}
	return err
}

func (l *assault) row(name string, value any) { fmt.Fprintf(l.out, "  %-46s %v\n", name, value) }

func (l *assault) finding(format string, args ...any) {
	l.findings = append(l.findings, fmt.Sprintf(format, args...))
}
