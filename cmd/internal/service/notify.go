package service

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode"

	"github.com/coreos/go-systemd/v22/daemon"
)

// ErrOrder is the error of telling a state that cannot follow the one before.
var ErrOrder = errors.New("states told out of order")

// A state is what the service manager was told last.
type state string

const (
	starting  state = "starting"
	ready     state = "ready"
	reloading state = "reloading"
	stopping  state = "stopping"
)

// A Notifier tells the service manager in which state the program is, as
// sd_notify(3) has it. The states are starting, ready, reloading and ready again,
// as often as need be, and stopping, from each of these and for good; any other
// order is an error and is not told. One lock guards the state and the telling,
// so that a reload that ends while the program is told to stop cannot make a
// stopping service ready. Where there is no service manager (NOTIFY_SOCKET is not
// set) the order is kept and nothing told.
type Notifier struct {
	mu    sync.Mutex
	state state
}

// NewNotifier gives a Notifier of a program that starts.
func NewNotifier() *Notifier { return &Notifier{state: starting} }

// Ready tells that the program has started, or has reloaded or kept what it had.
// The status is shown by `systemctl status`.
func (n *Notifier) Ready(status string) error {
	return n.tell(ready, daemon.SdNotifyReady, status, starting, reloading)
}

// Reloading tells that the program has begun to reload. Ready must follow, however
// the reload ends. The message carries the time by the monotonic clock, by which
// systemd 253 and later know that the reload is one that they asked for.
func (n *Notifier) Reloading(status string) error {
	return n.tell(reloading, daemon.SdNotifyReloading+"\n"+strings.TrimSuffix(daemon.SdNotifyMonotonicUsec(), "\n"), status, ready)
}

// Stopping tells that the program has begun to stop.
func (n *Notifier) Stopping(status string) error {
	return n.tell(stopping, daemon.SdNotifyStopping, status, starting, ready, reloading)
}

// Status changes what `systemctl status` shows, in any state.
func (n *Notifier) Status(status string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return send(statusLine(status))
}

func (n *Notifier) tell(next state, message, status string, from ...state) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range from {
		if n.state == s {
			n.state = next
			return send(message + "\n" + statusLine(status))
		}
	}
	return fmt.Errorf("notify: %s after %s: %w", next, n.state, ErrOrder)
}

func send(message string) error {
	if _, err := daemon.SdNotify(false, message); err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	return nil
}

// statusLine makes an assignment of status, on one line: each line of a message is
// an assignment, and what a peer sent may be quoted in a status.
func statusLine(status string) string {
	const most = 512 // octets; more is of no use in one line
	status = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, status)
	if len(status) > most {
		status = strings.ToValidUTF8(status[:most], "") + "…"
	}
	return "STATUS=" + status
}
