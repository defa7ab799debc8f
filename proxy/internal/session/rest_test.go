package session

import (
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"postern/proxy/internal/parking"
)

// resting counts how often a session came to rest, and says when it does.
type resting struct {
	lot   parking.Lot
	times atomic.Int64
	now   chan struct{}
}

func (r *resting) park(sockets []net.Conn, until time.Time, wake func()) (func(), error) {
	leave, err := r.lot.Park(sockets, until, wake)
	if err == nil && r.times.Add(1) == 1 {
		close(r.now)
	}
	return leave, err
}

// atRest is a bench whose session, greeted, has come to rest.
func atRest(t *testing.T, edit func(*Snapshot)) (*bench, *peer) {
	t.Helper()
	r := &resting{now: make(chan struct{})}
	b := newBench(t, options{edit: func(s *Snapshot) {
		s.Park = r.park
		if edit != nil {
			edit(s)
		}
	}})
	up := b.greeted(true)
	select {
	case <-r.now:
	case <-time.After(5 * time.Second):
		t.Fatal("the session does not rest")
	}
	return b, up
}

func TestASessionAtRestGoesOnWithWhatTheClientSays(t *testing.T) {
	b, up := atRest(t, nil)
	for range 5 {
		b.client.say("NOOP\n")
		up.hears("NOOP")
		up.say("250 2.0.0 ok\n")
		b.client.hears("250 2.0.0 ok")
		time.Sleep(20 * time.Millisecond) // and rests again
	}
}

func TestASessionAtRestHearsTheServerOut(t *testing.T) {
	b, up := atRest(t, nil)
	up.say("421 4.3.2 mx.example.net going down\n")
	b.client.hears("421 4.3.2 mx.example.net going down")
	if r := b.record(); r["end"] != "upstream closed with 421" {
		t.Errorf("%v", r["end"])
	}
}

func TestASessionAtRestNoticesThatAPeerHasGone(t *testing.T) {
	t.Run("the server", func(t *testing.T) {
		b, up := atRest(t, nil)
		up.conn.Close()
		b.client.hears("421 4.4.2 …")
		b.record()
	})
	t.Run("the client", func(t *testing.T) {
		b, _ := atRest(t, nil)
		b.client.conn.Close()
		if r := b.record(); !strings.HasPrefix(r["end"].(string), "client ") {
			t.Errorf("%v", r["end"])
		}
	})
}

func TestASessionAtRestIsDrainedAndAborted(t *testing.T) {
	for name, end := range map[string]func(*Session){"drain": (*Session).Drain, "abort": (*Session).Abort} {
		t.Run(name, func(t *testing.T) {
			b, _ := atRest(t, nil)
			began := time.Now()
			end(b.session)
			said, _ := io.ReadAll(b.client.r)
			if !strings.HasPrefix(string(said), "421 4.3.2") || time.Since(began) > 3*time.Second {
				t.Errorf("%q after %s", said, time.Since(began))
			}
			b.record()
		})
	}
}

func TestAClientAtRestHasTheTimeOfACommandAndNoMore(t *testing.T) {
	const limit = 500 * time.Millisecond
	b, _ := atRest(t, func(s *Snapshot) { s.Timeouts.Command = limit })
	began := time.Now()
	b.client.hears("421 4.4.2 …")
	if took := time.Since(began); took < limit/2 || took > limit+2*time.Second {
		t.Errorf("ended after %s", took)
	}
	if r := b.record(); r["end"] != "client timeout" {
		t.Errorf("%v", r["end"])
	}
}
