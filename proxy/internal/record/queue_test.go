package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// instead has standard error be w for a while.
func instead(w *os.File, do func()) {
	was := os.Stderr
	os.Stderr = w
	defer func() { os.Stderr = was }()
	do()
}

// Standard error is a pipe that nobody reads: whoever logs goes on, what is kept
// is bounded, an orderly end does not wait for ever, and when the pipe is read
// again the log says where how much is missing.
func TestALogThatNobodyReadsStopsNobody(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	instead(w, func() {
		l, err := NewLog("json", "stderr", "info")
		if err != nil {
			t.Fatal(err)
		}
		const lines, size = 40, queueLimit / 20
		text := strings.Repeat("x", size)
		within(t, "logging", func() {
			for n := range lines {
				l.Info("m", zap.Int("n", n), zap.String("s", text))
			}
		})
		within(t, "an orderly end", func() { l.Sync() })
		within(t, "a reload", func() { l.Reopen() })
		all := make(chan string)
		go func() {
			read, _ := io.ReadAll(r)
			all <- string(read)
		}()
		within(t, "the rest", func() { l.sink.queue.wait(func() {}) })
		l.Info("m", zap.Int("n", lines))
		l.Sync()
		w.Close()
		kept, missing := told(t, <-all)
		last := kept[len(kept)-1]
		if len(kept) < 16 || len(kept) > 21 || last != lines || len(kept)+missing != lines+1 || !slices.IsSorted(kept) {
			t.Errorf("of %d entries of a twentieth of the limit came %v, and %d are told missing", lines+1, kept, missing)
		}
	})
}

// told reads a log: the numbers of the entries, and how many are said to be
// missing, which must be just where they are.
func told(t *testing.T, log string) (kept []int, missing int) {
	t.Helper()
	next := 0
	for line := range strings.Lines(log) {
		var one struct {
			Msg      string
			N, Lines int
		}
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatalf("%v: %.100s", err, line)
		}
		if one.Msg == lostMessage {
			missing += one.Lines
			next += one.Lines
			continue
		}
		if one.N != next {
			t.Errorf("entry %d comes where %d was to", one.N, next)
		}
		kept, next = append(kept, one.N), one.N+1
	}
	return kept, missing
}

func within(t *testing.T, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	select {
	case <-done:
	case <-time.After(3 * syncLimit):
		t.Fatalf("%s waits for a pipe that nobody reads", what)
	}
}

// What has been written makes room: the limit is of what waits, not of all there
// ever was.
func TestWhatIsWrittenWaitsNoMore(t *testing.T) {
	q := &queue{lost: func(n int) { t.Errorf("%d entries lost", n) }}
	for range 100 {
		q.add(queueLimit/2, func() {})
		if err := q.wait(func() {}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEntriesAreMissedWhereTheyWere(t *testing.T) {
	var done []string
	q := &queue{lost: func(n int) { done = append(done, fmt.Sprintf("%d lost", n)) }}
	held, hold := make(chan struct{}), make(chan struct{})
	q.add(queueLimit/2, func() { close(held); <-hold })
	<-held
	write := func(name string, size int) { q.add(size, func() { done = append(done, name) }) }
	write("second", queueLimit/2)
	write("third", 1)
	write("fourth", 1)
	close(hold)
	if err := q.wait(func() {}); err != nil {
		t.Fatal(err)
	}
	write("fifth", 1)
	q.wait(func() {})
	if want := []string{"second", "2 lost", "fifth"}; !slices.Equal(done, want) {
		t.Errorf("%q, want %q", done, want)
	}
}

func TestTheJournalIsToldOfWhatItDidNotTake(t *testing.T) {
	down := true
	var got []string
	core := newJournalCore(zapcore.InfoLevel, func(m string, _ journal.Priority, vars map[string]string) error {
		if down {
			return errors.New("no journal")
		}
		got = append(got, m+vars["POSTERN_LINES"])
		return nil
	})
	log := zap.New(core)
	log.Info("one")
	log.Info("two")
	core.Sync()
	down = false
	log.Info("three")
	core.Sync()
	if want := []string{lostMessage + "2", "three"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// Lines that come in quick succession are written together, each whole and in their
// order; one that comes after a silence waits for nothing.
func TestLinesThatComeInQuickSuccessionAreWrittenTogether(t *testing.T) {
	var got []byte
	writes, first := 0, make(chan struct{})
	q := &queue{lost: func(n int) { t.Errorf("%d lines lost", n) }, write: func(lines []byte) {
		if writes++; writes == 1 {
			close(first)
		}
		if len(lines) > writeLimit || lines[len(lines)-1] != '\n' {
			t.Errorf("%d octets are written, ending in %q", len(lines), lines[len(lines)-1])
		}
		got = append(got, lines...)
	}}
	const most = 20000
	var want []byte
	line := []byte("first\n")
	q.addLine(line)
	within(t, "the first line", func() { <-first })
	want = append(want, "first\n"...)
	for n := range most {
		line = fmt.Appendf(line[:0], "%d %100d\n", n, n)
		q.addLine(line)
		want = append(want, line...)
	}
	if err := q.wait(func() {}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d octets are written of %d, or in another order", len(got), len(want))
	}
	if writes > most/10 {
		t.Errorf("%d writes for %d lines", writes, most)
	}
}

// And so they are where each is written before the next comes.
func TestLinesWaitAMomentForTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var writes []time.Time
		q := &queue{write: func([]byte) { writes = append(writes, time.Now()) }}
		for range 100 {
			q.addLine([]byte("line\n"))
			synctest.Wait()
			time.Sleep(time.Millisecond)
		}
		time.Sleep(2 * gather)
		synctest.Wait()
		for i := range writes[1:] {
			if d := writes[i+1].Sub(writes[i]); d < gather {
				t.Errorf("%v between two writes", d)
			}
		}
		if most := 2 + 100*time.Millisecond/gather; len(writes) > int(most) || len(writes) < int(most)-4 {
			t.Errorf("%d writes", len(writes))
		}
	})
}

// What is to be done to the log is done in its turn among the lines, and does not wait
// for more of them.
func TestAnOrderlyEndWaitsForNoFurtherLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var done []string
		q := &queue{write: func(lines []byte) { done = append(done, string(lines)) }}
		for _, line := range []string{"a", "b"} {
			q.addLine([]byte(line))
			synctest.Wait()
		}
		begun := time.Now()
		q.wait(func() { done = append(done, "end") })
		if waited := time.Since(begun); waited > 0 || !slices.Equal(done, []string{"a", "b", "end"}) {
			t.Errorf("%q, after %v", done, waited)
		}
		q.addLine([]byte("c"))
		time.Sleep(gather) // and when nothing comes its goroutine ends
		synctest.Wait()
		time.Sleep(gather)
		synctest.Wait()
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.working || len(done) != 4 {
			t.Errorf("%q, and it goes on: %v", done, q.working)
		}
	})
}
