package memory

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("MEMORY_TEST_STORE"); path != "" {
		learnUntilKilled(path)
	}
	goleak.VerifyTestMain(m)
}

// reports are what a store said of its file.
type reports struct {
	mu  sync.Mutex
	all []error
}

func (r *reports) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, err)
}

func (r *reports) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Sprint(r.all)
}

// opens opens a store that is closed at the end of the test.
func opens(t *testing.T, path string) (*Store, *reports) {
	t.Helper()
	r := new(reports)
	s, err := Open(Options{Path: path, Remember: month, Entries: 20_000, Report: r.add})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, r
}

func closes(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// written is the path of a file with n destinations and domains and a hold.
func written(t testing.TB, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "memory.db")
	s, err := Open(Options{Path: path, Remember: month, Report: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	var h Holds
	s.Keep(&h)
	now := time.Now()
	h.Begin(from("192.0.2.1", "203.0.113.1"), tls.VersionTLS10, now)
	for i := range n {
		o := tls13(byte(i+1), true, now)
		o.SPKI[1] = 1
		s.Learn(addrPort("198.51.%d.%d:25", i>>8, i&0xff), []string{fmt.Sprintf("d%d.example", i)}, o)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func known(s *Store, now time.Time, n int) int {
	found := 0
	for i := range n {
		if _, ok := s.Recall(addrPort("198.51.%d.%d:25", i>>8, i&0xff), now); ok {
			found++
		}
	}
	return found
}

func TestARestartForgetsNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "memory.db")
	now := time.Now()
	s, r := opens(t, path)
	var before, after Holds
	s.Keep(&before)
	c := from("10.1.0.9", "203.0.113.7")
	before.Begin(c, tls.VersionTLS10, now)
	before.Refused(c, day, true, now)
	once := from("10.1.0.11", "203.0.113.7")
	before.Begin(once, tls.VersionTLS11, now)
	cleared := from("10.1.0.10", "203.0.113.7")
	before.Begin(cleared, tls.VersionTLS10, now)
	before.Clear(cleared, now)
	s.Learn(server, []string{"contoso.com"}, tls12(1, true, now))
	s.Learn(addrPort("[2001:db8::7]:2525"), []string{"tailspin.example"}, tls13(2, false, now.Add(-day)))
	s.Learn(addrPort("[2001:db8::7]:2525"), []string{"tailspin.example"}, tls13(2, false, now.Add(-12*time.Hour)))
	s.Missed(server, client, []string{"contoso.com"}, now)
	closes(t, s)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}

	s, r2 := opens(t, path)
	s.Keep(&after)
	s.Learn(addrPort("[2001:db8::7]:2525"), []string{"tailspin.example"}, tls13(2, false, now)) // the third occasion
	if k, ok := s.Recall(server, now); !ok || k.Version != tls.VersionTLS12 || !k.Verified || k.Count != 1 || k.Since.Unix() != now.Unix() {
		t.Errorf("%v %+v", ok, k)
	}
	for _, d := range []string{"contoso.com", "tailspin.example"} {
		if _, ok := s.RecallDomain(d, client, now); !ok {
			t.Errorf("%s is forgotten", d)
		}
	}
	if k, ok := s.Recall(addrPort("[2001:db8::7]:2525"), now); !ok || k.Count != 3 {
		t.Errorf("%v %+v", ok, k)
	}
	if got, want := after.Find(c, day, now), before.Find(c, day, now); got == nil || got.Offered != want.Offered || got.Refused != 1 ||
		!got.Since.Equal(want.Since) || !got.Until.Equal(want.Until) {
		t.Errorf("%+v, was %+v", got, want)
	}
	if got := after.Find(once, day, now); got == nil || got.Offered != tls.VersionTLS11 {
		t.Errorf("%+v", got)
	}
	if after.Find(cleared, day, now) != nil {
		t.Error("a hold that was cleared is there again")
	}
	closes(t, s)
	if got := r.String() + r2.String(); got != "[][]" {
		t.Error(got)
	}
}

func TestChangesAreWrittenSecondsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "memory.db")
		s, _ := opens(t, path)
		s.Learn(server, []string{"contoso.com"}, tls13(1, true, time.Now()))
		if c, err := Read(InFile(path)); err != nil || c.Len() != 0 {
			t.Errorf("%v %+v", err, c)
		}
		time.Sleep(Behind + time.Second)
		synctest.Wait()
		if c, err := Read(InFile(path)); err != nil || c.Len() != 2 {
			t.Errorf("%v %+v", err, c)
		}
		closes(t, s)
	})
}

func TestForgettingWorksBesideADaemonAndWithout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "memory.db")
		if _, err := Forget(InFile(path), subject(t, "contoso.com")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v", err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Error("to forget made a file")
		}
		s, r := opens(t, path)
		var h Holds
		s.Keep(&h)
		now := time.Now()
		h.Begin(from("10.1.0.9", "203.0.113.7"), tls.VersionTLS10, now)
		s.Learn(server, []string{"contoso.com"}, tls13(1, true, now))
		s.Learn(addrPort("203.0.113.8:25"), []string{"fabrikam.example"}, tls13(1, true, now))
		wait := func() { time.Sleep(Behind + time.Second); synctest.Wait() }
		wait()
		if n, err := Forget(InFile(path), subject(t, "203.0.113.7")); err != nil || n != 2 { // the destination and the hold
			t.Errorf("%d %v", n, err)
		}
		if n, err := Forget(InFile(path), subject(t, "fabrikam.example")); err != nil || n != 1 {
			t.Errorf("%d %v", n, err)
		}
		s.Learn(server, nil, tls13(1, true, time.Now())) // before the daemon hears of it
		wait()
		if _, ok := s.Recall(server, time.Now()); ok {
			t.Error("the daemon remembers the destination")
		}
		if h.Find(from("10.1.0.9", "203.0.113.7"), day, time.Now()) != nil {
			t.Error("the daemon remembers the hold")
		}
		if _, ok := s.RecallDomain("fabrikam.example", client, time.Now()); ok {
			t.Error("the daemon remembers the domain")
		}
		if _, ok := s.RecallDomain("contoso.com", client, time.Now()); !ok {
			t.Error("the daemon forgot what nobody asked it to")
		}
		s.Learn(server, nil, tls13(1, true, time.Now()))
		wait()
		if _, ok := s.Recall(server, time.Now()); !ok {
			t.Error("what was learnt after was forgotten")
		}
		closes(t, s)
		if n, err := Forget(InFile(path), subject(t, "203.0.113.0/24")); err != nil || n != 2 {
			t.Errorf("%d %v", n, err)
		}
		s, r2 := opens(t, path)
		if _, ok := s.Recall(server, time.Now()); ok {
			t.Error("a restart brought it back")
		}
		closes(t, s)
		if got := r.String() + r2.String(); got != "[][]" {
			t.Error(got)
		}
	})
}

func subject(t *testing.T, s string) Subject {
	t.Helper()
	out, err := ParseSubject(s)
	if err != nil || out.String() != s {
		t.Fatalf("%q: %v %v", s, out, err)
	}
	return out
}

func TestASubjectIsAnAddressANetworkOrADomain(t *testing.T) {
	for _, s := range []string{"203.0.113.7", "203.0.113.7:25", "203.0.113.0/24", "2001:db8::7", "[2001:db8::7]:25", "2001:db8::/32", "contoso.com", "_x.a-b.example"} {
		subject(t, s)
	}
	for _, s := range []string{"", ".", "a..b", ".a", "Contoso.com", "a b", "a\nb", "203.0.113", "203.0.113.7:0", "203.0.113.0/33", "fe80::1%eth0", "::ffff:1.2.3.0/120", strings.Repeat("a.", 127) + "aa"} {
		if got, err := ParseSubject(s); err == nil {
			t.Errorf("%q is %v", s, got)
		}
	}
}

func TestAFileThatIsGoneOrAnotherGetsEverythingAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "memory.db")
		s, r := opens(t, path)
		var h Holds
		s.Keep(&h)
		h.Begin(from("10.1.0.9", "203.0.113.9"), tls.VersionTLS10, time.Now())
		s.Learn(server, []string{"contoso.com"}, tls13(1, true, time.Now()))
		wait := func() { time.Sleep(Behind + time.Second); synctest.Wait() }
		wait()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		wait()
		if c, err := Read(InFile(path)); err != nil || len(c.Destinations) != 1 || len(c.Domains) != 1 || len(c.Holds) != 1 {
			t.Errorf("%v %+v", err, c)
		}
		if _, err := Forget(InFile(path), subject(t, "203.0.113.7")); err != nil { // whose numbers begin anew
			t.Fatal(err)
		}
		wait()
		if _, ok := s.Recall(server, time.Now()); ok {
			t.Error("not forgotten")
		}
		closes(t, s)
		if r.String() != "[]" {
			t.Error(r)
		}
	})
}

func TestALockedFileIsReadLater(t *testing.T) {
	path := written(t, 10)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	s, r := opens(t, path)
	if !strings.Contains(r.String(), errBusy.Error()) || known(s, time.Now(), 10) != 0 {
		t.Errorf("%v, %d known", r, known(s, time.Now(), 10))
	}
	s.Learn(server, nil, tls13(1, true, time.Now()))
	f.Close()
	closes(t, s)
	if c, err := Read(InFile(path)); err != nil || len(c.Destinations) != 11 {
		t.Errorf("%v, %d destinations", err, len(c.Destinations))
	}
}

// learnUntilKilled is the child of the test below.
func learnUntilKilled(path string) {
	s, err := newStore(Options{Path: path, Remember: month, Report: func(err error) { fmt.Println("reported:", err) }})
	if err != nil {
		panic(err)
	}
	s.behind.turn(time.Now())
	start := s.destinations.len()
	for i := start; ; i++ {
		s.Learn(addrPort("198.51.%d.%d:25", i>>8&0xff, i&0xff), nil, tls13(1, true, time.Now()))
		s.behind.turn(time.Now())
		fmt.Println(i + 1)
	}
}

func TestAKilledProcessLosesNoMoreThanItsLastBatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "memory.db")
	least := 0
	for round := range 25 {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), "MEMORY_TEST_STORE="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var line string
		for range 1 + round%7 { // so many batches, and then in the middle of one
			if _, err := fmt.Fscanln(out, &line); err != nil || strings.HasPrefix(line, "reported") {
				t.Fatalf("round %d: %q %v", round, line, err)
			}
			fmt.Sscan(line, &least)
		}
		spin(round * 20_000)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		c, err := Read(InFile(path))
		if err != nil || len(c.Destinations) < least || c.Damaged > 0 {
			t.Fatalf("round %d: %v, %d destinations of %d", round, err, len(c.Destinations), least)
		}
	}
	if least < 25 {
		t.Errorf("only %d were ever written", least)
	}
}

// spin lets a moment pass that no clock decides.
func spin(n int) {
	x := uint64(1)
	for range n {
		x = x*6364136223846793005 + 1
	}
	if x == 0 {
		fmt.Print()
	}
}

func TestTwoProcessesTakeTurns(t *testing.T) {
	path := written(t, 0)
	r := new(reports)
	s, err := newStore(Options{Path: path, Remember: month, Report: r.add})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := range 10 {
				if _, err := Forget(InFile(path), Subject{domain: fmt.Sprintf("d%d.w%d.example", i, w)}); err != nil {
					t.Error(err)
				}
				if _, err := Read(InFile(path)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 20 {
		s.Learn(addrPort("198.51.100.%d:25", i), nil, tls13(1, true, time.Now()))
		if err := s.behind.turn(time.Now()); err != nil && !errors.Is(err, errBusy) {
			t.Error(err)
		}
	}
	all.Wait()
	if err := s.behind.turn(time.Now()); err != nil {
		t.Error(err)
	}
	if c, err := Read(InFile(path)); err != nil || len(c.Destinations) != 20 {
		t.Errorf("%v %d %v", err, len(c.Destinations), r)
	}
}
