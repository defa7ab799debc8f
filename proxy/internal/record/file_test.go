package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap/zapcore"
)

// disk has room for so many octets, as a full one: it takes what still fits.
type disk struct {
	bytes.Buffer
	room int
}

func (d *disk) Write(p []byte) (int, error) {
	fits := min(len(p), d.room)
	d.room -= fits
	d.Buffer.Write(p[:fits])
	if fits < len(p) {
		return fits, errors.New("no space left on device")
	}
	return fits, nil
}

func (d *disk) Close() error { return nil }
func (d *disk) Sync() error  { return nil }

// Wherever a full disk cuts, each line that was written later stands alone and
// can be read, and the log says how many are missing.
func TestALineThatAFullDiskCutsShortDoesNotTakeTheNextWithIt(t *testing.T) {
	const line = `{"msg":"session","session":"AAAAAA"}` + "\n"
	for room := range 4 * len(line) {
		d := &disk{room: room}
		f := &file{f: d, lostWords: lostWords(zapcore.NewJSONEncoder(encoding))}
		written := 0
		write := func() {
			if n, err := f.Write([]byte(line)); err == nil && n == len(line) {
				written++
			}
		}
		for range 5 {
			write()
		}
		d.room = 1 << 20 // there is room again
		write()
		write()
		whole, missing, halves := 0, 0, 0
		for one := range strings.Lines(d.String()) {
			var got struct {
				Msg   string
				Lines int
			}
			switch err := json.Unmarshal([]byte(one), &got); {
			case err != nil:
				halves++
			case got.Msg == "session":
				whole++
			default:
				missing += got.Lines
			}
		}
		// A line may be whole but for its end, and counts as lost then.
		if whole < written || whole > written+1 || missing != 7-written || halves > 2 {
			t.Errorf("room for %d: %d of %d lines written can be read, %d told missing, %d halves\n%s",
				room, whole, written, missing, halves, d.String())
		}
	}
}

// So it is where the lines were to be written together: what still fits is there, and
// of the others each is told missing.
func TestAFullDiskCutsLinesThatAreWrittenTogetherAsItDoesOthers(t *testing.T) {
	var lines []byte
	for n := range 5 {
		lines = fmt.Appendf(lines, "{\"msg\":\"m\",\"n\":%d}\n", n)
	}
	for room := range 3 * len(lines) {
		d := &disk{room: room}
		f := &file{f: d, lostWords: lostWords(zapcore.NewJSONEncoder(encoding))}
		f.Write(lines)
		f.Write(lines)
		d.room = 1 << 20
		f.Write(lines)
		var whole []int
		missing := 0
		for one := range strings.Lines(d.String()) {
			var got struct {
				Msg      string
				N, Lines int
			}
			switch err := json.Unmarshal([]byte(one), &got); {
			case err != nil:
			case got.Msg == "m":
				whole = append(whole, got.N)
			default:
				missing += got.Lines
			}
		}
		// One may be whole but for its end, and counts as lost then.
		if sum := len(whole) + missing; sum < 15 || sum > 16 {
			t.Errorf("room for %d: %d of 15 lines can be read, %d told missing\n%s", room, len(whole), missing, d.String())
		}
		if n := min(room/(len(lines)/5), 5); !slices.Equal(whole[:n], []int{0, 1, 2, 3, 4}[:n]) || !slices.Equal(whole[len(whole)-5:], []int{0, 1, 2, 3, 4}) {
			t.Errorf("room for %d: %v", room, whole)
		}
	}
}
