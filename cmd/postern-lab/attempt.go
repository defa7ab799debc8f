package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"postern/smtpwire/wiretest"
)

// hostilePatience bounds each wait of a script: longer than anything that Postern
// waits for in the gallery.
const hostilePatience = 20 * time.Second

// An attempt is one attack as it went.
type attempt struct {
	attack
	client  transcript
	servers []transcript // a connection each
	record  record
	faults  []string
}

func (t *attempt) fault(format string, args ...any) {
	t.faults = append(t.faults, fmt.Sprintf(format, args...))
}

// A transcript is what one side did and what it saw of Postern, in order.
type transcript struct {
	mu     sync.Mutex
	events []wiretest.Event
}

// note joins what follows each other from one side in one phase.
func (t *transcript) note(e wiretest.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.events); n > 0 && e.Note == "" {
		if last := &t.events[n-1]; last.Note == "" && last.From == e.From && last.TLS == e.TLS {
			last.Bytes = append(last.Bytes, e.Bytes...)
			return
		}
	}
	t.events = append(t.events, e)
}

// attempt plays an attack in a slot and judges it.
func (g *gallery) attempt(ctx context.Context, slot int, a attack) *attempt {
	t := &attempt{attack: a, servers: make([]transcript, len(a.servers))}
	if err := g.stage(ctx, slot, t); err != nil {
		t.fault("%v", err)
	}
	if t.record.raw != "" {
		t.judge()
	}
	return t
}

// stage has the attack happen, and waits for its record.
func (g *gallery) stage(ctx context.Context, slot int, t *attempt) error {
	var signals wiretest.Signals
	server := netip.AddrPortFrom(place{name: t.where}.address(slot), smtpPort)
	listener, err := g.lab.network.Server.Listen(server)
	if err != nil {
		return err
	}
	defer listener.Close()
	before := g.daemon.recorded()
	conn, err := g.lab.network.Client.Dial(ctx, netip.AddrPortFrom(hostileAddress(slot), 0), server)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := conn.LocalAddr().(*net.TCPAddr).AddrPort()

	served := make(chan error, 1)
	go func() { served <- g.serve(listener, &signals, t) }()
	_, failure := t.attack.client.Run(conn, wiretest.Client, wiretest.Options{
		TLS: g.client.usual, Named: g.client.named, Timeout: hostilePatience, Piece: t.piece, Signals: &signals, Trace: t.client.note,
	})
	conn.Close() // so that a server does not wait for what will not come
	ctx, cancel := context.WithTimeout(ctx, hostilePatience)
	defer cancel()
	t.record, err = g.daemon.recordAfter(ctx, netip.AddrPortFrom(client.Addr().Unmap(), client.Port()), before)
	listener.Close() // the session is over: whoever has not connected will not
	return errors.Join(failure, <-served, err)
}

// serve plays the servers, a connection each, and lets nobody else in.
func (g *gallery) serve(listener net.Listener, signals *wiretest.Signals, t *attempt) error {
	var playing sync.WaitGroup
	defer playing.Wait()
	errs := make([]error, len(t.attack.servers))
	for i, script := range t.attack.servers {
		conn, err := listener.Accept()
		if err != nil {
			return fmt.Errorf("there was no connection %d to the server", i+1)
		}
		playing.Go(func() {
			defer conn.Close()
			_, errs[i] = script.Run(conn, wiretest.Server, wiretest.Options{
				TLS: g.server.usual, Named: g.server.named, Timeout: hostilePatience, Signals: signals, Trace: t.servers[i].note,
			})
		})
	}
	if conn, err := listener.Accept(); err == nil {
		conn.Close()
		return errors.New("there was one connection more to the server")
	}
	playing.Wait()
	return errors.Join(errs...)
}

// judge holds the record against what it must say, and all that was seen against
// what holds for every attack.
func (t *attempt) judge() {
	for _, want := range t.attack.record {
		if got := t.record.field(want.path); got != want.value {
			t.fault("record: %s is %q, expected %q", want.path, got, want.value)
		}
	}
	t.nothingInClear("client", &t.client, wiretest.Server)
	for i := range t.servers {
		t.nothingInClear("server", &t.servers[i], wiretest.Client)
	}
	if bytes.Contains([]byte(t.record.raw), []byte(smuggler)) {
		t.fault("the record holds the local part of an address, or content")
	}
}

// smuggler is the local part of all addresses in commands that must not arrive.
const smuggler = "smuggle"

// nothingInClear makes sure that behind a handshake that failed Postern said not a
// word in clear (RFC 3207 §4.1); alerts are records and no words.
func (t *attempt) nothingInClear(side string, seen *transcript, postern wiretest.Side) {
	failed := false
	for _, e := range seen.events {
		failed = failed || e.Failed
		if failed && e.From == postern && len(e.Bytes) > 0 && !wiretest.IsRecord(e.Bytes) {
			t.fault("the %s heard %q in clear behind a handshake that failed", side, e.Bytes)
		}
	}
}
