package service

import (
	"os"
	"os/signal"
	"syscall"
)

// Signals are the wishes of whoever runs the program. Each has a channel of its
// own, so that no number of the one can push out the other.
type Signals struct {
	Reload <-chan os.Signal // SIGHUP; those that come before the last was received are one
	Stop   <-chan os.Signal // SIGTERM and SIGINT; a second one may be taken for impatience

	reload, stop chan os.Signal
}

// Catch has the signals sent to channels until Release. From then on they do not
// end the program.
func Catch() *Signals {
	s := &Signals{reload: make(chan os.Signal, 1), stop: make(chan os.Signal, 2)}
	s.Reload, s.Stop = s.reload, s.stop
	signal.Notify(s.reload, syscall.SIGHUP)
	signal.Notify(s.stop, syscall.SIGTERM, syscall.SIGINT)
	return s
}

// Release gives the signals back their usual meaning. The channels stay open and
// yield nothing more.
func (s *Signals) Release() {
	signal.Stop(s.reload)
	signal.Stop(s.stop)
}
