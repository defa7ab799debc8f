package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/mta"
	"postern/proxy/proxytest/netlab"
)

// soakOptions are the flags of the soak.
type soakOptions struct {
	messages int
	lasting  time.Duration
	seed     uint64
}

// settleTime is what a soak gets beyond its length: to begin, to have the queue
// drained, and to end.
const settleTime = 5 * time.Minute

// soak sends thousands of messages through postern while everything around it,
// and it itself, goes wrong, and counts what became of each. It returns the exit
// code and must be called within mta.Enter.
func soak(postern string, o soakOptions, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithTimeout(context.Background(), o.lasting+settleTime)
	defer cancel()
	fmt.Fprintf(stdout, "soak: %d messages in %s, seed %d\n", o.messages, o.lasting, o.seed)
	t := newTrial(o)
	err := t.run(ctx, postern, stdout)
	if missing := (*mta.MissingError)(nil); errors.As(err, &missing) {
		fmt.Fprintln(stderr, "postern-lab:", err)
		return exitUsage
	}
	t.show(stdout)
	for _, finding := range t.findings() {
		fmt.Fprintln(stderr, "postern-lab:", finding)
	}
	if err != nil {
		fmt.Fprintln(stderr, "postern-lab:", err)
	}
	if err != nil || len(t.findings()) > 0 {
		return exitFinding
	}
	return exitFine
}

// A trial is one soak.
type trial struct {
	soakOptions
	lab      *lab
	wires    []*netlab.Wire
	counters []*proxytest.Counter
	postfix  *mta.Postfix
	keeper   *keeper
	whims    *whims

	ledger *ledger
	book   *logbook
	faults map[string]int // injected, by name
	probe  prober
	result postfixLog
	queued int          // left in the queue at the end
	chunks *chunkSender // a sender that uses BDAT, as Postfix does not
	began  time.Time
	took   time.Duration
}

func newTrial(o soakOptions) *trial {
	return &trial{
		soakOptions: o, ledger: newLedger(), book: &logbook{}, faults: map[string]int{},
		whims: newWhims(o.seed), began: time.Now(),
	}
}

// The addresses of the soak: one server that Postfix sends to in clear, one that
// it sends to in TLS, and one for the sender of chunks and the prober.
var (
	soakClear  = at("203.0.113.10")
	soakSecret = at("203.0.113.11")
	soakChunks = at("203.0.113.12")

	chunkClient = at("10.1.0.70")
	probeClient = at("10.1.0.71")
)

// run does it all. The error is what kept the soak from going on; what it found
// stands in the trial.
func (t *trial) run(ctx context.Context, postern string, progress io.Writer) (err error) {
	defer func() { t.took = time.Since(t.began) }()
	if t.lab, err = newLabOver(t.lay, postern, nil); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.tearDown()) }()
	if err := t.setUp(ctx); err != nil {
		return err
	}
	var running sync.WaitGroup
	faulty, calm := context.WithTimeout(ctx, t.lasting)
	defer calm()
	probing, enough := context.WithCancel(ctx)
	defer enough()
	running.Go(func() { t.probe.run(probing, t.lab) })
	running.Go(func() { t.keeper.reloadEachSecond(faulty) })
	sent := make(chan error, 3)
	go func() { sent <- t.misbehave(faulty) }()
	go func() { sent <- t.submit(ctx) }()
	go func() { sent <- t.chunks.run(ctx) }()
	go t.tell(probing, progress)
	for range cap(sent) {
		if e := <-sent; e != nil {
			err = errors.Join(err, e)
			calm()
		}
	}
	if err == nil {
		err = t.settle(ctx)
	}
	calm()
	enough()
	running.Wait()
	return errors.Join(err, t.keeper.end(ctx), t.read())
}

// lay makes every cable of the lab one whose weather can change.
func (t *trial) lay(a, b netlab.End) error {
	wire, err := netlab.ConnectWire(a, b, t.seed+uint64(len(t.wires)))
	if err == nil {
		t.wires = append(t.wires, wire)
	}
	return err
}

func (t *trial) setUp(ctx context.Context) error {
	if err := t.lab.addClients(addrs(chunkClient, probeClient)); err != nil {
		return err
	}
	cert, err := t.lab.pki.Issue(proxytest.Leaf{Names: []string{"mx.soak.example"}})
	if err != nil {
		return err
	}
	for _, address := range addrs(soakClear, soakSecret, soakChunks) {
		counter, err := t.lab.count(address, proxytest.CounterConfig{
			Name: "mx.soak.example", TLS: serverTLS(cert), Timeout: time.Minute,
			Whim: t.whims.next, Arrived: t.ledger.arrive,
		})
		if err != nil {
			return err
		}
		t.counters = append(t.counters, counter)
	}
	// The log has a disk of its own, which can be filled.
	t.book.dir = filepath.Join(t.lab.dir, "log")
	if err := os.Mkdir(t.book.dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", t.book.dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("size=%d", logDisk)); err != nil {
		return fmt.Errorf("a disk for the log: %w", err)
	}
	t.book.mounted = true
	if t.keeper, err = newKeeper(ctx, t.lab, t.book, t.seed); err != nil {
		return err
	}
	t.chunks = newChunkSender(t)
	t.postfix, err = mta.StartPostfix(t.lab.network.Client, soakSender())
	return err
}

// tearDown ends what run has begun, in the reverse order.
func (t *trial) tearDown() error {
	var errs []error
	if t.postfix != nil {
		errs = append(errs, t.postfix.Stop())
	}
	if t.keeper != nil {
		errs = append(errs, t.keeper.close())
	}
	for _, counter := range t.counters {
		errs = append(errs, counter.Close())
	}
	if t.book.mounted {
		errs = append(errs, unix.Unmount(t.book.dir, 0))
	}
	for _, wire := range t.wires {
		errs = append(errs, wire.Close())
	}
	return errors.Join(append(errs, t.lab.close())...)
}

// settle has the queue drained now that all faults have ended. It must be empty
// twice in a row: a message that moves within it while it is listed can be missed.
func (t *trial) settle(ctx context.Context) error {
	flush := time.NewTicker(time.Second)
	defer flush.Stop()
	for empty := 0; ; {
		if err := t.postfix.Flush(); err != nil {
			return err
		}
		queue, err := t.postfix.Queue()
		if err != nil {
			return err
		}
		if t.queued = len(queue); t.queued > 0 {
			empty = 0
		} else if empty++; empty == 2 {
			return nil
		}
		select {
		case <-flush.C:
		case <-ctx.Done():
			return fmt.Errorf("%d messages are still in the queue: %w", t.queued, context.Cause(ctx))
		}
	}
}

// read takes in what the logs say.
func (t *trial) read() error {
	lines, err := t.postfix.Log()
	t.result = readPostfixLog(lines)
	return errors.Join(err, t.book.absorbAll())
}

// tell says every half minute how far it has come.
func (t *trial) tell(ctx context.Context, progress io.Writer) {
	tick := time.NewTicker(30 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			sent, arrived := t.ledger.counts()
			fmt.Fprintf(progress, "  %s: %d sent, %d arrived, %d restarts\n",
				time.Since(t.began).Round(time.Second), sent, arrived, t.keeper.restarts.Load())
		case <-ctx.Done():
			return
		}
	}
}
