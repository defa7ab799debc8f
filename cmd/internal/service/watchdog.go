package service

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// A Check finds out whether the program still does its work. It returns nil when
// it does, and by the end of ctx at the latest.
type Check func(ctx context.Context) error

// Watch feeds the watchdog of the service manager until ctx ends, and each time
// only after check has succeeded. It runs check three times within the interval
// that the manager set (WATCHDOG_USEC), and gives it a third of that to answer. A
// check that fails, or answers late, is told to failed and the watchdog not fed;
// the manager ends the program when that lasts for the whole interval. A check
// that never returns has the same end.
//
// Watch returns at once when the manager watches nothing, with an error if what
// it said cannot be understood; otherwise it returns nil when ctx has ended.
func Watch(ctx context.Context, check Check, failed func(error)) error {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("watchdog: %w", err)
	}
	if interval == 0 || os.Getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	watch(ctx, interval, check, func() error { return send(daemon.SdNotifyWatchdog) }, failed)
	return nil
}

// watch is Watch with the interval, and with the telling, given.
func watch(ctx context.Context, interval time.Duration, check Check, feed func() error, failed func(error)) {
	third := max(interval/3, time.Millisecond)
	tick := time.NewTicker(third)
	defer tick.Stop()
	for {
		err := within(ctx, third, check)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = feed()
		}
		if err != nil {
			failed(fmt.Errorf("watchdog: %w", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// within runs check, and holds against it that it answered late even if it said
// that all is well.
func within(ctx context.Context, limit time.Duration, check Check) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := check(ctx); err != nil {
		return err
	}
	return ctx.Err()
}
