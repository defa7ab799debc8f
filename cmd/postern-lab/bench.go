package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"time"

	"postern/proxy/proxytest/mta"
)

// benchOptions are the flags of the benchmark.
type benchOptions struct {
	rounds int
	scale  float64        // of the number of sessions, messages and octets
	idle   int            // sessions that are idle at once
	rest   time.Duration  // how long they have been when memory is looked at
	only   *regexp.Regexp // workloads; nil: all
	among  *regexp.Regexp // contenders; nil: all
}

// benchTime bounds a benchmark.
const benchTime = 3 * time.Hour

// bench measures Postern beside others that could stand in its place. It returns
// the exit code and must be called within netlab.Enter.
//
// What counts is the processor time of the contender's own processes, which a
// machine that does other things besides hardly changes; wall time is printed
// beside it. In each round the contenders take turns, so that what changes on the
// machine meanwhile changes for all of them.
func bench(postern string, o benchOptions, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithTimeout(context.Background(), benchTime)
	defer cancel()
	limit, err := raiseFiles(uint64(2*o.idle + spareFiles))
	if err != nil {
		fmt.Fprintln(stderr, "postern-lab:", err)
		return exitFinding
	}
	o.idle = min(o.idle, int(limit-spareFiles)/2)
	b, err := newBench(postern, o)
	if err == nil {
		fmt.Fprintln(stdout, machine())
		err = b.run(ctx, stdout)
	}
	if b != nil {
		err = errors.Join(err, b.close())
	}
	if err != nil {
		fmt.Fprintln(stderr, "postern-lab:", err)
		return exitFinding
	}
	return exitFine
}

func (b *benchmark) run(ctx context.Context, out io.Writer) error {
	for _, w := range workloads {
		if b.only != nil && !b.only.MatchString(w.name) {
			continue
		}
		results := map[string][]figures{}
		for range b.rounds {
			for _, c := range contenders {
				if !b.takesPart(c, w) {
					continue
				}
				f, err := b.measure(ctx, w, c)
				if errors.As(err, new(*mta.MissingError)) {
					continue // this user cannot have it run
				}
				if err != nil {
					return fmt.Errorf("%s: %s: %w", w.name, c.name, err)
				}
				results[c.name] = append(results[c.name], f)
			}
		}
		show(out, w, results)
	}
	return nil
}

func (b *benchmark) takesPart(c contender, w workload) bool {
	return (b.among == nil || b.among.MatchString(c.name)) && slices.Contains(w.contenders, c.name) && c.missing() == ""
}

// measure has one contender do one workload once, beginning with a few sessions
// that are not counted.
func (b *benchmark) measure(ctx context.Context, w workload, c contender) (f figures, err error) {
	b.ledger.clear()
	r, err := c.start(ctx, b, w.setting)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, r.stop(ctx)) }()
	r.rest = b.rest
	if f, err = w.act(ctx, b, r); err != nil {
		return f, err
	}
	return f, b.ledger.check()
}

// figures are what came of one run of a workload.
type figures struct {
	units    float64 // how many there were of what the workload counts
	cpu      time.Duration
	wall     time.Duration
	few      time.Duration     // processor time of a session among few
	resident float64           // octets for each unit
	phases   [][]time.Duration // latencies: one list for each of the client's steps
}

// A workload is one kind of traffic.
type workload struct {
	name       string
	unit       string // "session"
	setting    setting
	contenders []string
	act        func(context.Context, *benchmark, *running) (figures, error)
	report     func(io.Writer, workload, map[string][]figures)
}

// A setting is what contender, client and server are told.
type setting struct {
	clear   bool   // the client's leg has no TLS
	tickets bool   // the server lets sessions be resumed
	rsa     bool   // certificates, on both legs; otherwise ECDSA P-256
	classic bool   // X25519 alone; otherwise what Go offers, X25519MLKEM768
	rules   int    // of Postern; 0: one of each kind
	idle    int    // sessions that are idle at once, at most; 0: as many as can be
	limits  string // of Postern, further
}
