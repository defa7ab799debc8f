package record

import (
	"bytes"
	"io"
	"os"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// file is where a log goes, one that can be opened anew. A write that fails (a
// full disk) is lost and counted; mail goes on. When there is room again the log
// says how many lines are missing, and a line that was cut short does not take the
// next one with it. It is for one goroutine.
type file struct {
	f         openFile
	lostWords func(lines int) []byte
	lost      int  // lines, since the log could last be written
	torn      bool // what was written last is no whole line
}

type openFile interface {
	io.WriteCloser
	Sync() error
}

func open(name string) (*os.File, error) {
	return os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
}

// change puts another file in place of the one there is.
func (f *file) change(opened *os.File) {
	f.f.Close()
	f.f = opened
	if is, err := opened.Stat(); err == nil && is.Size() == 0 {
		f.torn = false // what was torn is in the other one
	}
}

// Write writes whole lines, and before them what is owed from writes that failed. Of
// lines that are cut short the one that is cut is lost, and those behind it are
// written anew: whoever makes room meanwhile gets them. The error is the first.
func (f *file) Write(p []byte) (written int, err error) {
	for {
		n, failed := f.writeOwed(p)
		written += n
		if failed == nil {
			return written, err
		}
		if err == nil {
			err = failed
		}
		whole := bytes.LastIndexByte(p[:n], '\n') + 1
		end := bytes.IndexByte(p[whole:], '\n') + 1
		if len(p[whole:]) > 0 {
			f.lost++
		}
		if p = p[whole+end:]; end == 0 || len(p) == 0 {
			return written, err
		}
	}
}

// writeOwed writes p and what is owed, and says how much of p was written.
func (f *file) writeOwed(p []byte) (int, error) {
	var owed []byte
	if f.torn {
		owed = append(owed, '\n')
	}
	if f.lost > 0 {
		owed = append(owed, f.lostWords(f.lost)...)
	}
	text := p
	if len(owed) > 0 {
		text = append(owed, p...)
	}
	n, err := f.f.Write(text)
	if err == nil {
		f.lost, f.torn = 0, false
		return len(p), nil
	}
	if n >= len(owed) {
		f.lost = 0 // that much was said
	}
	if n > 0 {
		f.torn = text[n-1] != '\n'
	}
	return max(0, n-len(owed)), err
}

// miss says that lines did not come so far.
func (f *file) miss(lines int) {
	f.lost += lines
	f.Write(nil) // or with the next line
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

// A sink is a file with a queue before it: a zapcore.WriteSyncer whose Write
// never waits and never fails, for zap would tell of that on standard error, which
// may be what is stuck.
type sink struct {
	queue queue
	file  *file
}

func newSink(f *file) *sink {
	s := &sink{file: f}
	s.queue.lost = f.miss
	s.queue.write = func(lines []byte) { f.Write(lines) } // which counts what it loses
	return s
}

func (s *sink) Write(line []byte) (int, error) {
	s.queue.addLine(line)
	return len(line), nil
}

// Sync waits a while until all that was written before has arrived.
func (s *sink) Sync() error {
	return s.queue.wait(func() { s.file.f.Sync() }) // pipes and terminals have none
}
