package memory

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"postern/enforce"
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
	before.Clear(cleared)
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
		if c, err := Read(path); err != nil || c.Len() != 0 {
			t.Errorf("%v %+v", err, c)
		}
		time.Sleep(Behind + time.Second)
		synctest.Wait()
		if c, err := Read(path); err != nil || c.Len() != 2 {
			t.Errorf("%v %+v", err, c)
		}
		closes(t, s)
	})
}

func TestForgettingWorksBesideADaemonAndWithout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "memory.db")
		if _, err := Forget(path, subject(t, "contoso.com")); !errors.Is(err, os.ErrNotExist) {
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
		if n, err := Forget(path, subject(t, "203.0.113.7")); err != nil || n != 2 { // the destination and the hold
			t.Errorf("%d %v", n, err)
		}
		if n, err := Forget(path, subject(t, "fabrikam.example")); err != nil || n != 1 {
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
		if n, err := Forget(path, subject(t, "203.0.113.0/24")); err != nil || n != 2 {
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
		if c, err := Read(path); err != nil || len(c.Destinations) != 1 || len(c.Domains) != 1 || len(c.Holds) != 1 {
			t.Errorf("%v %+v", err, c)
		}
		if _, err := Forget(path, subject(t, "203.0.113.7")); err != nil { // whose numbers begin anew
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

// What is wrong with a file, and what becomes of it.
func TestAFileThatCannotBeUsedStopsNothing(t *testing.T) {
	if os.Getuid() == 0 {
		t.Log("as root nothing is read-only; those rows show less")
	}
	sealOff := func(t *testing.T, path string) {
		dir := filepath.Dir(path)
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Chmod(dir, 0o700) })
	}
	for _, tc := range []struct {
		name  string
		make  func(*testing.T, string)
		says  string
		aside bool
	}{
		{"a directory that is not there", func(t *testing.T, path string) { os.RemoveAll(filepath.Dir(path)) }, "no such file", false},
		{"a directory in its place", func(t *testing.T, path string) { os.Remove(path); os.Mkdir(path, 0o700) }, "is a directory", false},
		{"a link", func(t *testing.T, path string) { os.Rename(path, path+"2"); os.Symlink(path+"2", path) }, "symbolic link", false},
		{"a pipe", func(t *testing.T, path string) { os.Remove(path); syscall.Mkfifo(path, 0o600) }, "no regular file", false},
		{"a full device", func(t *testing.T, path string) { os.Remove(path); os.Symlink("/dev/full", path) }, "symbolic link", false},
		{"a directory that may not be written, and no file", func(t *testing.T, path string) { os.Remove(path); sealOff(t, path) }, "permission denied", false},
		{"text", func(t *testing.T, path string) {
			os.WriteFile(path, []byte(strings.Repeat("no database\n", 5000)), 0o600)
		}, "damaged", true},
		{"zeros", func(t *testing.T, path string) { os.WriteFile(path, make([]byte, 32768), 0o600) }, "damaged", true},
		{"half of it", func(t *testing.T, path string) { os.Truncate(path, 3*pageSize) }, "damaged", true},
		{"somebody else's", foreign, "has not written", false},
		{"of a later release", later, "has not written", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := written(t, 10)
			tc.make(t, path)
			if os.Getuid() == 0 && tc.says == "permission denied" {
				return
			}
			s, r := opens(t, path)
			if !strings.Contains(r.String(), tc.says) || !strings.Contains(r.String(), path) {
				t.Errorf("reported %v", r)
			}
			s.Learn(server, nil, tls13(1, true, time.Now()))
			if _, ok := s.Recall(server, time.Now()); !ok {
				t.Error("it does not remember")
			}
			err := s.Close()
			if (err == nil) != tc.aside {
				t.Errorf("%v", err)
			}
			kept, _ := filepath.Glob(path + asideInfix + "*")
			if (len(kept) == 1) != tc.aside {
				t.Errorf("%q", kept)
			}
			if c, err := Read(path); tc.aside && (err != nil || len(c.Destinations) != 1) {
				t.Errorf("%v %+v", err, c)
			}
		})
	}
}

func foreign(t *testing.T, path string) {
	os.Remove(path)
	edit(t, path, func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("etcd")); return err })
}

func later(t *testing.T, path string) {
	edit(t, path, func(tx *bbolt.Tx) error { return tx.Bucket([]byte(aboutBucket)).Put([]byte(formatKey), []byte("2")) })
}

func edit(t *testing.T, path string, do func(*bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(do), db.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestADiskThatIsFullStopsNothingAndIsTriedAgain(t *testing.T) {
	var old syscall.Rlimit // a write beyond it fails as one on a full disk does
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "memory.db")
		s, r := opens(t, path)
		full := old
		full.Cur = 20 << 10
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full); err != nil {
			t.Skip(err)
		}
		for i := range 500 {
			s.Learn(addrPort("198.51.%d.%d:25", i>>8, i&0xff), nil, tls13(1, true, time.Now()))
		}
		time.Sleep(Behind + time.Second)
		synctest.Wait()
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(r.String(), "too large") || known(s, time.Now(), 500) != 500 {
			t.Errorf("%v, %d known", r, known(s, time.Now(), 500))
		}
		time.Sleep(2 * retry)
		synctest.Wait()
		if c, err := Read(path); err != nil || len(c.Destinations) != 500 {
			t.Errorf("%v, %d destinations", err, len(c.Destinations))
		}
		closes(t, s)
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
	if c, err := Read(path); err != nil || len(c.Destinations) != 11 {
		t.Errorf("%v, %d destinations", err, len(c.Destinations))
	}
}

// Whatever became of the octets of a file, to open it neither panics nor fails,
// and what is wrong is either found or makes no record into another.
func TestADamagedFileIsFoundOrHarmless(t *testing.T) {
	whole, err := os.ReadFile(written(t, 400))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	try := func(what string, content []byte) {
		path := filepath.Join(dir, "memory.db")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, r := opens(t, path)
		n := known(s, time.Now(), 400)
		if n < 400 && r.String() == "[]" && len(content) > 0 {
			t.Errorf("%s: %d known, and nothing reported", what, n)
		}
		for _, room := range s.destinations.rooms {
			for e := room.all.Front(); e != nil; e = e.Next() {
				e := e.Value.(*entry[netip.AddrPort])
				addr := e.key.Addr().As4()
				want := [32]byte{byte(int(addr[2])<<8|int(addr[3])) + 1, 1}
				if s := e.sightings; len(s) != 1 || s[0].issuer != "CN=R11" || !s[0].verified || s[0].spki != want {
					t.Errorf("%s: became %+v", what, s)
				}
			}
		}
		s.Learn(server, nil, tls13(1, true, time.Now()))
		if err := s.Close(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if c, err := Read(path); err != nil || len(c.Of(subject(t, server.String())).Destinations) != 1 {
			t.Errorf("%s: afterwards %v", what, err)
		}
	}
	for end := 0; end < min(len(whole), 70*pageSize); end += pageSize {
		try(fmt.Sprintf("cut at %d", end), whole[:end])
	}
	random := rand.New(rand.NewPCG(5, 25))
	for i := range 300 {
		content := append([]byte{}, whole...)
		for range 1 + random.IntN(8) {
			page := random.IntN(len(content) / pageSize)
			at := page*pageSize + random.IntN(pageSize)
			if random.IntN(2) == 0 {
				at = page*pageSize + random.IntN(128) // where the head and the elements are
			}
			content[at] ^= 1 << random.IntN(8)
		}
		try(fmt.Sprintf("damage %d", i), content)
	}
	if kept, _ := filepath.Glob(filepath.Join(dir, "*"+asideInfix+"*")); len(kept) == 0 || len(kept) > mostAside {
		t.Errorf("%q", kept)
	}
}

func TestAPanicAndAPageThatIsGoneAreDamage(t *testing.T) {
	path := written(t, 400)
	_, err := with(path, access{write: true}, func(*bbolt.DB) error { panic("assertion failed") })
	if !errors.Is(err, ErrDamaged) {
		t.Errorf("%v", err)
	}
	_, err = with(path, access{write: true}, func(db *bbolt.DB) error {
		return db.View(func(tx *bbolt.Tx) error {
			if err := os.Truncate(path, 4*pageSize); err != nil { // while it is mapped: SIGBUS
				return err
			}
			_, err := load(tx, 1000)
			return err
		})
	})
	if !errors.Is(err, ErrDamaged) {
		t.Errorf("%v", err)
	}
	if _, err := with(path, access{write: true}, func(*bbolt.DB) error { return nil }); !errors.Is(err, ErrDamaged) {
		t.Errorf("the lock, or the check: %v", err)
	}
}

func TestWhatBboltWritesPasses(t *testing.T) {
	path := written(t, 0)
	random := rand.New(rand.NewPCG(1, 1))
	for round := range 300 {
		edit(t, path, func(tx *bbolt.Tx) error {
			var b batch
			b.whole = round%100 == 99
			for range random.IntN(200) {
				k := []byte(fmt.Sprintf("%x.example", random.IntN(2000)))
				c := change{k, make([]byte, random.IntN(900))}
				if random.IntN(5) < 3 && round > 50 {
					c.value = nil
				}
				b.changes = append(b.changes, c)
			}
			return put(tx, destinationsBucket, b)
		})
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		p, err := printOf(f)
		if err := errors.Join(err, checkPages(f, p.size), f.Close()); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
}

func FuzzRecords(f *testing.F) {
	s := seen{missed: 3, lastMissed: 77, sightings: []sighting{{spki: [32]byte{1}, issuer: "CN=R11", first: 1, last: 2, counted: 2, occasions: 2, count: 9, version: 0x304, verified: true},
		{spki: [32]byte{2}, first: -1, version: 0x303}}}
	f.Add(encodeDestination(server), s.encode())
	f.Add(encodeDomain(domainKey{"contoso.com", clientOf(client)}), s.encode())
	e := holdEntry{Hold: enforce.Hold{Offered: 0x301, Since: noon, Refused: 2}, renewed: noon}
	f.Add(encodeHold(keyOf(from("10.1.0.9", "203.0.113.7"))), e.encode())
	f.Fuzz(func(t *testing.T, k, v []byte) {
		if got, err := decodeSeen(v); err == nil {
			again, err := decodeSeen(got.encode())
			if err != nil || fmt.Sprint(again) != fmt.Sprint(got) || len(got.sightings) > mostKeys+1 {
				t.Fatalf("%v: %+v became %+v", err, got, again)
			}
		}
		if got, err := decodeDestination(k); err == nil {
			if again, err := decodeDestination(encodeDestination(got)); err != nil || again != got {
				t.Fatalf("%v %v %v", got, again, err)
			}
		}
		if got, err := decodeDomain(k); err == nil {
			if again, err := decodeDomain(encodeDomain(got)); err != nil || again != got {
				t.Fatalf("%v %v %v", got, again, err)
			}
		}
		if got, err := decodeHold(k, v); err == nil {
			e := holdEntry{holdKey: got.holdKey, Hold: got.Hold, renewed: got.renewed}
			if again, err := decodeHold(encodeHold(got.holdKey), e.encode()); err != nil || again != got {
				t.Fatalf("%+v %+v %v", got, again, err)
			}
		}
	})
}

// Pages that the check lets pass are pages that bbolt reads, and writes, to its
// end. What it panics over would be an ErrDamaged; what it never ends with, the
// fuzzer's. The input is four octets a change: page, offset and what is there.
func FuzzPages(f *testing.F) {
	whole, err := os.ReadFile(written(f, 60))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{0, 0, 0, 0})
	for page := range byte(min(16, len(whole)/pageSize)) { // the page as its own child, its count, and where the first key is
		f.Add([]byte{page, 0, 8, flagBranch, page, 0, 10, 1, page, 0, 24, page})
		f.Add([]byte{page, 0, 11, 255})
		f.Add([]byte{page, 0, 20, 255, page, 0, 21, 255, page, 0, 24, 1})
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, changes []byte) {
		content := append([]byte{}, whole...)
		for ; len(changes) >= 4; changes = changes[4:] {
			at := int(changes[0])*pageSize + int(binary.BigEndian.Uint16(changes[1:]))%pageSize
			if at < len(content) {
				content[at] = changes[3]
			}
		}
		path := filepath.Join(dir, "memory.db")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := with(path, access{write: true}, func(db *bbolt.DB) error {
			return db.Update(func(tx *bbolt.Tx) error {
				if err := prepare(tx); err != nil {
					return err
				}
				if _, err := load(tx, 1000); err != nil {
					return err
				}
				b := tx.Bucket([]byte(destinationsBucket))
				for i := range 50 {
					if err := b.Put(binary.BigEndian.AppendUint32(nil, uint32(i)), make([]byte, 300)); err != nil {
						return err
					}
				}
				return nil
			})
		})
		if err == nil {
			if _, err := Read(path); err != nil {
				t.Fatalf("written, and then %v", err)
			}
		}
	})
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
		c, err := Read(path)
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
				if _, err := Forget(path, Subject{domain: fmt.Sprintf("d%d.w%d.example", i, w)}); err != nil {
					t.Error(err)
				}
				if _, err := Read(path); err != nil {
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
	if c, err := Read(path); err != nil || len(c.Destinations) != 20 {
		t.Errorf("%v %d %v", err, len(c.Destinations), r)
	}
}
