package dnslab

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Zone is one that the lab serves.
type Zone struct {
	Name   string // "example.org"
	Signed bool   // by Knot, with a trust anchor for it in Unbound
	Bogus  bool   // Signed, but the trust anchor is of another key: nothing in it validates
	Dead   bool   // its server takes questions and answers none
	// Records are lines of a zone file, relative to the zone: "mx 5 A 192.0.2.1".
	// SOA, NS and the name server's address (ns) are there already; a line without
	// a TTL has one of 60 s, and so has that something does not exist.
	Records []string
}

// Options say how a lab is laid out. The zero value is good for most.
type Options struct {
	// Listen is where the resolver listens; the zero value is a free port of a
	// loopback address that no other lab has.
	Listen netip.AddrPort
	// Place is where the programs run and Listen is meant: a host of a network lab.
	// Nil is here.
	Place Place
}

// A Place runs programs and functions in a network of its own. It is what
// netlab.Host does.
type Place interface {
	Do(func() error) error
	Start(*exec.Cmd) error
}

// patience bounds every wait. A lab is up within a second, but a test may run
// beside many others.
const patience = 30 * time.Second

// A Lab is a running name server and a running resolver.
type Lab struct {
	tb       testing.TB
	dir      string
	place    Place
	server   netip.AddrPort // Knot
	dead     netip.AddrPort // who answers nothing
	resolver netip.AddrPort // Unbound

	mu       sync.Mutex
	zones    []*zone
	knot     *program
	unbound  *program
	mute     net.PacketConn
	mutetalk net.Listener
}

type zone struct {
	Zone
	serial int
	anchor string // DS record
}

// Start starts a lab for a test, and stops it when the test has ended. Without
// Knot or Unbound the test is skipped, or fails where CI is set.
func Start(tb testing.TB, zones ...Zone) *Lab {
	tb.Helper()
	return Options{}.Start(tb, zones...)
}

// Start is [Start] with options.
func (o Options) Start(tb testing.TB, zones ...Zone) *Lab {
	tb.Helper()
	for _, name := range []string{knotd, keymgr, unbound} {
		if _, err := exec.LookPath(name); err != nil && os.Getenv("CI") != "" {
			tb.Fatalf("dnslab: %v", err)
		} else if err != nil {
			tb.Skipf("dnslab: %v (Debian: apt-get install knot unbound; they need not be running)", err)
		}
	}
	// Not tb.TempDir, whose names are too long for a socket's.
	dir, err := os.MkdirTemp("", "dnslab")
	if err != nil {
		tb.Fatal(err)
	}
	l := &Lab{tb: tb, dir: dir, place: o.Place, resolver: o.Listen}
	if l.place == nil {
		own := newHere()
		l.place = own
		tb.Cleanup(func() { close(own) })
	}
	tb.Cleanup(func() {
		l.Stop()
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	for _, z := range zones {
		l.zones = append(l.zones, &zone{Zone: z, serial: 1})
	}
	for _, step := range []func() error{l.choose, l.writeKnot, l.makeKeys, l.startKnot, l.writeUnbound, l.startUnbound} {
		if err := step(); err != nil {
			tb.Fatalf("dnslab: %v\n%s", err, l.logs())
		}
	}
	return l
}

// Resolver gives the validating resolver's address.
func (l *Lab) Resolver() netip.AddrPort { return l.resolver }

// Server gives the address of the authoritative server, which does not resolve.
func (l *Lab) Server() netip.AddrPort { return l.server }

// Update replaces a zone's records. When it returns the zone is signed anew and
// the resolver has forgotten the old one.
func (l *Lab) Update(zone string, records ...string) {
	l.tb.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	found := false
	for _, z := range l.zones {
		if z.Name == zone {
			z.Records, found = records, true
			z.serial++
		}
	}
	if !found {
		l.tb.Fatalf("dnslab: there is no zone %s", zone)
	}
	l.knot.stop()
	steps := []func() error{l.writeKnot, l.startKnot}
	if l.unbound != nil {
		steps = append(steps, func() error { return l.forget(zone) })
	}
	for _, step := range steps {
		if err := step(); err != nil {
			l.tb.Fatalf("dnslab: %v\n%s", err, l.logs())
		}
	}
}

// StopResolver stops the resolver: from then on nobody listens at its address.
func (l *Lab) StopResolver() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unbound.stop()
	l.unbound = nil
}

// StopServer stops the authoritative server.
func (l *Lab) StopServer() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.knot.stop()
	l.knot = nil
}

// Stop stops everything. Stopping twice does nothing.
func (l *Lab) Stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unbound.stop()
	l.knot.stop()
	l.unbound, l.knot = nil, nil
	if l.mute != nil {
		l.mute.Close()
		l.mutetalk.Close()
		l.mute = nil
	}
}

// logs is what the programs have said, for a test that fails.
func (l *Lab) logs() string {
	var all strings.Builder
	for _, name := range []string{"knot.log", "unbound.log"} {
		said, _ := os.ReadFile(filepath.Join(l.dir, name))
		if len(said) > 0 {
			fmt.Fprintf(&all, "-- %s\n%s", name, said)
		}
	}
	return all.String()
}
