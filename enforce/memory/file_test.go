package memory

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"postern/enforce/kept"
)

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
			if c, err := Read(InFile(path)); tc.aside && (err != nil || len(c.Destinations) != 1) {
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
			t.Fatal(err) // anybody may lower it
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
		if c, err := Read(InFile(path)); err != nil || len(c.Destinations) != 500 {
			t.Errorf("%v, %d destinations", err, len(c.Destinations))
		}
		closes(t, s)
	})
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
		if c, err := Read(InFile(path)); err != nil || len(c.Of(subject(t, server.String())).Destinations) != 1 {
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
			_, _, err := load(tx, limits())
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
			var b kept.Batch
			b.Whole = round%100 == 99
			for range random.IntN(200) {
				k := []byte(fmt.Sprintf("%x.example", random.IntN(2000)))
				c := kept.Record{Key: k, Value: make([]byte, random.IntN(900))}
				if random.IntN(5) < 3 && round > 50 {
					c.Value = nil
				}
				b.Records = append(b.Records, c)
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
