package memory

import (
	"time"

	"go.etcd.io/bbolt"

	"postern/enforce/kept"
)

// CommandWait is how long a command waits for a daemon that writes.
const CommandWait = 5 * time.Second

// InFile is what the file at path has. The errors are os.ErrNotExist where nothing
// was ever remembered, and ErrDamaged where the daemon would begin a new file. The
// file is neither made nor given to another owner.
func InFile(path string) kept.Archive { return archive(path) }

type archive string

func (a archive) Read(limit map[string]int) (all map[string][]kept.Record, err error) {
	_, err = with(string(a), access{wait: CommandWait}, func(db *bbolt.DB) error {
		return db.View(func(tx *bbolt.Tx) (err error) {
			all, _, err = load(tx, limit)
			return err
		})
	})
	return all, err
}

// Forget has a daemon that runs forget what it has in memory within Behind.
func (a archive) Forget(subject string, limit map[string]int, matches func(kind string, key []byte) bool) (n int, err error) {
	_, err = with(string(a), access{write: true, wait: CommandWait}, func(db *bbolt.DB) error {
		return db.Update(func(tx *bbolt.Tx) error {
			if err := prepare(tx); err != nil {
				return err
			}
			all, _, err := load(tx, limit)
			if err != nil {
				return err
			}
			for kind, list := range all {
				for _, r := range list {
					if !matches(kind, r.Key) {
						continue
					}
					n++
					if err := tx.Bucket([]byte(kind)).Delete(r.Key); err != nil {
						return err
					}
				}
			}
			return ask(tx, subject) // also of what the daemon has not written yet
		})
	})
	return n, err
}
