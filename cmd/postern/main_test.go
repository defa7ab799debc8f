package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"postern/proxy/proxytest/netlab"
)

var update = flag.Bool("update", false, "write the golden files of testdata anew")

// The tests change rules and routes, in network namespaces of their own.
func TestMain(m *testing.M) {
	code, err := netlab.Enter(netlab.Options{}, func() int {
		code := m.Run()
		if err := goleak.Find(); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// said is what one run of the program came to.
type said struct {
	code           int
	stdout, stderr string
}

func postern(t *testing.T, args ...string) said {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), args, &stdout, &stderr)
	return said{code, stdout.String(), stderr.String()}
}

// write puts a configuration into a file and gives its path.
func write(t *testing.T, doc string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "postern.toml")
	if err := os.WriteFile(path, []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// golden compares what was printed with testdata/NAME.golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: printed\n%s\nand was to print\n%s", path, got, want)
	}
}

func TestWhatIsNoCommandLineExits2AndSaysWhy(t *testing.T) {
	for _, c := range []struct {
		args string
		says string
	}{
		{"begin", `unknown command "begin"`},
		{"--conf x", "unknown flag: --conf"},
		{"run now", `unknown command "now"`},
		{"version --format yaml", `--format "yaml" found, expected table or json`},
		{"intercept sideways", `unknown command "sideways"`},
		{"intercept up lan0", `unknown command "lan0"`},
		{"intercept up --format xml", `--format "xml" found, expected table or json`},
		{"intercept down --linger soon", `invalid argument "soon"`},
		{"intercept down --linger -1s", "--linger -1s found, expected a duration of 0s or more"},
		{"intercept down --format json", "unknown flag: --format"},
		{"intercept show --linger 0s", "unknown flag: --linger"},
		{"intercept up --config /nonexistent/postern.toml", "no such file"},
		{"intercept show --config /nonexistent/postern.toml", "no such file"},
	} {
		got := postern(t, strings.Fields(c.args)...)
		if got.code != exitUsage || got.stdout != "" || !strings.HasPrefix(got.stderr, "postern: ") || !strings.Contains(got.stderr, c.says) {
			t.Errorf("postern %s: exit %d\n%s%s", c.args, got.code, got.stdout, got.stderr)
		}
	}
}

func TestEveryCommandHasAHelpTextThatTeaches(t *testing.T) {
	root := newRoot()
	for _, cmd := range root.Commands() {
		for _, cmd := range append(cmd.Commands(), cmd) {
			got := postern(t, append(strings.Fields(strings.TrimPrefix(cmd.CommandPath(), "postern")), "--help")...)
			if got.code != exitFine || got.stderr != "" || cmd.Short == "" || !strings.Contains(got.stdout, "Usage:") {
				t.Errorf("%s --help: exit %d\n%s%s", cmd.CommandPath(), got.code, got.stdout, got.stderr)
			}
		}
	}
	if bare := postern(t); bare.code != exitFine || !strings.Contains(bare.stdout, "Exit codes:") {
		t.Errorf("without a command: %+v", bare)
	}
}
