package doctor

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// account is a user as the kernel sees one.
type account struct {
	name, group string
	uid         uint32
	gids        []uint32
}

// accountOf looks a user up in this machine's files. That there is none is no
// error: Postern may not be installed as a package.
func accountOf(name string) (account, bool) {
	found, err := user.Lookup(name)
	if err != nil {
		return account{}, false
	}
	uid, err := strconv.ParseUint(found.Uid, 10, 32)
	if err != nil {
		return account{}, false
	}
	a := account{name: name, group: found.Gid, uid: uint32(uid)}
	if primary, err := user.LookupGroupId(found.Gid); err == nil {
		a.group = primary.Name
	}
	groups, err := found.GroupIds()
	if err != nil {
		groups = []string{found.Gid}
	}
	for _, g := range groups {
		if gid, err := strconv.ParseUint(g, 10, 32); err == nil {
			a.gids = append(a.gids, uint32(gid))
		}
	}
	return a, true
}

// What keeps an account from a file.
type obstacleKind int

const (
	isFile obstacleKind = iota
	isDirectory
	hasACL // which the mode does not tell
)

// mayRead goes the way to the file, through links too, and gives the first place
// where the account does not get on, "" for none.
func (a account) mayRead(path string) (obstacle string, kind obstacleKind, err error) {
	if a.uid == 0 {
		return "", 0, nil
	}
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", 0, err
	}
	places := append(above(path), above(target)...)
	for _, place := range places {
		if ok, err := a.may(place, 0o1); err != nil || !ok {
			return place, kindOr(place, isDirectory), err
		}
	}
	if ok, err := a.may(target, 0o4); err != nil || !ok {
		return target, kindOr(target, isFile), err
	}
	return "", 0, nil
}

// above are the directories on the way to a file, from the root on.
func above(path string) []string {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil
	}
	var out []string
	for directory := filepath.Dir(absolute); ; directory = filepath.Dir(directory) {
		out = append(out, directory)
		if directory == "/" {
			slices.Reverse(out)
			return out
		}
	}
}

// may holds one bit of the mode, that of others, against the account.
func (a account) may(path string, bit os.FileMode) (bool, error) {
	info, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false, errors.New(path + ": no owner")
	}
	mode := info.Mode().Perm()
	switch {
	case owner.Uid == a.uid:
		mode >>= 6
	case slices.Contains(a.gids, owner.Gid):
		mode >>= 3
	}
	return mode&bit != 0, nil
}

func kindOr(path string, kind obstacleKind) obstacleKind {
	if n, err := unix.Getxattr(path, "system.posix_acl_access", nil); err == nil && n > 0 {
		return hasACL
	}
	return kind
}

// ShellWord is a path or a name as a shell takes it for one word.
func ShellWord(s string) string {
	if s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+@", r))
	}) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// MayRead tells whether a user may read a file, as far as modes tell. Nobody runs
// as one that does not exist.
func MayRead(name, path string) bool {
	who, ok := accountOf(name)
	if !ok {
		return true
	}
	obstacle, _, err := who.mayRead(path)
	return err == nil && obstacle == ""
}
