package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"postern/proxy/proxytest/mta"
	"postern/proxy/proxytest/netlab"
)

// programsVariable says where the programs under test are, to the second run of
// this binary, which is within the lab and could download nothing.
const programsVariable = "POSTERN_LAB_TEST_PROGRAMS"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && hiddenCommands[os.Args[1]] != nil {
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	code, err := inLab(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// inLab builds the programs and runs the tests in a lab of their own.
func inLab(m *testing.M) (int, error) {
	if os.Getenv(programsVariable) == "" {
		dir, err := os.MkdirTemp("", "postern-lab-test-")
		if err != nil {
			return 1, err
		}
		defer os.RemoveAll(dir)
		if err := build(dir); err != nil {
			return 1, err
		}
		if err := os.Setenv(programsVariable, dir); err != nil {
			return 1, err
		}
	}
	inside := func() int {
		code := m.Run()
		if err := goleak.Find(); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}
	code, err := mta.Enter(netlab.Options{}, inside)
	if missing := (*mta.MissingError)(nil); errors.As(err, &missing) && os.Getenv("CI") == "" {
		return netlab.Enter(netlab.Options{}, inside) // what needs Postfix skips
	}
	return code, err
}

// build builds what `make build` does, where any user can run it.
func build(dir string) error {
	command := exec.Command("go", "build", "-o", dir+"/", "postern/cmd/postern", "postern/cmd/postern-lab")
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, said)
	}
	return os.Chmod(dir, 0o755)
}

// program is one of those that were built.
func program(name string) string { return filepath.Join(os.Getenv(programsVariable), name) }

func TestAMistakeInTheCommandLineIsUsage(t *testing.T) {
	for _, row := range []struct {
		args []string
		code int
	}{
		{nil, exitUsage},
		{[]string{"shell"}, exitUsage},
		{[]string{"demo", "now"}, exitUsage},
		{[]string{"demo", "--colour"}, exitUsage},
		{[]string{"attack", "--only"}, exitUsage},
		{[]string{"attack", "starttls"}, exitUsage},
		{[]string{"--help"}, exitFine},
		{[]string{"demo", "--help"}, exitFine},
		{[]string{"soak", "--for", "ever"}, exitUsage},
		{[]string{"load", "--sessions", "many"}, exitUsage},
		{[]string{"demo", "--postern", "/nonexistent"}, exitFinding},
		{[]string{confinedCommand}, exitFinding},
	} {
		var out, errs bytes.Buffer
		if code := run(row.args, &out, &errs); code != row.code {
			t.Errorf("%q: exit %d, want %d", row.args, code, row.code)
		}
		said := out.String() + errs.String()
		if row.code != exitFinding && !strings.Contains(said, "usage: postern-lab COMMAND") {
			t.Errorf("%q said %q", row.args, said)
		}
		if row.code != exitFine && errs.Len() == 0 {
			t.Errorf("%q said nothing on standard error", row.args)
		}
	}
}
