package memory

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"go.etcd.io/bbolt"
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
func put(tx *bbolt.Tx, name string, b batch) error {
	if b.empty() {
		return nil
	}
	if b.whole {
		if err := tx.DeleteBucket([]byte(name)); err != nil {
			return err
		}
		if _, err := tx.CreateBucket([]byte(name)); err != nil {
			return err
		}
	}
	slices.SortFunc(b.changes, func(a, b change) int { return bytes.Compare(a.key, b.key) })
	bucket := tx.Bucket([]byte(name))
	for _, c := range b.changes {
		err := error(nil)
		if c.value == nil {
			err = bucket.Delete(c.key)
		} else {
			err = bucket.Put(c.key, c.value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// A loaded is a file as it was read, each list in the order of the last session.
type loaded struct {
	destinations []row[netip.AddrPort]
	domains      []row[domainKey]
	holds        []held
	damaged      int  // records that were passed over
	more         bool // there are more than were read
}

type row[K any] struct {
	key K
	seen
}

// load reads no more than limit records of each kind.
func load(tx *bbolt.Tx, limit int) (loaded, error) {
	if err := ours(tx); err != nil {
		return loaded{}, err
	}
	var l loaded
	l.destinations = rows(tx.Bucket([]byte(destinationsBucket)), limit, decodeDestination, &l)
	l.domains = rows(tx.Bucket([]byte(domainsBucket)), limit, decodeDomain, &l)
	l.more = each(tx.Bucket([]byte(holdsBucket)), MostHolds, func(k, v []byte) {
		if body, err := opened(k, v); err != nil {
			l.damaged++
		} else if h, err := decodeHold(k, body); err != nil {
			l.damaged++
		} else {
			l.holds = append(l.holds, h)
		}
	}) || l.more
	slices.SortStableFunc(l.holds, func(a, b held) int { return a.renewed.Compare(b.renewed) })
	return l, nil
}

func rows[K any](b *bbolt.Bucket, limit int, decode func([]byte) (K, error), of *loaded) []row[K] {
	var list []row[K]
	of.more = each(b, limit, func(k, v []byte) {
		body, err := opened(k, v)
		if err != nil {
			of.damaged++
			return
		}
		key, err := decode(k)
		s, err2 := decodeSeen(body)
		if err != nil || err2 != nil {
			of.damaged++
			return
		}
		list = append(list, row[K]{key, s})
	}) || of.more
	slices.SortStableFunc(list, func(a, b row[K]) int { return int(max(-1, min(1, a.last()-b.last()))) })
	return list
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
	what   Subject
}

// asked gives what there is to be forgotten behind number.
func asked(tx *bbolt.Tx, number uint64) []forgotten {
	var list []forgotten
	each(tx.Bucket([]byte(forgottenBucket)), 2*mostForgotten, func(k, v []byte) {
		if len(k) != 8 || binary.BigEndian.Uint64(k) <= number {
			return
		}
		if body, err := opened(k, v); err == nil {
			if what, err := ParseSubject(string(body)); err == nil {
				list = append(list, forgotten{binary.BigEndian.Uint64(k), what})
			}
		}
	})
	return list
}

// ask has the daemon forget what, and drops the oldest of what waits when there
// is too much of it: a daemon that runs looks every few seconds.
func ask(tx *bbolt.Tx, what Subject) error {
	b := tx.Bucket([]byte(forgottenBucket))
	n, err := b.NextSequence()
	if err != nil {
		return err
	}
	key := binary.BigEndian.AppendUint64(nil, n)
	if err := b.Put(key, sealed(key, []byte(what.String()))); err != nil {
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
