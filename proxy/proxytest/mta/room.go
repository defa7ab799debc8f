package mta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// room is a root directory for a program that is unpacked and not installed: the
// machine's /usr, seen through, and above it the program. All else is its own.
// Nothing that is written in it reaches the machine.
type room struct {
	dir string
}

// person is a user of a room, with a group of the same name and number.
type person struct {
	name string
	id   int
}

// keeper is whom mailboxes belong to. Its number is nobody's in Debian, and the
// machine knows nothing of it.
var keeper = person{"keeper", 64001}

// folder is a directory that a room has to have.
type folder struct {
	path  string
	mode  os.FileMode
	owner int
}

// root is the path of the room's "/", at that of a file in it, and layer that of
// what lies above the machine's /usr.
func (r room) root() string             { return filepath.Join(r.dir, "root") }
func (r room) at(path string) string    { return filepath.Join(r.root(), path) }
func (r room) layer(path string) string { return filepath.Join(r.dir, "layer", path) }

// furnish makes a room for an unpacked program, with what its package would have
// made at its installation. It must be called in a lab, whose mounts nobody else
// sees.
func furnish(tree, name string, people []person, folders []folder) (r room, err error) {
	dir, err := os.MkdirTemp("/run", strings.ToLower(name)+"-")
	if err != nil {
		return room{}, fmt.Errorf("mta: a room for %s: %w", name, err)
	}
	r = room{dir}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("mta: a room for %s: %w", name, err), r.clear(), os.RemoveAll(dir))
		}
	}()
	// The layer may not lie on another overlay, as a container's files do.
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
		return r, err
	}
	for _, path := range []string{r.root(), r.at("usr"), r.layer(""), filepath.Join(dir, "work")} {
		if err := os.Mkdir(path, 0o755); err != nil {
			return r, err
		}
	}
	return r, errors.Join(r.unpack(tree), r.lay(), r.makeFolders(folders), r.settle(people), r.mount())
}

// unpack copies the program, which must not lie below the layer it is seen
// through, and not what one reads about it.
func (r room) unpack(tree string) error {
	skip := map[string]bool{"usr/share/doc": true, "usr/share/man": true, "usr/share/locale": true, "usr/share/info": true}
	files := os.DirFS(tree)
	return fs.WalkDir(files, "usr", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case skip[path]:
			return fs.SkipDir
		case entry.IsDir():
			return os.MkdirAll(r.layer(path), 0o755)
		case entry.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(filepath.Join(tree, path))
			if err != nil {
				return err
			}
			return os.Symlink(target, r.layer(path))
		default:
			return copyFile(filepath.Join(tree, path), r.layer(path))
		}
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func (r room) makeFolders(folders []folder) error {
	usual := []folder{{"/etc", 0o755, 0}, {"/var", 0o755, 0}, {"/var/log", 0o755, 0}, {"/var/spool", 0o755, 0}, {"/dev", 0o755, 0},
		{"/proc", 0o755, 0}, {"/run", 0o755, 0}, {"/tmp", 0o777 | os.ModeSticky, 0}, {"/mail", 0o700, keeper.id}}
	for _, f := range append(usual, folders...) {
		path := r.at(f.path)
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		if err := errors.Join(os.Chown(path, f.owner, f.owner), os.Chmod(path, f.mode)); err != nil {
			return err
		}
	}
	return nil
}

// settle writes who lives in the room and how it finds names, which is by no
// question to anybody.
func (r room) settle(people []person) error {
	var users, groups strings.Builder
	everywhere := []person{{"root", 0}, {"daemon", 1}, {"mail", 8}, {"nobody", 65534}, keeper}
	for _, p := range append(everywhere, people...) {
		fmt.Fprintf(&users, "%s:x:%d:%d::/nonexistent:/usr/sbin/nologin\n", p.name, p.id, p.id)
		fmt.Fprintf(&groups, "%s:x:%d:\n", p.name, p.id)
	}
	if err := os.MkdirAll(r.at("/etc/ssl/certs"), 0o755); err != nil {
		return err
	}
	for _, path := range []string{"/etc/ssl/openssl.cnf", "/etc/ssl/certs/ca-certificates.crt"} {
		text, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := r.write(path, string(text), 0o644); err != nil {
			return err
		}
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	for path, text := range map[string]string{
		"/etc/passwd": users.String(),
		"/etc/group":  groups.String(),
		// sendmail sleeps for a minute when the machine's name has no dot.
		"/etc/services":      "smtp 25/tcp\n",
		"/etc/hosts":         fmt.Sprintf("127.0.0.1 %s.example %s localhost\n::1 localhost\n", host, host),
		"/etc/resolv.conf":   "nameserver 127.0.0.1\n",
		"/etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\nservices: files\n",
	} {
		if err := r.write(path, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// lay lays the layer over the machine's /usr, and makes the other names of its
// directories. An ordinary user cannot do that with the whole "/", for there are
// mounts below it that are not theirs.
func (r room) lay() error {
	options := fmt.Sprintf("lowerdir=/usr,upperdir=%s,workdir=%s", r.layer("usr"), filepath.Join(r.dir, "work"))
	err := syscall.Mount("overlay", r.at("/usr"), "overlay", 0, options)
	if err != nil {
		// Nor can an ordinary user write the attributes that are usual.
		err = syscall.Mount("overlay", r.at("/usr"), "overlay", 0, options+",userxattr")
	}
	if err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	for _, path := range []string{"/bin", "/sbin", "/lib", "/lib64"} {
		target, err := os.Readlink(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s leads nowhere, the machine is too old: %w", path, err)
		}
		if err := os.Symlink(target, r.at(path)); err != nil {
			return err
		}
	}
	return nil
}

// mount puts in what is not a file.
func (r room) mount() error {
	if err := syscall.Mount("/proc", r.at("/proc"), "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
		return fmt.Errorf("/proc: %w", err)
	}
	for _, device := range []string{"/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"} {
		if err := os.WriteFile(r.at(device), nil, 0o666); err != nil {
			return err
		}
		if err := syscall.Mount(device, r.at(device), "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("%s: %w", device, err)
		}
	}
	return nil
}

// clear removes the room with all that is in it.
func (r room) clear() error {
	err := syscall.Unmount(r.dir, syscall.MNT_DETACH)
	if err != nil && !errors.Is(err, syscall.EINVAL) { // it is not mounted
		return fmt.Errorf("mta: %w", err)
	}
	return nil
}

// write puts a file into the room.
func (r room) write(path, text string, mode os.FileMode) error {
	if err := os.WriteFile(r.at(path), []byte(text), mode); err != nil {
		return err
	}
	return os.Chmod(r.at(path), mode) // whatever the umask
}

// adopt copies a file of the machine into the room.
func (r room) adopt(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return r.write(to, string(text), 0o600)
}

// inside has a command run in the room.
func (r room) inside(command *exec.Cmd) {
	command.SysProcAttr.Chroot = r.root()
	command.Dir = "/"
	command.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
}

// beside runs a command in a server's room and in its process namespace, so that
// what it leaves running ends with the server.
func (s *server) beside(r room, input io.Reader, command ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	args := append([]string{fmt.Sprintf("--pid=/proc/%d/ns/pid", s.command.Process.Pid), "--"}, command...)
	entered := s.host.Command(ctx, "/usr/bin/nsenter", args...)
	r.inside(entered)
	return s.run(entered, input, command[0])
}
