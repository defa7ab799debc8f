package mta

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// programsVariable names the directory of the unpacked programs.
const programsVariable = "POSTERN_MTA_PROGRAMS"

// findUnpacked finds the tree of a program that ".ci/test" has unpacked: in
// build/mta of the module that the test runs in, or where the variable says. The
// file shows that it is the whole one.
func findUnpacked(program, name, file string) (string, error) {
	directory := os.Getenv(programsVariable)
	missing := &MissingError{
		What:   program,
		Advice: "have .ci/test unpack it into build/mta, or say in " + programsVariable + " where it is unpacked",
	}
	if directory == "" {
		module, err := moduleDirectory()
		if err != nil {
			missing.Err = err
			return "", missing
		}
		directory = filepath.Join(module, "build", "mta")
	}
	tree := filepath.Join(directory, name)
	if _, err := os.Stat(filepath.Join(tree, file)); err != nil {
		missing.Err = err
		return "", missing
	}
	return tree, nil
}

// moduleDirectory is the nearest one above with a go.mod: go test runs a
// package's tests in its directory.
func moduleDirectory() (string, error) {
	directory, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		_, err := os.Stat(filepath.Join(directory, "go.mod"))
		if err == nil {
			return directory, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		parent := filepath.Dir(directory)
		if parent == directory {
			return "", fmt.Errorf("no go.mod above the working directory")
		}
		directory = parent
	}
}
