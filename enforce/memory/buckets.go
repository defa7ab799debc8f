package memory

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"postern/enforce/kept"
)

// The buckets of the file.
const (
	aboutBucket        = "postern"      // formatKey: formatOne
	destinationsBucket = "destinations" // address and port: what was seen
	domainsBucket      = "domains"      // domain and client: what was seen
	holdsBucket        = "holds"        // client and destination: a hold
	forgottenBucket    = "forgotten"    // a number: what the daemon has to forget

	formatKey = "format"
	formatOne = "1"
)

// mostForgotten bounds what waits for a daemon that does not run.
const mostForgotten = 4096

// errForeign: whole, but not as this release writes it. It is left alone.
var errForeign = errors.New("a database that this release of Postern has not written")

// ours reports whether a database is this package's or, if there is nothing in
// it, is to become that.
func ours(tx *bbolt.Tx) error {
	if about := tx.Bucket([]byte(aboutBucket)); about != nil {
		if string(about.Get([]byte(formatKey))) != formatOne {
			return errForeign
		}
		return nil
	}
	if name, _ := tx.Cursor().First(); name != nil {
		return errForeign
	}
	return nil
}

// prepare makes the buckets that are missing.
func prepare(tx *bbolt.Tx) error {
	if err := ours(tx); err != nil {
		return err
	}
	for _, name := range []string{destinationsBucket, domainsBucket, holdsBucket, forgottenBucket} {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return err
		}
	}
	about, err := tx.CreateBucketIfNotExists([]byte(aboutBucket))
	if err != nil {
		return err
	}
	if about.Get([]byte(formatKey)) != nil {
		return nil
	}
	return about.Put([]byte(formatKey), []byte(formatOne))
}

// put writes a batch into a bucket.
func put(tx *bbolt.Tx, name string, b kept.Batch) error {
	if b.Empty() {
		return nil
	}
	if b.Whole {
		if err := tx.DeleteBucket([]byte(name)); err != nil {
			return err
		}
		if _, err := tx.CreateBucket([]byte(name)); err != nil {
			return err
		}
	}
	slices.SortFunc(b.Records, func(a, b kept.Record) int { return bytes.Compare(a.Key, b.Key) })
	bucket := tx.Bucket([]byte(name))
	for _, r := range b.Records {
		err := error(nil)
		if r.Value == nil || r.Ended { // there is nobody else to be told
			err = bucket.Delete(r.Key)
		} else {
			err = bucket.Put(r.Key, r.Value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// load reads no more records of a kind than limit says. A kind of which there are
// more is in more, too.
func load(tx *bbolt.Tx, limit map[string]int) (all map[string][]kept.Record, more map[string]bool, err error) {
	if err := ours(tx); err != nil {
		return nil, nil, err
	}
	all, more = map[string][]kept.Record{}, map[string]bool{}
	for kind, most := range limit {
		more[kind] = each(tx.Bucket([]byte(kind)), most, func(k, v []byte) {
			all[kind] = append(all[kind], kept.Record{Key: bytes.Clone(k), Value: bytes.Clone(v)})
		})
	}
	return all, more, nil
}

// each stops at limit, and reports whether there is more.
func each(b *bbolt.Bucket, limit int, do func(k, v []byte)) bool {
	if b == nil {
		return false
	}
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if limit--; limit < 0 {
			return true
		}
		do(k, v)
	}
	return false
}

// A forgotten is what a command asked the daemon to forget.
type forgotten struct {
	number uint64
	what   string // a Subject
}

// asked gives what there is to be forgotten behind number.
func asked(tx *bbolt.Tx, number uint64) []forgotten {
	var list []forgotten
	each(tx.Bucket([]byte(forgottenBucket)), 2*mostForgotten, func(k, v []byte) {
		if len(k) != 8 || binary.BigEndian.Uint64(k) <= number {
			return
		}
		if body, err := opened(k, v); err == nil {
			list = append(list, forgotten{binary.BigEndian.Uint64(k), string(body)})
		}
	})
	return list
}

// ask has the daemon forget what, and drops the oldest of what waits when there
// is too much of it: a daemon that runs looks every few seconds.
func ask(tx *bbolt.Tx, what string) error {
	b := tx.Bucket([]byte(forgottenBucket))
	n, err := b.NextSequence()
	if err != nil {
		return err
	}
	key := binary.BigEndian.AppendUint64(nil, n)
	if err := b.Put(key, sealed(key, []byte(what))); err != nil {
		return err
	}
	if n > mostForgotten {
		return b.Delete(binary.BigEndian.AppendUint64(nil, n-mostForgotten))
	}
	return nil
}

// answered empties the bucket; its sequence goes on.
func answered(tx *bbolt.Tx) error {
	b := tx.Bucket([]byte(forgottenBucket))
	var keys [][]byte
	each(b, 2*mostForgotten, func(k, _ []byte) { keys = append(keys, bytes.Clone(k)) })
	for _, k := range keys {
		if err := b.Delete(k); err != nil {
			return fmt.Errorf("forgotten: %w", err)
		}
	}
	return nil
}

// moment is a time in Unix seconds for people; zero stays zero.
func moment(t int64) time.Time {
	if t == 0 {
		return time.Time{}
	}
	return time.Unix(t, 0)
}
