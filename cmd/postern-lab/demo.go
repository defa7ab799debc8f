package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// demoTime bounds the whole demo. It takes a few seconds.
const demoTime = 3 * time.Minute

// demo builds the lab, holds the conversations and shows them; it returns the
// exit code. It must be called within netlab.Enter.
func demo(postern string, json bool, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithTimeout(context.Background(), demoTime)
	defer cancel()
	out := newPage(stdout)
	if json {
		out = newPage(io.Discard)
	}
	p := &play{}
	out.head(len(conversations(senders{})) + len(observed(senders{})))
	err := p.run(ctx, postern)
	for i, r := range p.results {
		out.show(p.lab, i+1, r)
		if json {
			fmt.Fprintln(stdout, r.record.raw)
		}
	}
	if err != nil {
		fmt.Fprintln(stderr, "postern-lab:", err)
		return exitFinding
	}
	out.tail(p.results, p.finding)
	code := exitFine
	for _, r := range p.results {
		for _, fault := range r.faults {
			code = exitFinding
			if json { // who reads records alone has not seen it
				fmt.Fprintf(stderr, "postern-lab: %s: %s\n", r.title, fault)
			}
		}
	}
	return code
}

// A play is one run of the demo.
type play struct {
	lab     *lab
	daemon  *daemon
	results []*result
	finding finding
}

// run does all there is to do. The error is what kept the play from going on;
// that a conversation went otherwise than wanted stands in its result.
func (p *play) run(ctx context.Context, postern string) (err error) {
	if p.lab, err = newLab(postern, sites()); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.lab.close()) }()
	all, err := newSenders(p.lab.pki)
	if err != nil {
		return err
	}
	if err := p.lab.addClients(all.addresses()); err != nil {
		return err
	}
	if err := p.lab.configure("enforce", timeouts, rules); err != nil {
		return err
	}
	if p.daemon, err = p.lab.start(ctx); err != nil {
		return err
	}
	evidence, err := beginProof(p.lab.network.Gateway)
	if err != nil {
		return errors.Join(err, p.daemon.kill())
	}
	err = p.acts(ctx, all)
	var unproven error
	p.finding, unproven = evidence.end(p.results)
	return errors.Join(err, unproven)
}

// acts are the conversations, a reload in between and the end of the daemon.
func (p *play) acts(ctx context.Context, all senders) error {
	err := p.hold(ctx, conversations(all))
	if err == nil {
		err = p.observe(ctx)
	}
	if err == nil {
		err = p.hold(ctx, observed(all))
	}
	if err == nil {
		err = p.checkCapabilities()
	}
	if err != nil {
		return errors.Join(err, p.daemon.kill())
	}
	return p.daemon.stop(ctx)
}

// hold holds conversations all at once, for none has to do with any other. Of
// those that came to no record nothing can be shown.
func (p *play) hold(ctx context.Context, list []conversation) error {
	results, errs := make([]*result, len(list)), make([]error, len(list))
	var running sync.WaitGroup
	for i, c := range list {
		running.Go(func() { results[i], errs[i] = c.hold(ctx, p.lab, p.daemon) })
	}
	running.Wait()
	for _, r := range results {
		if r != nil {
			p.results = append(p.results, r)
		}
	}
	failed := slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(failed) == 0 {
		return nil
	}
	// They most likely have one cause.
	return fmt.Errorf("%d conversations failed, this one first: %w", len(failed), failed[0])
}

// observe has the daemon go on with mode = "observe".
func (p *play) observe(ctx context.Context) error {
	if err := p.lab.configure("observe", timeouts, rules); err != nil {
		return err
	}
	_, err := p.daemon.reload(ctx)
	return err
}

// checkCapabilities holds the daemon to its promise that one is enough.
func (p *play) checkCapabilities() error {
	held, err := p.daemon.capabilities()
	if err == nil && held != 1<<unix.CAP_NET_RAW {
		err = fmt.Errorf("postern run holds the capabilities %#x, expected CAP_NET_RAW alone", held)
	}
	return err
}
