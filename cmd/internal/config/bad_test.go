package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the .txt files of testdata/bad anew")

// Each file of the gallery fails for its own reason, and says all of it.
func TestABadConfigurationIsRefusedWithEveryFaultAndItsLine(t *testing.T) {
	paths, err := filepath.Glob("testdata/bad/*.toml")
	if err != nil || len(paths) < 30 {
		t.Fatalf("%d files: %v", len(paths), err)
	}
	seen := map[string]string{}
	for _, path := range paths {
		_, err := Load(path)
		var faults Errors
		if !errors.As(err, &faults) {
			t.Errorf("%s: %v", path, err)
			continue
		}
		got := strings.ReplaceAll(faults.Error(), filepath.Dir(path)+"/", "") + "\n"
		golden := strings.TrimSuffix(path, ".toml") + ".txt"
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s says\n%sand was to say\n%s", path, got, want)
		}
		_, reason, _ := strings.Cut(got, ": ")
		if other := seen[reason]; other != "" {
			t.Errorf("%s fails for the reason of %s", path, other)
		}
		seen[reason] = path
	}
}

func FuzzAnyFileYieldsAConfigurationOrFaultsWithLines(f *testing.F) {
	paths, err := filepath.Glob("testdata/bad/*.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range append(paths, "testdata/reference.toml") {
		doc, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(doc)
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		file, err := Parse("f", doc)
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 8<<20+4096*uint64(len(doc)) {
			t.Fatalf("%d octets of memory for a file of %d", got, len(doc))
		}
		if err == nil {
			if file.Policy == nil || len(file.Policy.Rules()) != len(file.Proxy.Rules)+1 {
				t.Fatal("a configuration without its rules")
			}
			return
		}
		var faults Errors
		if file != nil || !errors.As(err, &faults) || len(faults) == 0 {
			t.Fatalf("%v, %v", file, err)
		}
		last := strings.Count(string(doc), "\n") + 1
		for i, e := range faults {
			if e.Line < 1 || e.Line > last || e.Msg == "" || i > 0 && e.Line < faults[i-1].Line {
				t.Fatalf("fault %d of %d lines: %+v", i, last, e)
			}
			if strings.ContainsAny(e.Error(), "\n\r\x00\x1b") {
				t.Fatalf("a fault that writes more than its line: %q", e.Error())
			}
		}
	})
}
