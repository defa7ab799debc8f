package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// mayWrite refuses before anything is asked of the machine. A device or a pipe would
// be replaced by a file under --force, as /dev/null by whoever meant to see nothing.
func (in initiation) mayWrite() error {
	if info, err := os.Stat(in.output); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no file (\"postern init --output -\" writes to standard output)", in.output)
	}
	present, err := os.ReadFile(in.output)
	switch {
	case errors.Is(err, os.ErrNotExist) || in.force:
		return nil
	case err != nil:
		return err
	case isShipped(string(present)):
		return fmt.Errorf("%s is the file that the package installs, without an interface yet: \"postern init --force\" replaces it and keeps it as %s.old", in.output, in.output)
	}
	return fmt.Errorf("%s is there and somebody has written it: it is left alone (\"postern init --output -\" shows what would be written, --force replaces it and keeps it as %s.old)",
		in.output, in.output)
}

// isShipped knows the file of the package by having nothing in force but what
// that has: empty tables, and no interface.
func isShipped(text string) bool {
	const empty = "interfaces = []"
	found := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#' || line[0] == '[' && !strings.HasPrefix(line, "[["):
		case line == empty && !found:
			found = true
		default:
			return false
		}
	}
	return found
}

const mode = 0o640 // it names files with keys, and who is trusted

// write puts the file in place whole or not at all.
func (in initiation) write(data []byte) error {
	directory := filepath.Dir(in.output)
	temporary, err := os.CreateTemp(directory, ".postern-init-*")
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name()) // gone already where all went well
	_, err = temporary.Write(data)
	err = errors.Join(err, temporary.Chmod(mode), in.owned(temporary), temporary.Sync(), temporary.Close())
	if err != nil {
		return err
	}
	if err := in.keepOld(); err != nil {
		return err
	}
	if !in.force {
		// A file that came meanwhile is somebody's: a link does not replace it.
		return os.Link(temporary.Name(), in.output)
	}
	return os.Rename(temporary.Name(), in.output)
}

// owned gives the file to the group that the service reads it as: that of the
// file it replaces, or, where that let everybody read, that of the service's user.
func (in initiation) owned(f *os.File) error {
	if os.Geteuid() != 0 {
		return nil
	}
	const byEverybody = 0o004
	uid, gid := -1, -1
	if info, err := os.Stat(in.output); err == nil {
		if before, ok := info.Sys().(*syscall.Stat_t); ok {
			uid, gid = int(before.Uid), int(before.Gid)
		}
		if info.Mode().Perm()&byEverybody == 0 {
			return f.Chown(uid, gid)
		}
	}
	who, err := user.Lookup(in.user)
	if err != nil {
		return f.Chown(uid, gid) // nobody but root runs it here
	}
	if gid, err = strconv.Atoi(who.Gid); err != nil {
		return err
	}
	return f.Chown(uid, gid)
}

// keepOld leaves the file that is replaced beside it, as the last that was.
func (in initiation) keepOld() error {
	if _, err := os.Lstat(in.output); errors.Is(err, os.ErrNotExist) || !in.force {
		return nil
	}
	old := in.output + ".old"
	if err := os.Remove(old); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Link(in.output, old)
}
