package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"postern/proxy/proxytest"
)

// soon is the most that new sessions may have to wait: three advertisements
// that do not come, and what a client needs to try again.
const soon = 10 * time.Second

// passes has sessions of both families go through, soon, by that gateway, which
// records them.
func (p *pair) passes(t *testing.T, when string, g *gateway) {
	t.Helper()
	for _, way := range [][2]netip.Addr{{p.client4, p.server4}, {p.client6, p.server6}} {
		began := time.Now()
		var local netip.AddrPort
		for {
			var err error
			if local, err = p.converse(way[0], way[1]); err == nil {
				break
			}
			if time.Since(began) > soon {
				t.Fatalf("%s: no session from %s after %s: %v", when, way[0], time.Since(began), err)
			}
			select {
			case <-time.After(20 * time.Millisecond): // where it is refused at once
			case <-p.ctx.Done():
			}
		}
		t.Logf("%s: a session from %s after %s", when, way[0], time.Since(began).Round(time.Millisecond))
		r, err := g.record(p.ctx, local)
		if err != nil {
			t.Fatalf("%s: %s has no record: %v", when, g.host.Name(), err)
		}
		if r.Verdict != "allow" || r.Upstream.Address != way[1] {
			t.Errorf("%s: the record says %+v", when, r)
		}
	}
}

// converse tries a session, for half a second.
func (p *pair) converse(from, to netip.Addr) (netip.AddrPort, error) {
	const limit = 500 * time.Millisecond
	ctx, cancel := context.WithTimeout(p.ctx, limit)
	defer cancel()
	conn, err := p.client.Dial(ctx, netip.AddrPortFrom(from, 0), netip.AddrPortFrom(to, smtpPort))
	if err != nil {
		return netip.AddrPort{}, err
	}
	c := proxytest.NewClient(conn, limit)
	defer c.Close()
	if reply, err := c.ReadReply(); err != nil || reply.Code != 220 {
		return netip.AddrPort{}, fmt.Errorf("banner: %s %w", reply, err)
	}
	if reply, err := c.Hello("EHLO", "client.example"); err != nil || !reply.OK() {
		return netip.AddrPort{}, fmt.Errorf("EHLO: %s %w", reply, err)
	}
	if _, err := c.Pipeline("QUIT"); err != nil {
		return netip.AddrPort{}, err
	}
	return netip.MustParseAddrPort(conn.LocalAddr().String()), nil
}

// underWay opens a session that is to be cut.
func (p *pair) underWay(t *testing.T) *net.TCPConn {
	t.Helper()
	conn, err := p.client.Dial(p.ctx, netip.AddrPort{}, netip.AddrPortFrom(p.server4, smtpPort))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	c := proxytest.NewClient(conn, patience)
	if reply, err := c.ReadReply(); err != nil || reply.Code != 220 {
		t.Fatalf("banner: %s %v", reply, err)
	}
	if replies, err := c.Pipeline("EHLO client.example", "MAIL FROM:<a@hospital.example>"); err != nil || len(replies) != 2 {
		t.Fatalf("%v %v", replies, err)
	}
	return conn
}

// isCut wants the sender to be told, not to be left waiting.
func isCut(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	must(t, conn.SetDeadline(time.Now().Add(soon)))
	_, err := conn.Write([]byte("NOOP\r\n"))
	if err == nil {
		_, err = conn.Read(make([]byte, 100))
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("a session under way: %v, want a reset", err)
	}
}

func TestNewSessionsGoThroughTheOtherGatewayWhenOneFails(t *testing.T) {
	p := newPair(t)
	first, second := p.gateways[0], p.gateways[1]
	p.startKeepalived(t, first)
	p.startKeepalived(t, second)
	p.holds(t, first) // the higher priority
	p.passes(t, "at first", first)

	running := p.underWay(t)
	first.dies(t)
	p.passes(t, "after the first died", second)
	p.holds(t, second)
	isCut(t, running)

	p.boots(t, first)
	p.waitFor(t, first, "Entering BACKUP STATE", 4)
	p.passes(t, "after the first came back", second) // each move cuts sessions

	second.dies(t)
	p.passes(t, "after the second died", first)
	p.holds(t, first)
	p.boots(t, second)
	p.waitFor(t, second, "Entering BACKUP STATE", 4)

	if !ownedByRoot(t, "/bin/grep") {
		t.Log("an ordinary user's root does not own the machine's programs, and keepalived runs no others: track_script stays untried")
		return
	}
	// Where nothing listens, mail goes the other way, too.
	if err := first.kill(); err != nil {
		t.Log(err) // how it ended
	}
	p.passes(t, "after Postern was gone on the first", second)
	p.holds(t, second)
	first.startPostern(p.ctx, t)
	p.passes(t, "after Postern was back on the first", second)
}

func ownedByRoot(t *testing.T, path string) bool {
	t.Helper()
	var status unix.Stat_t
	must(t, unix.Stat(path, &status))
	return status.Uid == 0
}

// waitFor waits until keepalived has said something so many times in this lab.
func (p *pair) waitFor(t *testing.T, g *gateway, words string, times int) {
	t.Helper()
	for strings.Count(g.said.String(), words) < times {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-p.ctx.Done():
			t.Fatalf("keepalived on %s has not said %q %d times", g.host.Name(), words, times)
		}
	}
}
