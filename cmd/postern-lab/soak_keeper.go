package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A keeper is the service manager of the soak: it holds the listening sockets,
// and sees to it that there is a daemon to serve them.
type keeper struct {
	lab     *lab
	book    *logbook
	sockets []*os.File

	// conf is held while configuration and keys are written, and until a daemon
	// that starts has read them.
	conf   sync.Mutex
	random *rand.Rand // of the reloads; guarded by conf
	daemon atomic.Pointer[daemon]

	restarts, reloads, broken atomic.Int64
	mu                        sync.Mutex
	crashes                   []string // ends that nobody asked for
}

func newKeeper(ctx context.Context, l *lab, book *logbook, seed uint64) (*keeper, error) {
	k := &keeper{lab: l, book: book, random: rand.New(rand.NewPCG(seed, 3<<32))}
	socket, err := l.transparentSocket(ctx, "127.0.0.1:2525")
	if err != nil {
		return nil, err
	}
	k.sockets = []*os.File{socket}
	if err := k.configure(); err != nil {
		return nil, errors.Join(err, k.close())
	}
	if _, err := l.run(ctx, "intercept", "up"); err != nil {
		return nil, errors.Join(err, k.close())
	}
	if err := k.start(ctx); err != nil {
		return nil, errors.Join(err, k.close())
	}
	return k, nil
}

// soakTimeouts are short enough for what waits to be over before the soak is.
const soakTimeouts = `connect = "5s"
handshake = "10s"
command = "15s"
data = "15s"
final = "20s"
drain = "3s"`

func (k *keeper) configure() error {
	return k.lab.configure("enforce", soakTimeouts, fmt.Sprintf("[log]\noutput = %q\n", k.book.path()))
}

// start starts a daemon, with a configuration that is good.
func (k *keeper) start(ctx context.Context) error {
	k.conf.Lock()
	defer k.conf.Unlock()
	if err := k.configure(); err != nil {
		return err
	}
	d, err := startDaemon(ctx, k.lab.network.Gateway, k.lab.postern, k.lab.configPath(), k.sockets...)
	if err == nil {
		k.daemon.Store(d)
	}
	return err
}

func (k *keeper) restart(ctx context.Context) error {
	k.restarts.Add(1)
	return k.start(ctx)
}

// kill ends the daemon without warning.
func (k *keeper) kill(ctx context.Context) error {
	if err := k.daemon.Load().kill(); err != nil {
		return err
	}
	return k.restart(ctx)
}

// drain ends the daemon in an orderly way.
func (k *keeper) drain(ctx context.Context) error {
	if err := k.daemon.Load().stop(ctx); err != nil {
		k.blame("SIGTERM: " + err.Error())
	}
	return k.restart(ctx)
}

func (k *keeper) signal(s os.Signal) error {
	err := k.daemon.Load().command.Process.Signal(s)
	if errors.Is(err, os.ErrProcessDone) {
		return nil // whoever ended it starts the next
	}
	return err
}

func (k *keeper) pid() int { return k.daemon.Load().command.Process.Pid }

// lives makes sure that there is a daemon after a fault, and says whether it had
// died. It may where there was too little memory, as the runtime dies of that; a
// panic, or any end without such a cause, is a crash.
func (k *keeper) lives(ctx context.Context, mayDie bool) (died bool, err error) {
	d := k.daemon.Load()
	d.mu.Lock()
	ended, words := d.ended, strings.Join(d.events[:min(3, len(d.events))], " | ")
	d.mu.Unlock()
	if !ended {
		return false, nil
	}
	if !mayDie || strings.Contains(words, "panic:") {
		k.blame("postern ended by itself: " + words)
	}
	return true, errors.Join(d.manager.close(), k.restart(ctx))
}

func (k *keeper) blame(crash string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.crashes = append(k.crashes, crash)
}

// brokenConfigs cannot be put in force, each for a reason of its own.
var brokenConfigs = []string{
	"[[rule]]\nname = \"typo\"\ntsl = \"forced\"\n",
	"[listen]\naddresses = [\"127.0.0.1:2600\"]\n", // takes a restart
	"[log]\nformat = \"verse\"\n",
	"[[tls.certificate]]\nname = \"gone\"\ncert = \"/nonexistent\"\nkey = \"/nonexistent\"\n",
	"not = toml = at all",
}

// reloadEachSecond has the daemon read its configuration anew until ctx ends;
// every fourth time it is broken, every fifth the certificate is a new one.
func (k *keeper) reloadEachSecond(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := k.reload(); err != nil {
				k.blame("reload: " + err.Error())
			}
		case <-ctx.Done():
			return
		}
	}
}

func (k *keeper) reload() error {
	k.conf.Lock()
	defer k.conf.Unlock()
	k.reloads.Add(1)
	if k.random.IntN(4) == 0 {
		k.broken.Add(1)
		wrong := brokenConfigs[k.random.IntN(len(brokenConfigs))]
		if err := k.lab.configure("enforce", soakTimeouts, wrong); err != nil {
			return err
		}
		return k.signal(unix.SIGHUP)
	}
	if k.random.IntN(5) == 0 {
		if err := k.lab.newEdgeCertificate(); err != nil {
			return err
		}
	}
	if err := errors.Join(k.configure(), k.book.rotate()); err != nil {
		return err
	}
	return k.signal(unix.SIGHUP)
}

// end ends the last daemon in an orderly way.
func (k *keeper) end(ctx context.Context) error { return k.daemon.Load().stop(ctx) }

// close lets the sockets go, and a daemon that still runs.
func (k *keeper) close() error {
	var errs []error
	if d := k.daemon.Load(); d != nil {
		d.mu.Lock()
		ended := d.ended
		d.mu.Unlock()
		if !ended {
			errs = append(errs, d.kill())
		}
	}
	for _, socket := range k.sockets {
		errs = append(errs, socket.Close())
	}
	return errors.Join(errs...)
}
