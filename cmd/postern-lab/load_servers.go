package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"postern/proxy/proxytest"
)

// A slowServer is a server that holds a session for as long as it is let. It
// speaks, and once it is slow it drips.
type slowServer struct {
	name  string
	until string // command upon which it becomes slow; "" is the connection itself
	drips string
	size  int // of the message that is sent to it, octets
}

const (
	slowHello = "250-mx.slow.example\r\n250-SIZE\r\n250 STARTTLS\r\n"
	plainly   = "250-mx.slow.example\r\n250 SIZE\r\n"
)

var slowServers = []slowServer{
	{name: "an octet of the banner", drips: "220-mx.slow.example has much to say", size: 1 << 10},
	{name: "says nothing", size: 1 << 10},
	{name: "an octet of the reply to EHLO", until: "EHLO", drips: "250-mx.slow.example has much to say", size: 1 << 10},
	{name: "an octet of the handshake", until: "STARTTLS", drips: "\x16\x03\x03\x01\x00\x02\x00\x00\xfc\x03\x03", size: 1 << 10},
	{name: "an octet of the reply to MAIL", until: "MAIL", drips: "250-I am still thinking about that", size: 1 << 10},
	{name: "reads no content", until: "DATA", size: 8 << 20},
	{name: "says nothing to end-of-data", until: ".", size: 1 << 10},
}

// serveSlowly answers one connection until it is to be slow, then drips until
// nobody is there any more.
func (s slowServer) serveSlowly(conn *net.TCPConn, over <-chan struct{}) {
	defer conn.Close()
	if s.until == "" {
		s.drip(conn, over)
		return
	}
	in := bufio.NewReader(conn)
	say := func(text string) { _, _ = conn.Write([]byte(text)) } // reading tells of the end
	say("220 mx.slow.example\r\n")
	content := false
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if content && word != "." {
			continue
		}
		switch {
		case word == s.until && word == "STARTTLS":
			say("220 go ahead\r\n")
			s.drip(conn, over)
			return
		case word == s.until && word == "DATA":
			say("354 go ahead\r\n")
			s.drip(conn, over)
			return
		case word == s.until:
			s.drip(conn, over)
			return
		case word == "EHLO" && s.until == "STARTTLS":
			say(slowHello)
		case word == "EHLO":
			say(plainly)
		case word == "DATA":
			content = true
			say("354 go ahead\r\n")
		default:
			say("250 ok\r\n")
		}
	}
}

// drip sends an octet now and then, and reads nothing.
func (s slowServer) drip(conn *net.TCPConn, over <-chan struct{}) {
	tick := time.NewTicker(drip)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-over:
			return
		case <-tick.C:
		}
		if s.drips == "" {
			continue
		}
		if _, err := conn.Write([]byte{s.drips[i%len(s.drips)]}); err != nil {
			return
		}
	}
}

// slowServers sends a message to many of each kind at once and sees when each
// sender was told that it is put off.
func (l *assault) slowServers(ctx context.Context) error {
	var serving sync.WaitGroup
	defer serving.Wait()
	over := make(chan struct{})
	defer close(over)
	var listeners []net.Listener
	defer func() {
		for _, listener := range listeners {
			_ = listener.Close()
		}
	}()
	took := make([][]time.Duration, len(slowServers))
	var failed error
	var mu sync.Mutex
	var running sync.WaitGroup
	for i, kind := range slowServers {
		address := netip.AddrFrom4([4]byte{203, 0, 113, byte(40 + i)})
		listener, err := l.serveSlow(address, kind, &serving, over)
		if err != nil {
			return err
		}
		listeners = append(listeners, listener)
		n := l.slow
		if kind.size > 1<<20 {
			n = min(n, 10)
		}
		for j := range n {
			running.Go(func() {
				one, err := l.suffer(ctx, kind, address, j)
				mu.Lock()
				defer mu.Unlock()
				took[i] = append(took[i], one)
				if err != nil {
					failed = errors.Join(failed, fmt.Errorf("%s: %w", kind.name, err))
				}
			})
		}
	}
	running.Wait()
	for i, kind := range slowServers {
		median, _, longest := quantiles(took[i])
		l.row("server: "+kind.name, fmt.Sprintf("%d senders put off, median %s, longest %s", len(took[i]), median, longest))
		limit := short + l.lenience
		if kind.size > 1<<20 {
			limit += l.lenience // it has to get there first, and to fill all buffers
		}
		if longest > limit {
			l.finding("%s: a sender waited %s", kind.name, longest)
		}
	}
	return failed
}

func (l *assault) serveSlow(address netip.Addr, kind slowServer, serving *sync.WaitGroup, over <-chan struct{}) (net.Listener, error) {
	if err := l.lab.network.Server.AddAddress("eth0", subnet(address)); err != nil {
		return nil, err
	}
	listener, err := l.lab.network.Server.Listen(netip.AddrPortFrom(address, smtpPort))
	if err != nil {
		return nil, err
	}
	serving.Go(func() {
		for {
			conn, err := listener.AcceptTCP()
			if err != nil {
				return
			}
			serving.Go(func() { kind.serveSlowly(conn, over) })
		}
	})
	return listener, nil
}

// suffer sends one message to a slow server and returns how long that took. That
// it was accepted is an error.
func (l *assault) suffer(ctx context.Context, kind slowServer, to netip.Addr, n int) (time.Duration, error) {
	content := letter(newToken(), kind.size)
	conn, err := l.dial(ctx, l.sources[n%len(l.sources)], to)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	d := proxytest.Delivery{
		Name: "patient.hospital.example", Timeout: patience,
		Mails: []proxytest.Mail{{From: soakUser, To: []string{"office@partner.example"}, Content: content}},
	}
	report := proxytest.Deliver(conn, d)
	if report.Accepted(d) {
		return 0, errors.New("a message was accepted that the server had not accepted")
	}
	return time.Since(began), nil
}
