package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"postern/proxy/proxytest/netlab"
)

// A daemon is a running `postern run`, and all that was heard of it: by its log,
// which goes to standard error, and as its service manager.
type daemon struct {
	command *exec.Cmd
	manager *manager

	mu      sync.Mutex
	changed chan struct{} // closed and replaced whenever something was heard
	heard   []notification
	records []record
	events  []string // lines of the log that are no records
	ended   bool
	err     error // of its end
}

// startDaemon starts the program with a configuration on a host, with CAP_NET_RAW
// and no other capability, and returns when it is ready. It inherits the listening
// sockets that it is given, as of a service manager (sd_listen_fds(3)). It is
// killed when ctx or the host ends.
func startDaemon(ctx context.Context, host *netlab.Host, postern, config string, sockets ...*os.File) (*daemon, error) {
	d := &daemon{changed: make(chan struct{})}
	var err error
	if d.manager, err = newManager(filepath.Dir(config), d.hear); err != nil {
		return nil, err
	}
	d.command = host.Command(ctx, "/proc/self/exe", confinedCommand, postern, "run", "--config", config)
	d.command.Env = append(os.Environ(), d.manager.environment())
	if len(sockets) > 0 {
		d.command.Env = append(d.command.Env, "LISTEN_FDS="+strconv.Itoa(len(sockets)))
		d.command.ExtraFiles = sockets // from descriptor 3 on, as sd_listen_fds(3) has it
	}
	log, err := d.command.StderrPipe()
	if err == nil {
		err = host.Start(d.command)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("postern run: %w", err), d.manager.close())
	}
	go d.follow(log)
	err = d.wait(ctx, func() bool {
		return slices.ContainsFunc(d.heard, func(n notification) bool { return n.ready })
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("waiting for postern run to be ready: %w", err), d.kill())
	}
	return d, nil
}

// follow reads the log to its end, then notes how the program ended: in this
// order, or Wait could throw away what is still in the pipe.
func (d *daemon) follow(log io.Reader) {
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		d.note(func() {
			if r, ok := parseRecord(line); ok {
				d.records = append(d.records, r)
			} else {
				d.events = append(d.events, line)
			}
		})
	}
	err := errors.Join(lines.Err(), d.command.Wait())
	d.note(func() { d.ended, d.err = true, err })
}

func (d *daemon) hear(n notification) { d.note(func() { d.heard = append(d.heard, n) }) }

// note changes what was heard under the lock and wakes those who wait.
func (d *daemon) note(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
	close(d.changed)
	d.changed = make(chan struct{})
}

// wait waits for a condition, which is called under the lock; the end of the
// program is an error if it does not fulfil it.
func (d *daemon) wait(ctx context.Context, enough func() bool) error {
	for {
		d.mu.Lock()
		done, ended, changed := enough(), d.ended, d.changed
		d.mu.Unlock()
		switch {
		case done:
			return nil
		case ended:
			return fmt.Errorf("postern run has ended: %w\n%s", errorOr(d.err, "exit 0"), d.lastWords())
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w\n%s", context.Cause(ctx), d.lastWords())
		}
	}
}

func errorOr(err error, otherwise string) error {
	if err == nil {
		return errors.New(otherwise)
	}
	return err
}

// lastWords are the last lines of the log that are no records.
func (d *daemon) lastWords() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.events[max(0, len(d.events)-10):], "\n")
}

// record waits for the record of the session that a client opened.
func (d *daemon) record(ctx context.Context, client netip.AddrPort) (record, error) {
	return d.recordAfter(ctx, client, 0)
}

// recorded is how many records there are.
func (d *daemon) recorded() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.records)
}

// recordAfter is record, but for the first so many records: a client's port may be
// one that an earlier client had.
func (d *daemon) recordAfter(ctx context.Context, client netip.AddrPort, first int) (record, error) {
	var found record
	err := d.wait(ctx, func() bool {
		for _, r := range d.records[first:] {
			if r.Client.addrPort() == client {
				found = r
				return true
			}
		}
		return false
	})
	if err != nil {
		return record{}, fmt.Errorf("waiting for the record of the session of %s: %w", client, err)
	}
	return found, nil
}

// reload has the configuration read anew and returns the status that the daemon
// gave itself when it was done, whether it took the new one or kept the old.
func (d *daemon) reload(ctx context.Context) (status string, err error) {
	d.mu.Lock()
	before := len(d.heard)
	d.mu.Unlock()
	if err := d.command.Process.Signal(unix.SIGHUP); err != nil {
		return "", fmt.Errorf("reload: %w", err)
	}
	err = d.wait(ctx, func() bool {
		reloading := false
		for _, n := range d.heard[before:] {
			reloading = reloading || n.reloading
			if reloading && n.ready {
				status = n.status
				return true
			}
		}
		return false
	})
	return status, err
}

// stop asks the daemon to end and waits until it has. The error says how it ended
// unless that was with exit code 0, after it had said that it was stopping.
func (d *daemon) stop(ctx context.Context) error {
	if err := d.terminate(); err != nil {
		return err
	}
	return d.waitStopped(ctx)
}

// terminate sends SIGTERM and does not wait.
func (d *daemon) terminate() error {
	if err := d.command.Process.Signal(unix.SIGTERM); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}

func (d *daemon) waitStopped(ctx context.Context) error {
	err := d.wait(ctx, func() bool { return d.ended })
	if err != nil {
		return errors.Join(err, d.kill())
	}
	err = d.manager.close()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		err = errors.Join(fmt.Errorf("postern run ended: %w", d.err), err)
	}
	if !slices.ContainsFunc(d.heard, func(n notification) bool { return n.stopping }) {
		err = errors.Join(errors.New("postern run ended without saying that it was stopping"), err)
	}
	return err
}

// kill ends the daemon if it still runs.
func (d *daemon) kill() error {
	err := d.command.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	err = errors.Join(err, d.wait(context.Background(), func() bool { return d.ended }))
	return errors.Join(err, d.manager.close())
}

// capabilities are the effective ones of the daemon, a bit each.
func (d *daemon) capabilities() (uint64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.command.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		}
	}
	return 0, errors.New("no CapEff in /proc/PID/status")
}
