package record

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap/zapcore"
)

// journalCore writes to the systemd journal: the message for people, and each
// field as one of the journal's own, so that `journalctl POSTERN_REASON=…` finds
// it. Nested keys are joined: POSTERN_UPSTREAM_TLS_VERSION.
type journalCore struct {
	zapcore.LevelEnabler
	with  []zapcore.Field
	sink  *journalSink
	queue *queue
}

func newJournal(at zapcore.Level) (zapcore.Core, error) {
	if !journal.Enabled() {
		return nil, errors.New("log format journal: the journal's socket is not there")
	}
	return newJournalCore(at, journal.Send), nil
}

func newJournalCore(at zapcore.LevelEnabler, send sender) *journalCore {
	to := &journalSink{send: send}
	return &journalCore{LevelEnabler: at, sink: to, queue: &queue{lost: to.miss}}
}

// A journalSink is the journal as a file is: what it does not take is counted.
type journalSink struct {
	send sender
	lost int
}

type sender func(message string, priority journal.Priority, vars map[string]string) error

func (s *journalSink) write(message string, priority journal.Priority, vars map[string]string) {
	s.miss(0)
	if s.send(message, priority, vars) != nil {
		s.lost++
	}
}

// miss says that entries did not come so far.
func (s *journalSink) miss(entries int) {
	s.lost += entries
	if s.lost > 0 && s.send(lostMessage, journal.PriErr, map[string]string{"POSTERN_LINES": strconv.Itoa(s.lost)}) == nil {
		s.lost = 0
	}
}

func (j *journalCore) With(fields []zapcore.Field) zapcore.Core {
	with := append(j.with[:len(j.with):len(j.with)], fields...)
	return &journalCore{LevelEnabler: j.LevelEnabler, with: with, sink: j.sink, queue: j.queue}
}

func (j *journalCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if j.Enabled(e.Level) {
		return ce.AddCore(e, j)
	}
	return ce
}

func (j *journalCore) Sync() error { return j.queue.wait(func() {}) }

func (j *journalCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range append(j.with[:len(j.with):len(j.with)], fields...) {
		f.AddTo(enc)
	}
	vars := map[string]string{"POSTERN_MSG": e.Message}
	flatten(vars, "POSTERN", enc.Fields)
	message := e.Message
	if r := recordOf(fields); r != nil {
		message = r.Summary()
	}
	size := len(message)
	for key, value := range vars {
		size += len(key) + len(value)
	}
	j.queue.add(size, func() { j.sink.write(message, priorities[e.Level], vars) })
	return nil
}

var priorities = map[zapcore.Level]journal.Priority{
	zapcore.DebugLevel: journal.PriDebug,
	zapcore.InfoLevel:  journal.PriInfo,
	zapcore.WarnLevel:  journal.PriWarning,
	zapcore.ErrorLevel: journal.PriErr,
}

// flatten turns nested fields into the journal's flat ones. A list becomes its
// entries, separated by spaces; a list of objects is told by its message only.
func flatten(vars map[string]string, key string, value any) {
	switch v := value.(type) {
	case map[string]any:
		for k, inner := range v {
			flatten(vars, key+"_"+journalKey(k), inner)
		}
	case []any:
		words := make([]string, 0, len(v))
		for i, inner := range v {
			if m, ok := inner.(map[string]any); ok {
				flatten(vars, fmt.Sprintf("%s_%d", key, i), m)
				continue
			}
			words = append(words, fmt.Sprint(inner))
		}
		if len(words) > 0 {
			vars[key] = strings.Join(words, " ")
		}
	default:
		vars[key] = fmt.Sprint(v)
	}
}

// journalKey keeps to what systemd.journal-fields(7) allows in a name.
func journalKey(key string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '_':
			return r
		}
		return '_'
	}, key)
}
