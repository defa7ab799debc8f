package recorded

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// MaxLine bounds one line, octets. A record has at most some thousands of entries
// (record.MaxEntries), and few come near this.
const MaxLine = 1 << 20

// A LineError tells of a line that could not be read as a log line. Whoever gets
// one may go on reading.
type LineError struct {
	Line int // counted from 1
	Msg  string
}

// Error gives line and message, and nothing of the line itself.
func (e *LineError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Msg) }

// A Reader reads records from a log. It holds one line at a time.
type Reader struct {
	from *bufio.Reader
	line int
}

// NewReader makes a Reader of a log in JSON: lines as the daemon writes them, or
// as `journalctl -o json` prints them, in either of the forms that [log] format
// leaves in the journal.
func NewReader(r io.Reader) *Reader { return &Reader{from: bufio.NewReaderSize(r, 64<<10)} }

// Next gives the next record, passing over lines that are none. The error is
// io.EOF at the end, a *LineError for a bad line, after which Next may be called
// again, and any other where the file cannot be read.
func (r *Reader) Next() (*Record, error) {
	for {
		line, err := r.read()
		if err != nil {
			return nil, err
		}
		rec, err := parse(line)
		if err != nil {
			return nil, &LineError{r.line, err.Error()}
		}
		if rec != nil {
			rec.Line = r.line
			return rec, nil
		}
	}
}

// read gives the next line that has something in it.
func (r *Reader) read() ([]byte, error) {
	for {
		r.line++
		var line []byte
		tooLong := false
		for {
			part, err := r.from.ReadSlice('\n')
			if tooLong = tooLong || len(line)+len(part) > MaxLine; !tooLong {
				line = append(line, part...)
			}
			if errors.Is(err, bufio.ErrBufferFull) {
				continue
			}
			if err != nil && (!errors.Is(err, io.EOF) || len(line) == 0 && !tooLong) {
				return nil, err
			}
			break
		}
		if tooLong {
			return nil, &LineError{r.line, fmt.Sprintf("longer than %d octets", MaxLine)}
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			return line, nil
		}
	}
}

// message is the msg of a line that is a record.
const message = "session"

var errNotJSON = errors.New("no JSON object found, expected one log line in JSON")

// parse reads one line. It gives nil for a log line that is no record.
func parse(line []byte) (*Record, error) {
	if line[0] != '{' {
		return nil, errNotJSON
	}
	var kind struct {
		Msg     *string         `json:"msg"`
		Message json.RawMessage `json:"MESSAGE"`
		Journal *string         `json:"POSTERN_MSG"`
	}
	if err := json.Unmarshal(line, &kind); err != nil {
		return nil, errNotJSON
	}
	switch {
	case kind.Journal != nil:
		if *kind.Journal != message {
			return nil, nil
		}
		return fromJournal(line)
	case kind.Msg == nil && kind.Message != nil:
		return fromMessage(kind.Message)
	case kind.Msg == nil:
		return nil, errors.New("no msg found, expected a log line of Postern")
	case *kind.Msg != message:
		return nil, nil
	}
	rec := new(Record)
	if err := json.Unmarshal(line, rec); err != nil {
		return nil, wrongType(err)
	}
	return rec, nil
}

// fromMessage reads a line that the daemon wrote to standard error and the journal
// took for a message.
func fromMessage(raw json.RawMessage) (*Record, error) {
	var text string
	if string(raw) == "null" {
		return nil, errors.New("the message was left out, expected journalctl with --all")
	}
	if json.Unmarshal(raw, &text) != nil || len(text) == 0 || text[0] != '{' {
		return nil, nil // of systemd, or not UTF-8 and so none of ours
	}
	var kind struct {
		Msg *string `json:"msg"`
	}
	if json.Unmarshal([]byte(text), &kind) != nil || kind.Msg == nil || *kind.Msg != message {
		return nil, nil
	}
	return parse([]byte(text))
}

// wrongType words a value of another type than a record has, without the value.
func wrongType(err error) error {
	if t := (*json.UnmarshalTypeError)(nil); errors.As(err, &t) {
		expected := t.Type.Kind().String()
		switch t.Type.Kind() {
		case reflect.Struct:
			expected = "object"
		case reflect.Slice:
			expected = "array"
		}
		return fmt.Errorf("%s: %s found, expected %s", t.Field, kindOf(t.Value), expected)
	}
	return errNotJSON
}

// kindOf takes the value off what encoding/json says of one: "number 1e999".
func kindOf(value string) string {
	kind, _, _ := strings.Cut(value, " ")
	return kind
}
