package service

import (
	"errors"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// manager plays the service manager: a real datagram socket.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

func listenAsManager(t *testing.T) *manager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return &manager{t, conn}
}

// hear gives the next message, waiting for it up to a deadline.
func (m *manager) hear() string {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		m.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := m.conn.Read(buf)
	if err != nil {
		m.t.Fatal(err)
	}
	return string(buf[:n])
}

// heardNothing reports whether no message waits. A datagram is there as soon as
// it was sent.
func (m *manager) heardNothing() bool {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		m.t.Fatal(err)
	}
	n, err := m.conn.Read(make([]byte, 1))
	return n == 0 && err != nil
}

func TestTheManagerHearsEachState(t *testing.T) {
	m := listenAsManager(t)
	n := NewNotifier()
	for _, s := range []struct {
		tell func(string) error
		text string
		want string
	}{
		{n.Status, "loading", `^STATUS=loading$`},
		{n.Ready, "2 listeners", `^READY=1\nSTATUS=2 listeners$`},
		{n.Reloading, "reading postern.toml", `^RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]*\nSTATUS=reading postern\.toml$`},
		{n.Ready, "generation 2", `^READY=1\nSTATUS=generation 2$`},
		{n.Status, "a\nREADY=1\x00\x1b", `^STATUS=a READY=1  $`},
		{n.Stopping, "draining 3 sessions", `^STOPPING=1\nSTATUS=draining 3 sessions$`},
		{n.Status, strings.Repeat("é", 1000), `^STATUS=é{256}…$`},
	} {
		if err := s.tell(s.text); err != nil {
			t.Fatal(err)
		}
		if got := m.hear(); !regexp.MustCompile(s.want).MatchString(got) {
			t.Errorf("%q, want %s", got, s.want)
		}
	}
}

func TestAStateOutOfOrderIsRefusedAndNotTold(t *testing.T) {
	m := listenAsManager(t)
	for _, path := range [][]string{
		{"reloading"},
		{"ready", "ready"},
		{"ready", "reloading", "reloading"},
		{"stopping", "ready"},
		{"stopping", "reloading"},
		{"stopping", "stopping"},
		{"ready", "stopping", "ready"},
		{"ready", "reloading", "stopping", "ready"},
	} {
		n := NewNotifier()
		tell := map[string]func(string) error{"ready": n.Ready, "reloading": n.Reloading, "stopping": n.Stopping}
		last := len(path) - 1
		for _, s := range path[:last] {
			if err := tell[s](""); err != nil {
				t.Fatalf("%v: %v", path, err)
			}
			m.hear()
		}
		if err := tell[path[last]](""); !errors.Is(err, ErrOrder) {
			t.Errorf("%v: %v", path, err)
		}
		if !m.heardNothing() {
			t.Errorf("%v: told all the same", path)
		}
	}
}

func TestAStopDuringAReloadIsTheLastStateTold(t *testing.T) {
	m := listenAsManager(t)
	n := NewNotifier()
	if err := errors.Join(n.Ready(""), n.Reloading("")); err != nil {
		t.Fatal(err)
	}
	m.hear()
	m.hear()
	var both sync.WaitGroup
	both.Go(func() { _ = n.Ready("reloaded") }) // may come too late, and is then refused
	both.Go(func() {
		if err := n.Stopping(""); err != nil {
			t.Error(err)
		}
	})
	both.Wait()
	last := m.hear()
	if strings.HasPrefix(last, "READY=1") {
		last = m.hear()
	}
	if !strings.HasPrefix(last, "STOPPING=1") || !m.heardNothing() {
		t.Errorf("%q, and then not nothing", last)
	}
}

func TestWithoutAManagerNothingIsToldAndTheOrderKept(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	n := NewNotifier()
	if err := errors.Join(n.Ready(""), n.Reloading(""), n.Ready(""), n.Status(""), n.Stopping("")); err != nil {
		t.Fatal(err)
	}
	if err := n.Ready(""); !errors.Is(err, ErrOrder) {
		t.Errorf("%v", err)
	}
}

func TestAManagerThatIsGoneIsAnError(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	if err := NewNotifier().Ready(""); err == nil || errors.Is(err, ErrOrder) {
		t.Errorf("%v", err)
	}
}
