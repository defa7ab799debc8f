package record

import (
	"io"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// file is where a log goes, one that can be opened anew while it is written to. A write that
// fails (a full disk) is lost and counted; mail goes on. When there is room again
// the log says how many lines are missing, and a line that was cut short does not
// take the next one with it.
type file struct {
	name      string
	lostWords func(lines int) []byte

	mu   sync.Mutex
	f    openFile
	lost int  // lines, since the log could last be written
	torn bool // what was written last is no whole line
}

type openFile interface {
	io.WriteCloser
	Sync() error
}

func (f *file) Reopen() error {
	opened, err := os.OpenFile(f.name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.f != nil {
		f.f.Close()
	}
	f.f = opened
	if is, err := opened.Stat(); err == nil && is.Size() == 0 {
		f.torn = false // another file
	}
	return nil
}

// Write writes a line, and before it what is owed from writes that failed.
func (f *file) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var owed []byte
	if f.torn {
		owed = append(owed, '\n')
	}
	if f.lost > 0 {
		owed = append(owed, f.lostWords(f.lost)...)
	}
	n, err := f.f.Write(append(owed, p...))
	if err == nil {
		f.lost, f.torn = 0, false
		return len(p), nil
	}
	if n >= len(owed) {
		f.lost = 0 // that much was said
	}
	f.lost++
	f.torn = n > 0 && n != len(owed) || n == 0 && f.torn
	return max(0, n-len(owed)), err
}

// miss counts lines that did not come so far.
func (f *file) miss(lines int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost += lines
}

func (f *file) Sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.f.Sync()
}

const lostMessage = "lines of the log were lost here: it could not be written"

// lostWords words the line that stands for lines that are missing.
func lostWords(enc zapcore.Encoder) func(lines int) []byte {
	return func(lines int) []byte {
		entry := zapcore.Entry{Level: zapcore.ErrorLevel, Time: time.Now(), Message: lostMessage}
		buffer, err := enc.EncodeEntry(entry, []zap.Field{zap.Int("lines", lines)})
		if err != nil {
			return nil
		}
		defer buffer.Free()
		return append([]byte(nil), buffer.Bytes()...)
	}
}
