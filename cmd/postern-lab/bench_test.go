package main

import (
	"bytes"
	"crypto/sha256"
	"regexp"
	"strings"
	"testing"

	"postern/proxy/proxytest"
)

// What comes of it is no measure here; that every workload can be done, and that
// what is sent arrives as it was, is.
func TestEachWorkloadOfTheBenchmarkIsDone(t *testing.T) {
	var out, errs bytes.Buffer
	o := benchOptions{rounds: 1, scale: 0.005, idle: 60, rest: 1, among: regexp.MustCompile("direct|floor|^Postern$")}
	if code := bench(program("postern"), o, &out, &errs); code != exitFine {
		t.Fatal(errs.String())
	}
	for _, w := range workloads {
		if !strings.Contains(out.String(), "\n"+w.name+"\n") {
			t.Errorf("nothing is said of %q", w.name)
		}
	}
	t.Log(out.String())
}

func TestAMessageThatWasLostDoubledOrChangedIsFound(t *testing.T) {
	right, wrong := sha256.Sum256([]byte("right")), sha256.Sum256([]byte("wrong"))
	for name, c := range map[string]struct {
		arrivals [][sha256.Size]byte
		fine     bool
	}{
		"arrived": {[][sha256.Size]byte{right}, true},
		"lost":    {nil, false},
		"doubled": {[][sha256.Size]byte{right, right}, false},
		"changed": {[][sha256.Size]byte{wrong}, false},
	} {
		d := newDigests()
		d.expect("one", right)
		d.accepted("one")
		for _, digest := range c.arrivals {
			d.arrived(proxytest.Arrival{ID: "one", SHA256: digest})
		}
		if err := d.check(); (err == nil) != c.fine {
			t.Errorf("%s: %v", name, err)
		}
	}
}
