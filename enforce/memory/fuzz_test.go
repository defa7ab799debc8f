package memory

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"postern/enforce"
)

func FuzzRecords(f *testing.F) {
	s := seen{missed: 3, lastMissed: 77, sightings: []sighting{{spki: [32]byte{1}, issuer: "CN=R11", first: 1, last: 2, counted: 2, occasions: 2, count: 9, version: 0x304, verified: true},
		{spki: [32]byte{2}, first: -1, version: 0x303}}}
	f.Add(encodeDestination(server), s.encode())
	f.Add(encodeDomain(domainKey{"contoso.com", clientOf(client)}), s.encode())
	e := holdEntry{Hold: enforce.Hold{Offered: 0x301, Since: noon, Refused: 2}, renewed: noon}
	f.Add(encodeHold(keyOf(from("10.1.0.9", "203.0.113.7"))), e.encode())
	f.Add(encodeHold(keyOf(from("10.1.0.9", "203.0.113.7"))), encodeCleared(noon))
	f.Fuzz(func(t *testing.T, k, v []byte) {
		if got, err := decodeSeen(v); err == nil {
			again, err := decodeSeen(got.encode())
			if err != nil || fmt.Sprint(again) != fmt.Sprint(got) || len(got.sightings) > mostKeys+1 {
				t.Fatalf("%v: %+v became %+v", err, got, again)
			}
			once := seen{}.joined(got) // as whoever restores it does, whatever it says
			if twice := once.joined(got); !twice.equal(once) || len(once.sightings) > 0 && len(once.sightings) < len(got.sightings)-1 {
				t.Fatalf("%+v joined is %+v, and once more %+v", got, once, twice)
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
			e := holdEntry{holdKey: got.holdKey, Hold: got.Hold, failed: got.failed, renewed: got.renewed}
			value := e.encode()
			if got.cleared {
				value = encodeCleared(got.renewed)
			}
			if again, err := decodeHold(encodeHold(got.holdKey), value); err != nil || again != got {
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
				if _, _, err := load(tx, limits()); err != nil {
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
			if _, err := Read(InFile(path)); err != nil {
				t.Fatalf("written, and then %v", err)
			}
		}
	})
}

// What a start and a batch cost when everything is full.
func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "memory.db")
	fill := func(s *Store) {
		for i := range 3 * DefaultEntries {
			s.Learn(addrPort("%d.%d.%d.1:25", 1+i%200, i/200%250, i/50_000), []string{fmt.Sprintf("d%d.x%d.example", i, i)}, tls13(1, true, time.Now()))
		}
	}
	s, err := Open(Options{Path: path, Remember: month, Report: func(err error) { b.Error(err) }})
	if err != nil {
		b.Fatal(err)
	}
	fill(s)
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s, err := Open(Options{Path: path, Remember: month, Report: func(err error) { b.Error(err) }})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(s.destinations.len()), "destinations")
		_ = s.Close()
	}
}
