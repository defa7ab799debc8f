package cluster

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"postern/enforce/kept"
)

// When the server is read and written, and waited for.
const (
	Every     = 500 * time.Millisecond // between two turns
	again     = time.Second            // after one that failed
	againFull = 5 * time.Second        // after the server refused to write
	startWait = 3 * time.Second        // for the first turn, by Start
	lastWait  = time.Second            // for the last, by Close, behind the one under way
	linger    = 3 * time.Second        // that what is to be forgotten is forgotten once more

	mostLingering = 16
)

// Options are what a Link is told.
type Options struct {
	Address Address
	// Report is told once when the server is gone, or refuses something, and with nil
	// once when all is well again; and of records that were damaged. It is called by
	// Start and by a goroutine of the Link's. nil is silent.
	Report func(error)
}

// A Link is the Keeper on a server. Nobody ever waits for it but in Start and Close.
type Link struct {
	server *server
	report func(error)
	kinds  []kept.Records // not changed after Start
	origin string         // told with what is written here, to know it again

	// The goroutine's, and Start's before it.
	began     time.Time
	whole     bool   // the whole was read, on the connection that still is the last
	dials     int64  // and that was so many-th
	epoch     string // of what the server has
	changes   string // the last entry of the stream that was read
	forgotten string // of the other; "" before the first
	lingering []lingering
	unwrite   time.Time // the server refuses to write; it is tried again then
	trouble   string    // that was reported, in a word; "" is none

	closes chan struct{}
	closed chan struct{}
	once   sync.Once
	last   error // valid once closed is closed
}

// A lingering is what commands had forgotten together.
type lingering struct {
	entries []redis.XMessage
	until   time.Time
}

// New makes a Link, which does nothing before Start.
func New(o Options) *Link {
	l := &Link{server: newServer(o.Address), report: o.Report, origin: rand.Text(), began: time.Now(),
		closes: make(chan struct{}), closed: make(chan struct{})}
	if l.report == nil {
		l.report = func(error) {}
	}
	return l
}

// Keep is a Keeper's. It is called before Start only.
func (l *Link) Keep(r kept.Records) { l.kinds = append(l.kinds, r) }

// Start reads what the server has, for some seconds at most, so that a gateway that
// was restarted knows it before the first session; what takes longer goes on behind.
func (l *Link) Start() {
	ctx, cancel := context.WithTimeout(context.Background(), startWait)
	defer cancel()
	l.turn(ctx)
	go l.run()
}

func (l *Link) run() {
	defer close(l.closed)
	wait := time.NewTimer(Every)
	defer wait.Stop()
	for {
		select {
		case <-wait.C:
			next := Every
			if l.turn(context.Background()) != nil {
				next = again
			}
			wait.Reset(next)
		case <-l.closes:
			l.unwrite = time.Time{}
			ctx, cancel := context.WithTimeout(context.Background(), lastWait)
			l.last = l.turn(ctx)
			cancel()
			return
		}
	}
}

// Close is a Keeper's. It waits for no more than some seconds, and is called after
// Start.
func (l *Link) Close() error {
	l.once.Do(func() {
		close(l.closes)
		<-l.closed
		l.server.client.Close()
	})
	return l.last
}

// turn brings the server and what is known here together. Where that does not come
// to its end, it begins with the whole the next time.
func (l *Link) turn(ctx context.Context) error {
	now := time.Now()
	for _, r := range l.kinds {
		r.Tidy(now)
	}
	damaged, err := l.read(ctx, now)
	if err != nil {
		l.whole = false
	} else if !now.Before(l.unwrite) {
		if err = l.write(ctx); err != nil && firstWord(err) != "" {
			l.unwrite = now.Add(againFull)
		} else if err != nil {
			l.whole = false
		} else {
			l.unwrite = time.Time{}
		}
	}
	if l.server.dials.Load() != l.dials {
		l.whole = false // another connection, perhaps to another server
	}
	if damaged > 0 {
		l.report(fmt.Errorf("%s: %d records were damaged and are passed over", l.server.address, damaged))
	}
	if err != nil || l.unwrite.IsZero() { // else it still is as it was told
		l.tell(err)
	}
	return err
}

// tell reports a trouble once, until it is another.
func (l *Link) tell(err error) {
	trouble := ""
	if err != nil {
		trouble = "away"
		if word := firstWord(err); word != "" && word != "LOADING" {
			trouble = word
		}
	}
	if trouble == l.trouble {
		return
	}
	l.trouble = trouble
	switch {
	case err == nil:
		l.report(nil)
	default:
		l.report(fmt.Errorf("%s: %w", l.server.address, told(err)))
	}
}
