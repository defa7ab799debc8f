package record

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// A pipe that nobody reads, as standard error can be: whoever logs goes on, what
// is kept is bounded, and when it is read again the log says what is missing.
func TestALogThatNobodyReadsStopsNobody(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	enc := zapcore.NewJSONEncoder(encoding)
	sink := newBehind(&file{f: w, lostWords: lostWords(enc)})
	log := zap.New(zapcore.NewCore(enc, sink, zapcore.InfoLevel))
	const lines, size = 30, queueLimit / 20
	logged := make(chan int)
	go func() {
		kept := 0
		for n := range lines {
			if err := log.Core().Write(zapcore.Entry{Message: "m"}, []zap.Field{zap.Int("n", n), zap.String("s", strings.Repeat("x", size))}); err == nil {
				kept++
			} else if !errors.Is(err, errBehind) {
				t.Error(err)
			}
		}
		logged <- kept
	}()
	var kept int
	select {
	case kept = <-logged:
	case <-time.After(20 * time.Second):
		t.Fatal("who logs waits for a pipe that nobody reads")
	}
	if kept < 15 || kept > 20 {
		t.Errorf("%d of %d entries of a twentieth of the limit were kept", kept, lines)
	}
	log.Info("last") // small, and there is room for it
	text := make(chan string)
	go func() {
		all, _ := io.ReadAll(r)
		text <- string(all)
	}()
	if err := sink.queue.Sync(); err != nil {
		t.Error(err)
	}
	log.Info("after")
	sink.queue.Sync()
	w.Close()
	next, missing := 0, 0
	for line := range strings.Lines(<-text) {
		var one struct {
			Msg   string
			N     int
			Lines int
		}
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatalf("%v: %.100s", err, line)
		}
		switch one.Msg {
		case "m":
			if one.N != next {
				t.Errorf("entry %d, want %d", one.N, next)
			}
			next++
		case lostMessage:
			missing += one.Lines
		}
	}
	if next != kept || missing != lines-kept {
		t.Errorf("%d entries were read and %d told missing; %d were kept of %d", next, missing, kept, lines)
	}
}

func TestSyncDoesNotWaitForEverForALogThatNobodyReads(t *testing.T) {
	q := &queue{}
	stuck := make(chan struct{})
	q.add(1, func() { <-stuck })
	began := time.Now()
	if err := q.Sync(); !errors.Is(err, errBehind) || time.Since(began) > 2*syncLimit {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	close(stuck)
	if err := q.Sync(); err != nil {
		t.Error(err)
	}
}
