// Package kept is the seam between what a gateway learns and where that is kept:
// in a file of its own, or on a server that several gateways share. On one side
// are Records, of destinations, domains, holds or policies; on the other a Keeper.
//
// Sessions ask and tell the Records alone, which are in memory. A Keeper comes by
// in a goroutine of its own, takes what is new and brings what is new elsewhere.
// So nothing of a session ever waits for a disk or for a network.
//
// It knows no format, no file and no server, and judges nothing.
package kept

import "time"

// A Record is one value under a key, as it is kept.
type Record struct {
	Key []byte
	// Value is nil where it is kept no longer, because there is no room for it or it
	// has run out. That says nothing to others, who may have room.
	Value []byte
	// Ended: Value says that and when something ended, so that others end it, too.
	// What has no others forgets it.
	Ended bool
	// Until is when nobody needs it any more; zero where that is not known.
	Until time.Time
}

// A Batch is what a Keeper has to take at once.
type Batch struct {
	Whole   bool // these are all: what is kept besides is not needed
	Records []Record
}

// Empty: there is nothing to do.
func (b Batch) Empty() bool { return !b.Whole && len(b.Records) == 0 }

// Records are those of one kind. The methods may be called beside sessions; of
// Keepers, one at a time calls them.
//
// Restore must join in a way that is commutative, associative and idempotent:
// gateways that have brought each other all they have then have the same, in
// whatever order it came, however often.
type Records interface {
	// Kind names them, in lower-case letters.
	Kind() string
	// Most is how many of them are ever read.
	Most() int
	// Restore joins what is kept. Whatever it comes to have that a record does not
	// say is to be written again; what is as the record has it is not. It gives how
	// many records were damaged; those are passed over.
	Restore(list []Record, now time.Time) (damaged int)
	// Offer has all there is be written, but for what a Restore brings meanwhile.
	Offer()
	// Rewrite has the next batch be whole.
	Rewrite()
	// Unwritten: there is something to take.
	Unwritten() bool
	// Take gives what is to be written, of more than most only so many, unless the
	// batch is whole. Written says what became of it, before the next.
	Take(most int) Batch
	Written(ok bool)
	// Forget forgets what is known under a subject, as a command wrote it.
	Forget(subject string)
	// Tidy drops what has run out.
	Tidy(now time.Time)
}

// A Keeper keeps Records beyond the process, and behind it: every so often it
// writes what is new and reads what others wrote. Whatever is wrong with what it
// writes to is told of, and tried again as long as it lives.
type Keeper interface {
	// Keep adds to r what is kept, at once or later, and keeps what r comes to have.
	Keep(r Records)
	// Close writes what is not written yet, and waits some seconds for that at most.
	// Then nothing is kept any more.
	Close() error
}

// An Archive is what a Keeper keeps, for commands: they read and change it beside
// the gateways or without any.
type Archive interface {
	// Read gives the records by their kind, of each at most what limit says; what
	// limit does not name is not read.
	Read(limit map[string]int) (map[string][]Record, error)
	// Forget takes out what matches and has every gateway forget the subject. It
	// gives how many records that were.
	Forget(subject string, limit map[string]int, matches func(kind string, key []byte) bool) (int, error)
}
