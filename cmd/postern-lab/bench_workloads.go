package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"postern/proxy/proxytest"
)

var (
	all       = []string{"direct", "floor", "Postern", "stunnel", "Postfix", "haproxy"}
	inTLS     = []string{"direct", "floor", "Postern", "stunnel"}
	relays    = []string{"floor", "Postern", "stunnel"}
	two       = []string{"floor", "Postern"}
	alone     = []string{"Postern"}
	small     = performance{size: 4 << 10, messages: 1}
	fifty     = 50
	unlimited = "sessions = 60000\nsessions_per_source = 60000"
)

var workloads = []workload{
	{name: "small", unit: "session", contenders: all, act: smallMessages},
	{name: "small, resumed", unit: "session", setting: setting{tickets: true}, contenders: two, act: smallMessages},
	{name: "small, X25519", unit: "session", setting: setting{classic: true}, contenders: relays, act: smallMessages},
	{name: "small, RSA-2048", unit: "session", setting: setting{rsa: true}, contenders: relays, act: smallMessages},
	{name: "small, RSA-2048, X25519", unit: "session", setting: setting{rsa: true, classic: true}, contenders: relays, act: smallMessages},
	{name: "small, processors", unit: "session", contenders: []string{"Postern", "Postern on 1"}, act: smallMessages},
	{name: "small, rules", unit: "session", contenders: []string{"Postern", "Postern, 1,000 rules"}, act: smallMessages},
	{name: "clear client", unit: "session", setting: setting{clear: true}, contenders: without("haproxy"), act: smallMessages},
	{name: "clear client, resumed", unit: "session", setting: setting{clear: true, tickets: true}, contenders: two, act: smallMessages},
	{name: "20 MiB", unit: "GB", contenders: all, act: bigMessages},
	{name: "20 MiB, clear client", unit: "GB", setting: setting{clear: true}, contenders: relays, act: bigMessages},
	{name: "100 messages", unit: "message", contenders: inTLS, act: trains},
	{name: "all at once", unit: "session", setting: setting{limits: unlimited}, contenders: two, act: fewAndMany, report: showGrowth},
	{name: "idle, 5,000", unit: "session", setting: setting{limits: unlimited, idle: 5000}, contenders: two, act: crowds, report: showMemory},
	{name: "idle", unit: "session", setting: setting{limits: unlimited}, contenders: relays, act: crowds, report: showMemory},
	{name: "idle, clear client", unit: "session", setting: setting{clear: true, limits: unlimited}, contenders: relays, act: crowds, report: showMemory},
	{name: "one at a time", unit: "session", contenders: inTLS, act: oneByOne, report: showLatency},
	{name: "refused", unit: "connection", setting: setting{limits: "sessions_per_source = 1"}, contenders: alone, act: refusals},
}

// without are all contenders but one.
func without(name string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(n string) bool { return n == name })
}

// scaled is a number of things to do, at least one.
func (b *benchmark) scaled(n int) int { return max(1, int(float64(n)*b.scale)) }

func smallMessages(ctx context.Context, b *benchmark, r *running) (figures, error) {
	n := b.scaled(2000)
	f, err := b.many(ctx, r, small, n, fifty)
	f.units = float64(n)
	return f, errors.Join(err, b.recorded(r, n+warmUp(n, fifty)))
}

// recorded finds fault unless a record was written for each session, and the
// sessions with the server were resumed where they could be.
func (b *benchmark) recorded(r *running, sessions int) error {
	if r.log == "" {
		return nil
	}
	text, err := os.ReadFile(r.log)
	if err != nil {
		return err
	}
	if n := bytes.Count(text, []byte(`"msg":"session"`)); n != sessions {
		return fmt.Errorf("%d sessions, %d records", sessions, n)
	}
	// Those that begin at once, the first time, have nothing to resume yet.
	if n := bytes.Count(text, []byte(`"resumed":true`)); r.tickets && n < sessions-2*fifty {
		return fmt.Errorf("%d sessions, %d of them resumed", sessions, n)
	}
	return os.Truncate(r.log, 0)
}

func bigMessages(ctx context.Context, b *benchmark, r *running) (figures, error) {
	p := performance{size: 20 << 20, messages: 1}
	n := b.scaled(60)
	f, err := b.many(ctx, r, p, n, 4)
	f.units = float64(n) * float64(p.size) / 1e9
	return f, err
}

func trains(ctx context.Context, b *benchmark, r *running) (figures, error) {
	p := performance{size: 4 << 10, messages: 100}
	n := b.scaled(150)
	f, err := b.many(ctx, r, p, n, 20)
	f.units = float64(n * p.messages)
	return f, err
}

// atRest waits until what a session leaves to be done is done: records, and messages
// that were accepted before they were delivered.
func (r *running) atRest(ctx context.Context, b *benchmark) error {
	pause(ctx, 200*time.Millisecond)
	for began := time.Now(); b.ledger.missing() > 0 && time.Since(began) < time.Minute; {
		pause(ctx, 100*time.Millisecond)
	}
	return ctx.Err()
}

// crowds holds very many sessions at once, looks at the memory when they have been
// at rest for some time, and sends a message in each.
func crowds(ctx context.Context, b *benchmark, r *running) (f figures, err error) {
	atOnce := b.idle
	if r.idle > 0 {
		atOnce = min(atOnce, r.idle)
	}
	sessions := make([]*proxytest.Client, atOnce)
	defer func() {
		for _, c := range sessions {
			if c != nil {
				err = errors.Join(err, c.Close())
			}
		}
	}()
	pause(ctx, time.Second)
	resident, before, began := r.resident(), r.cpu(), time.Now()
	if err := abreast(len(sessions), func(n int) error {
		conn, err := b.dial(ctx, r, n)
		if err != nil {
			return err
		}
		sessions[n] = proxytest.NewClient(conn, patience)
		return hello(sessions[n], r.setting, func(int) {})
	}); err != nil {
		return f, err
	}
	opened := r.cpu() - before
	pause(ctx, r.rest)
	f.units = float64(len(sessions))
	f.resident = (r.resident() - resident) / f.units
	m := b.compose("crowd", small)
	before = r.cpu()
	err = abreast(len(sessions), func(n int) error {
		c := sessions[n]
		if err := b.send(c, m, func(int) {}); err != nil {
			return err
		}
		_, err := c.Command("QUIT")
		return err
	})
	f.cpu, f.wall = opened+r.cpu()-before, time.Since(began)
	return f, err
}

// fewAndMany holds as many sessions, fifty at a time and all at once, and compares what
// one of them needs.
func fewAndMany(ctx context.Context, b *benchmark, r *running) (f figures, err error) {
	few, err := b.many(ctx, r, small, b.scaled(2000), fifty)
	if err != nil {
		return f, err
	}
	r.rest = 0 // a session that is only waited for needs none
	f, err = crowds(ctx, b, r)
	f.few = few.cpu / time.Duration(b.scaled(2000))
	return f, err
}

// abreast does a number of things, fifty at once.
func abreast(n int, do func(int) error) error {
	errs := make([]error, fifty)
	var running sync.WaitGroup
	for worker := range fifty {
		running.Go(func() {
			for i := worker; i < n && errs[worker] == nil; i += fifty {
				errs[worker] = do(i)
			}
		})
	}
	running.Wait()
	return errors.Join(errs...)
}

// resident is what is in memory of the contender, in octets.
func (r *running) resident() float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", r.pid))
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseFloat(fields[1], 64)
	return pages * float64(os.Getpagesize())
}

// oneByOne holds one session after the other and keeps time at each step.
func oneByOne(ctx context.Context, b *benchmark, r *running) (f figures, err error) {
	m := b.compose("alone", small)
	n := b.scaled(300)
	for i := range 20 {
		if err := b.converse(ctx, r, i, m, func(int) {}); err != nil {
			return f, err
		}
	}
	f.units, f.phases = float64(n), make([][]time.Duration, steps+1)
	before, began := r.cpu(), time.Now()
	for i := range n {
		start := time.Now()
		last := start
		clock := func(step int) {
			now := time.Now()
			f.phases[step] = append(f.phases[step], now.Sub(last))
			last = now
		}
		if err := b.converse(ctx, r, i, m, clock); err != nil {
			return f, err
		}
		f.phases[steps] = append(f.phases[steps], time.Since(start))
	}
	f.cpu, f.wall = r.cpu()-before, time.Since(began)
	return f, nil
}

// refusals connects from an address that has all the sessions it may have.
func refusals(ctx context.Context, b *benchmark, r *running) (f figures, err error) {
	held := make([]net.Conn, len(b.sources))
	for i := range held {
		conn, err := b.dial(ctx, r, i)
		if err != nil {
			return f, err
		}
		defer conn.Close()
		reply, err := proxytest.NewClient(conn, patience).ReadReply()
		if err := wanted(reply, 220, err); err != nil {
			return f, err
		}
	}
	n := b.scaled(5000)
	before, began := r.cpu(), time.Now()
	err = abreast(n, func(i int) error {
		conn, err := b.dial(ctx, r, i)
		if err != nil {
			return err
		}
		defer conn.Close()
		reply, err := proxytest.NewClient(conn, patience).ReadReply()
		return wanted(reply, 421, err)
	})
	f.units, f.cpu, f.wall = float64(n), r.cpu()-before, time.Since(began)
	return f, err
}
