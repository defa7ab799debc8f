package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"postern/proxy/proxytest/netlab"
)

// A fault is something that goes wrong, for a moment or until another takes its
// place. The error is that it could not be injected.
type fault struct {
	name   string
	inject func(*trial, context.Context, *rand.Rand) error
}

// soakFaults go wrong one after the other, in an order that is drawn anew for each
// round. Reloads and servers that hang up go on all the while.
var soakFaults = []fault{
	{"killed (SIGKILL)", func(t *trial, ctx context.Context, _ *rand.Rand) error { return t.keeper.kill(ctx) }},
	{"drained (SIGTERM)", func(t *trial, ctx context.Context, _ *rand.Rand) error { return t.keeper.drain(ctx) }},
	{"frozen (SIGSTOP)", (*trial).freeze},
	{"few file descriptors", (*trial).fewFiles},
	{"little memory", (*trial).littleMemory},
	{"disk of the log full", (*trial).fullDisk},
	{"bad weather", (*trial).badWeather},
	{"fine weather", func(t *trial, _ context.Context, _ *rand.Rand) error { t.weather(netlab.Weather{}); return nil }},
}

// misbehave injects faults until ctx ends, each at least once, then puts
// everything right.
func (t *trial) misbehave(ctx context.Context) error {
	random := rand.New(rand.NewPCG(t.seed, 4<<32))
	var err error
	for round := 0; err == nil && (round == 0 || ctx.Err() == nil); round++ {
		for _, i := range random.Perm(len(soakFaults)) {
			if !pause(ctx, between(random, 100, 900)) && round > 0 {
				break
			}
			// A fault that has begun is put right again though the time be up.
			if err = soakFaults[i].inject(t, context.WithoutCancel(ctx), random); err != nil {
				err = fmt.Errorf("%s: %w", soakFaults[i].name, err)
				break
			}
			t.faults[soakFaults[i].name]++
			if _, err = t.keeper.lives(context.WithoutCancel(ctx), false); err != nil {
				break
			}
		}
	}
	t.whims.end()
	t.weather(netlab.Weather{})
	return err
}

// between draws a number of milliseconds.
func between(random *rand.Rand, low, high int) time.Duration {
	return time.Duration(low+random.IntN(high-low)) * time.Millisecond
}

// pause lets a fault last, and says false when ctx ended it.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (t *trial) freeze(ctx context.Context, random *rand.Rand) error {
	if err := t.keeper.signal(unix.SIGSTOP); err != nil {
		return err
	}
	pause(ctx, between(random, 100, 1500))
	return t.keeper.signal(unix.SIGCONT)
}

// fewFiles leaves the daemon hardly more descriptors than it has: accepting and
// dialling fail.
func (t *trial) fewFiles(ctx context.Context, random *rand.Rand) error {
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", t.keeper.pid()))
	if err != nil {
		return err
	}
	return t.limited(ctx, random, unix.RLIMIT_NOFILE, uint64(len(open)+random.IntN(3)))
}

// littleMemory leaves the daemon hardly more memory than it has. It may die of
// that, as of a memory cgroup.
func (t *trial) littleMemory(ctx context.Context, random *rand.Rand) error {
	data, err := dataSize(t.keeper.pid())
	if err != nil {
		return err
	}
	if err := t.limited(ctx, random, unix.RLIMIT_DATA, data+uint64(random.IntN(1<<20))); err != nil {
		return err
	}
	// One that is dying of it has not ended yet. One that lives answers, whether
	// or not it can make use of the configuration.
	answering, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	d := t.keeper.daemon.Load()
	if _, dead := d.reload(answering); dead != nil {
		if err := d.wait(answering, func() bool { return d.ended }); err != nil {
			return err
		}
	}
	died, err := t.keeper.lives(ctx, true)
	if died {
		t.faults["died of little memory"]++
	}
	return err
}

// limited sets a soft limit of the daemon for a moment.
func (t *trial) limited(ctx context.Context, random *rand.Rand, resource int, soft uint64) error {
	pid := t.keeper.pid()
	var was unix.Rlimit
	if err := unix.Prlimit(pid, resource, nil, &was); err != nil {
		return os.NewSyscallError("prlimit", err)
	}
	if err := unix.Prlimit(pid, resource, &unix.Rlimit{Cur: soft, Max: was.Max}, nil); err != nil {
		return os.NewSyscallError("prlimit", err)
	}
	pause(ctx, between(random, 500, 1500))
	if err := unix.Prlimit(pid, resource, &was, nil); err != nil && err != unix.ESRCH {
		return os.NewSyscallError("prlimit", err)
	}
	return nil
}

// dataSize is how many octets RLIMIT_DATA counts of a process.
func dataSize(pid int) (uint64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmData:"); ok {
			kilobytes, err := strconv.ParseUint(strings.Fields(value)[0], 10, 64)
			return kilobytes << 10, err
		}
	}
	return 0, fmt.Errorf("no VmData in the status of process %d", pid)
}

func (t *trial) fullDisk(ctx context.Context, random *rand.Rand) error {
	if err := t.book.fill(); err != nil {
		return err
	}
	pause(ctx, between(random, 300, 1500))
	return t.book.free()
}

func (t *trial) badWeather(_ context.Context, random *rand.Rand) error {
	t.weather(netlab.Weather{
		Loss:      random.Float64() * 0.03,
		Duplicate: random.Float64() * 0.03,
		Delay:     between(random, 0, 10),
		Jitter:    between(random, 1, 15),
	})
	return nil
}

func (t *trial) weather(w netlab.Weather) {
	for _, wire := range t.wires {
		wire.Set(w)
	}
}
