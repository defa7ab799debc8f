package record

import (
	"os"
	"path/filepath"
	"testing"
)

func TestTheRecordIsWrittenAtEveryLogLevel(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	l, err := NewLog("json", name, "warn")
	if err != nil {
		t.Fatal(err)
	}
	(&Record{Session: "X"}).Emit(l.Logger)
	l.Sync()
	if text, _ := os.ReadFile(name); len(text) == 0 {
		t.Error("no record at level warn")
	}
}
