package service

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestWhatABurstLeftBehindIsGivenBack(t *testing.T) {
	room := KeepHeadroom()
	defer room.Release()
	runtime.GC()
	before := memory().held
	burst := make([][]byte, 64)
	for i := range burst {
		burst[i] = make([]byte, 1<<20)
		for at := 0; at < len(burst[i]); at += 4096 {
			burst[i][at] = 1
		}
	}
	burst = nil
	if held := memory().held; held < before+(32<<20) {
		t.Fatalf("%d octets are held after the burst, %d before", held, before)
	}
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { GiveBack(ctx); close(ended) }()
	defer func() { end(); <-ended }()
	for began := time.Now(); memory().held > before+(16<<20); time.Sleep(100 * time.Millisecond) {
		if time.Since(began) > 4*calmCheck {
			t.Fatalf("%d octets are held still, %d before the burst", memory().held, before)
		}
	}
}

func TestHeadroomOccupiesNoMemory(t *testing.T) {
	before := residentPages(t)
	room := KeepHeadroom()
	defer room.Release()
	if now := residentPages(t); now > before+headroom/4096/4 {
		t.Errorf("%d pages are resident, %d before", now, before)
	}
}

func residentPages(t *testing.T) (pages uint64) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err == nil {
		_, err = fmt.Sscan(strings.Fields(string(text))[1], &pages)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pages
}
