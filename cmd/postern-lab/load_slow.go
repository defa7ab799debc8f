package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"postern/proxy/proxytest"
)

// A slowClient is one that holds a session for as long as it is let.
type slowClient struct {
	name string
	// prepare brings a session to where it slows down.
	prepare func(*proxytest.Client) error
	octet   []byte // sent again and again, one octet each drip; empty: nothing
	flood   bool   // sends all the time and reads nothing
}

var slowClients = []slowClient{
	{name: "says nothing", prepare: hearBanner},
	{name: "an octet of a command", prepare: hearBanner, octet: []byte("E")},
	{name: "says nothing in the handshake", prepare: beginHandshake},
	{name: "an octet of the handshake", prepare: beginHandshake, octet: []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")},
	{name: "says nothing in content", prepare: beginContent},
	{name: "an octet of content", prepare: beginContent, octet: []byte("x")},
	{name: "sends and never reads", prepare: sayHello, flood: true},
}

func hearBanner(c *proxytest.Client) error {
	reply, err := c.ReadReply()
	return wanted(reply, 220, err)
}

func sayHello(c *proxytest.Client) error {
	if err := hearBanner(c); err != nil {
		return err
	}
	reply, err := c.Hello("EHLO", "slow.hospital.example")
	return wanted(reply, 250, err)
}

func beginHandshake(c *proxytest.Client) error {
	if err := sayHello(c); err != nil {
		return err
	}
	reply, err := c.Command("STARTTLS")
	return wanted(reply, 220, err)
}

func beginContent(c *proxytest.Client) error {
	if err := sayHello(c); err != nil {
		return err
	}
	replies, err := c.Pipeline("MAIL FROM:<"+soakUser+">", "RCPT TO:<office@partner.example>", "DATA")
	if err != nil {
		return err
	}
	return wanted(replies[2], 354, nil)
}

func wanted(reply proxytest.Reply, code int, err error) error {
	if err == nil && reply.Code != code {
		return fmt.Errorf("heard %q, expected %d", reply, code)
	}
	return err
}

// watchFor is how long slow clients are watched: longer than all limits.
func (l *assault) watchFor() time.Duration { return short + l.lenience }

// slowClients holds many of each kind at once and sees when each was cut off.
func (l *assault) slowClients(ctx context.Context) error {
	cuts := make([][]time.Duration, len(slowClients))
	alive := make([]int, len(slowClients))
	var failed error
	var mu sync.Mutex
	var running sync.WaitGroup
	for i, kind := range slowClients {
		n := l.slow
		if kind.flood {
			n = min(n, 4) // each keeps a processor busy
		}
		for j := range n {
			running.Go(func() {
				cut, err := l.hold(ctx, kind, j)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil:
					failed = errors.Join(failed, fmt.Errorf("%s: %w", kind.name, err))
				case cut == 0:
					alive[i]++
				default:
					cuts[i] = append(cuts[i], cut)
				}
			})
		}
	}
	running.Wait()
	for i, kind := range slowClients {
		median, _, longest := quantiles(cuts[i])
		l.row("client: "+kind.name, fmt.Sprintf("%d cut off, median %s, longest %s; %d still there after %s",
			len(cuts[i]), median, longest, alive[i], l.watchFor()))
		if alive[i] > 0 {
			l.finding("%s: %d are still there after %s", kind.name, alive[i], l.watchFor())
		}
	}
	return failed
}

// hold holds one slow session and returns when it was cut off, 0 if it was not.
func (l *assault) hold(ctx context.Context, kind slowClient, n int) (time.Duration, error) {
	conn, err := l.dial(ctx, l.sources[n%len(l.sources)], idleServers[n%len(idleServers)])
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if kind.flood {
		if err := conn.SetReadBuffer(4 << 10); err != nil {
			return 0, err
		}
	}
	if err := kind.prepare(proxytest.NewClient(conn, patience)); err != nil {
		return 0, err
	}
	began := time.Now()
	if kind.flood {
		return l.floodOne(conn, began)
	}
	if err := conn.SetDeadline(began.Add(l.watchFor())); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, conn); ended <- err }()
	tick := time.NewTicker(drip)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
			if len(kind.octet) > 0 {
				_, _ = conn.Write(kind.octet[i%len(kind.octet):][:1]) // reading tells of the end
			}
		case err := <-ended:
			if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
				return 0, nil
			}
			return time.Since(began), nil
		}
	}
}

// floodLimit bounds what a client sends that never reads, in octets.
const floodLimit = 64 << 20

// floodOne sends commands and never reads, until writing fails.
func (l *assault) floodOne(conn *net.TCPConn, began time.Time) (time.Duration, error) {
	// Buffers have to be full before anything can be noticed.
	if err := conn.SetDeadline(began.Add(2 * l.watchFor())); err != nil {
		return 0, err
	}
	// The answer is long, and Postern gives it itself.
	commands := bytes.Repeat([]byte("EHLO slow.hospital.example\r\n"), 256)
	for sent := 0; sent < floodLimit; {
		n, err := conn.Write(commands)
		sent += n
		switch {
		case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
			return time.Since(began), nil
		case err != nil:
			return 0, nil // the time is up, and the session still there
		}
	}
	return 0, fmt.Errorf("%d octets of commands were taken though no reply was read", floodLimit)
}
