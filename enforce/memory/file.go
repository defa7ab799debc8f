package memory

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
)

const (
	fileMode   = 0o600
	lockRetry  = 10 * time.Millisecond
	mostAside  = 2 // damaged files that are kept
	asideInfix = ".damaged-"
)

// errBusy: somebody else had the file for as long as was waited.
var errBusy = errors.New("another process has it locked")

// errNothing: there is no file, or nothing was ever written into it.
var errNothing = fmt.Errorf("nothing was ever remembered: %w", os.ErrNotExist)

// An access is a way to open the file.
type access struct {
	write, create bool
	wait          time.Duration // for the lock
	trusted       print         // a file that still is this one need not be checked again
	found         *print        // what it was when it was opened; nil: nobody asks
}

// A print tells whether a file is as it was.
type print struct {
	device, inode uint64
	size          int64
	changed       time.Time
	transaction   uint64
	heads         int // that are whole, of two
}

func printOf(f *os.File) (print, error) {
	info, err := f.Stat()
	if err != nil {
		return print{}, err
	}
	p := print{size: info.Size(), changed: info.ModTime()}
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		p.device, p.inode = uint64(s.Dev), s.Ino
	}
	if m, err := readMeta(f); err == nil {
		p.transaction, p.heads = m.transaction, m.whole
	}
	return p, nil
}

// with opens the file at path and has do work on it. The lock is held for no
// longer than that, so that the daemon and the commands can take turns.
//
// A file that bbolt could not be trusted with is ErrDamaged and is not touched;
// so is one that bbolt, or do, panics over. The print is that of the file as it
// was left.
func with(path string, how access, do func(*bbolt.DB) error) (left print, err error) {
	var file *os.File
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // a page that the disk no longer has
	defer func() {
		if what := recover(); what != nil {
			// The database is left as it is, for to close it may wait for a lock that was
			// never given back. Its mapping stays, and would keep the lock.
			err = fmt.Errorf("%w: %v", ErrDamaged, what)
			if file != nil {
				_ = syscall.Flock(int(file.Fd()), syscall.LOCK_UN)
				file.Close()
			}
		}
	}()
	options := *bbolt.DefaultOptions
	options.PageSize, options.MaxSize, options.Timeout, options.ReadOnly = pageSize, mostFile, how.wait, !how.write
	options.OpenFile = func(path string, _ int, _ os.FileMode) (*os.File, error) {
		file, err = openFile(path, how)
		return file, err
	}
	db, err := bbolt.Open(path, fileMode, &options)
	if err != nil {
		return print{}, err
	}
	if err = do(db); err == nil {
		left, err = printOf(file)
	}
	return left, errors.Join(err, db.Close())
}

// openFile opens, locks and checks. It follows no link and waits for no pipe,
// since a command may do this as root in a directory that is not root's.
func openFile(path string, how access) (*os.File, error) {
	flags := os.O_RDONLY | syscall.O_NOFOLLOW | syscall.O_NONBLOCK
	if how.write {
		flags = flags&^os.O_RDONLY | os.O_RDWR
	}
	if how.create {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(path, flags, fileMode)
	if err != nil {
		return nil, err
	}
	if err := sound(f, how); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func sound(f *os.File, how access) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file", f.Name())
	}
	if err := lock(f, how); err != nil {
		return err
	}
	p, err := printOf(f)
	if how.found != nil {
		*how.found = p
	}
	switch {
	case err != nil:
		return err
	case p.size > 0 && p == how.trusted:
		return nil
	case p.size == 0 && how.create:
		return nil // bbolt makes it
	case p.size == 0:
		return errNothing
	}
	return checkPages(f, p.size)
}

// lock takes the lock that bbolt takes too, which of one open file it may.
func lock(f *os.File, how access) error {
	kind := syscall.LOCK_SH
	if how.write {
		kind = syscall.LOCK_EX
	}
	for began := time.Now(); ; time.Sleep(lockRetry) {
		err := syscall.Flock(int(f.Fd()), kind|syscall.LOCK_NB)
		switch {
		case errors.Is(err, syscall.EINTR):
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return err
		case time.Since(began) >= how.wait:
			return errBusy
		}
	}
}

// follows reports whether p is the file that o is of, as o was or later. A new
// file may well have the number of the old.
func (p print) follows(o print) bool {
	return p.device == o.device && p.inode == o.inode && p.size > 0 && o.size > 0 && p.transaction >= o.transaction
}

// changedSince reports whether the file at path is another than was left. What
// cannot be told is told by opening it.
func changedSince(path string, left print) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return true
	}
	defer f.Close()
	p, err := printOf(f)
	return err != nil || p != left
}

// setAside gives a damaged file another name, for whoever wants to look at it,
// and keeps no more of them than the last few.
func setAside(path string, now time.Time) (string, error) {
	to := path + asideInfix + now.UTC().Format("20060102T150405Z")
	if err := os.Rename(path, to); err != nil {
		return "", err
	}
	dir, base := filepath.Split(path)
	entries, err := os.ReadDir(filepath.Clean(dir + "."))
	if err != nil {
		return to, nil
	}
	var all []string
	for _, e := range entries {
		if name := e.Name(); len(name) > len(base)+len(asideInfix) && name[:len(base)+len(asideInfix)] == base+asideInfix {
			all = append(all, filepath.Join(dir, name))
		}
	}
	slices.Sort(all)
	for _, old := range all[:max(0, len(all)-mostAside)] {
		_ = os.Remove(old) // next time, then
	}
	return to, nil
}
