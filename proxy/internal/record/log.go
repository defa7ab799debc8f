package record

import (
	"fmt"
	"io"
	"os"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"
)

// A Log is where records and events go: a zap logger and the file under it.
type Log struct {
	*zap.Logger
	name string // of its file; "" when the output is none
	sink *sink  // nil for the journal
}

// NewLog opens a log. format is "json", "console" or "journal"; output is
// "stderr", "stdout" or a file, which journal does not look at; level is a zap
// level.
func NewLog(format, output, level string) (*Log, error) {
	var at zapcore.Level
	if err := at.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q: %w", level, err)
	}
	if format == "journal" {
		core, err := newJournal(at)
		if err != nil {
			return nil, err
		}
		return &Log{Logger: zap.New(core, zap.ErrorOutput(nowhere))}, nil
	}
	l := new(Log)
	var to *file
	switch output {
	case "stderr", "":
		to = &file{f: os.Stderr}
	case "stdout":
		to = &file{f: os.Stdout}
	default:
		opened, err := open(output)
		if err != nil {
			return nil, fmt.Errorf("log output: %w", err)
		}
		to, l.name = &file{f: opened}, output
	}
	var enc zapcore.Encoder
	switch format {
	case "json":
		enc = zapcore.NewJSONEncoder(encoding)
	case "console":
		enc = consoleEncoder{zapcore.NewConsoleEncoder(encoding)}
	default:
		return nil, fmt.Errorf("log format %q is none of json, console, journal", format)
	}
	to.lostWords = lostWords(enc)
	l.sink = newSink(to)
	l.Logger = zap.New(zapcore.NewCore(enc, l.sink, at), zap.ErrorOutput(nowhere))
	return l, nil
}

// nowhere is where zap tells of its own faults; standard error, where it would
// otherwise, may be a pipe that nobody reads.
var nowhere = zapcore.AddSync(io.Discard)

// Reopen opens the log's file anew, so that one that was rotated away is let go.
// What was logged before goes to the old one, which stays when that fails.
func (l *Log) Reopen() error {
	if l.name == "" {
		return nil
	}
	opened, err := open(l.name)
	if err != nil {
		return err
	}
	l.sink.queue.add(0, func() { l.sink.file.change(opened) })
	return nil
}

var encoding = zapcore.EncoderConfig{
	TimeKey: "time", LevelKey: "level", MessageKey: "msg", NameKey: "logger",
	EncodeTime: func(t time.Time, enc zapcore.PrimitiveArrayEncoder) {
		inMilliseconds(t.UTC(), enc)
	},
	EncodeLevel:    zapcore.LowercaseLevelEncoder,
	EncodeDuration: zapcore.StringDurationEncoder,
	EncodeName:     zapcore.FullNameEncoder,
}

// inMilliseconds writes into the encoder's own memory, where that can be.
var inMilliseconds = zapcore.TimeEncoderOfLayout("2006-01-02T15:04:05.000Z07:00")

// consoleEncoder shows a record as a line for people; anything else as zap does.
type consoleEncoder struct{ zapcore.Encoder }

func (c consoleEncoder) Clone() zapcore.Encoder { return consoleEncoder{c.Encoder.Clone()} }

func (c consoleEncoder) EncodeEntry(e zapcore.Entry, fields []zapcore.Field) (*buffer.Buffer, error) {
	if r := recordOf(fields); r != nil {
		e.Message, fields = r.Summary(), nil
	}
	return c.Encoder.EncodeEntry(e, fields)
}

// recordOf finds the record that Emit put into fields.
func recordOf(fields []zapcore.Field) *Record {
	for _, f := range fields {
		if r, ok := f.Interface.(*Record); ok {
			return r
		}
	}
	return nil
}
