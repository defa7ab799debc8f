package service

import (
	"os"
	"syscall"
	"testing"
	"time"
)

func kill(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), s); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, c <-chan os.Signal) os.Signal {
	t.Helper()
	select {
	case s := <-c:
		return s
	case <-time.After(10 * time.Second):
		t.Fatal("no signal came")
		return nil
	}
}

func TestSignalsAskToReloadOrToStop(t *testing.T) {
	s := Catch()
	defer s.Release()
	kill(t, syscall.SIGHUP)
	if got := receive(t, s.Reload); got != syscall.SIGHUP {
		t.Errorf("%v", got)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		kill(t, sig)
		if got := receive(t, s.Stop); got != sig {
			t.Errorf("%v for %v", got, sig)
		}
	}
}

func TestNoNumberOfReloadsPushesOutAStop(t *testing.T) {
	s := Catch()
	defer s.Release()
	for range 100 {
		kill(t, syscall.SIGHUP)
	}
	kill(t, syscall.SIGTERM)
	receive(t, s.Stop)
	receive(t, s.Reload)
}
