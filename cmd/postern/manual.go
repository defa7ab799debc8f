//go:build manual

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"postern/packaging/manual"
)

// With the tag this is another program, which no package contains: it writes the
// manual pages and the completions of the commands that the real one has.
//
//	manual postern.toml DIRECTORY
func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: manual postern.toml DIRECTORY, with SOURCE_DATE_EPOCH")
		os.Exit(exitUsage)
	}
	if err := writeManual(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "manual:", err)
		os.Exit(exitFinding)
	}
}

func writeManual(settings, dir string) error {
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err) // a page must not say when it was built
	}
	release := manual.Release{Version: version, Date: time.Unix(seconds, 0)}
	text, err := os.ReadFile(settings)
	if err != nil {
		return err
	}
	page, err := manual.Settings(string(text), release)
	if err != nil {
		return fmt.Errorf("%s: %w", settings, err)
	}
	for _, p := range append(manual.Commands(newRoot(), release), page) {
		if err := os.WriteFile(filepath.Join(dir, p.Name), []byte(p.Text), 0o644); err != nil {
			return err
		}
	}
	return writeCompletions(dir)
}

// writeCompletions writes them under the names that each shell looks for.
func writeCompletions(dir string) error {
	root := newRoot()
	for name, write := range map[string]func(io.Writer) error{
		"postern.bash": func(w io.Writer) error { return root.GenBashCompletionV2(w, true) },
		"_postern":     root.GenZshCompletion,
		"postern.fish": func(w io.Writer) error { return root.GenFishCompletion(w, true) },
	} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if err := write(f); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}
