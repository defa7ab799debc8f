package service

import (
	"context"
	"errors"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

func TestTheWatchdogIsFedAfterEachCheckThatSucceeds(t *testing.T) {
	m := listenAsManager(t)
	t.Setenv("WATCHDOG_USEC", "900000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	ctx, cancel := context.WithCancel(t.Context())
	checks := make(chan struct{}, 3)
	done := make(chan error, 1)
	go func() {
		done <- Watch(ctx, func(context.Context) error {
			select {
			case checks <- struct{}{}:
				return nil
			default:
				return errors.New("three were enough")
			}
		}, func(error) { cancel() })
	}()
	for range 3 {
		if got := m.hear(); got != "WATCHDOG=1" {
			t.Errorf("%q", got)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if len(checks) != 3 || !m.heardNothing() {
		t.Errorf("%d checks, and the watchdog was fed for another", len(checks))
	}
}

func TestAWatchdogThatIsNotWantedIsNotFed(t *testing.T) {
	path := func() string { listenAsManager(t); return os.Getenv("NOTIFY_SOCKET") }()
	for what, env := range map[string][3]string{
		"no interval":     {path, "", ""},
		"another process": {path, "1000", "1"},
		"no manager":      {"", "1000", ""},
	} {
		t.Setenv("NOTIFY_SOCKET", env[0])
		t.Setenv("WATCHDOG_USEC", env[1])
		t.Setenv("WATCHDOG_PID", env[2])
		err := Watch(t.Context(), func(context.Context) error { t.Error(what + ": checked"); return nil }, func(error) {})
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	t.Setenv("WATCHDOG_USEC", "soon")
	if err := Watch(t.Context(), nil, nil); err == nil {
		t.Error("an interval that is none")
	}
}

func TestTheWatchdogStarvesWhileTheCheckFails(t *testing.T) {
	broken := errors.New("the accept loop stands still")
	for what, check := range map[string]Check{
		"it fails":                        func(context.Context) error { return broken },
		"it gives up at the end":          func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"it is late, and says it is well": func(ctx context.Context) error { <-ctx.Done(); return nil },
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			var failures int
			watch(ctx, 3*time.Second, check, func() error { t.Error(what + ": fed"); return nil }, func(error) { failures++ })
			if failures < 9 {
				t.Errorf("%s: %d failures told of in ten seconds", what, failures)
			}
		})
	}
}

func TestTheWatchdogIsFedInTimeThoughTheCheckIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const interval = 3 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		last, fed := time.Now(), 0
		check := func(ctx context.Context) error {
			select {
			case <-time.After(interval/3 - time.Millisecond):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		watch(ctx, interval, check, func() error {
			if d := time.Since(last); d >= interval {
				t.Errorf("%v without food", d)
			}
			last = time.Now()
			fed++
			return nil
		}, func(err error) { t.Error(err) })
		if fed < 20 {
			t.Errorf("fed %d times in a minute", fed)
		}
	})
}

func TestTheWatchdogIsFedAgainWhenTheCheckRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var told, fed []int
		run := 0
		watch(ctx, 3*time.Second, func(context.Context) error {
			if run++; run == 2 {
				return errors.New("busy")
			}
			return nil
		}, func() error {
			fed = append(fed, run)
			if run == 3 {
				cancel()
			}
			return nil
		}, func(error) { told = append(told, run) })
		if len(fed) != 2 || fed[0] != 1 || fed[1] != 3 || len(told) != 1 || told[0] != 2 {
			t.Errorf("fed after %v, told of %v", fed, told)
		}
	})
}
