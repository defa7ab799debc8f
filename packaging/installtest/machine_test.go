//go:build install

package installtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"postern/proxy/proxytest/netlab"
)

// machine is a container with a disk of its own, which outlives its boots.
type machine struct {
	t    *testing.T
	dir  string // overlay: disk is what the machine sees
	disk string

	// The present boot.
	nspawn *exec.Cmd
	ended  chan struct{}
	leader int // the process that is 1 inside
	out    *os.File
}

// newMachine gives a machine that is off, with the tree of a release as its disk.
// Tests with machines run beside each other, for most of the time they wait.
func newMachine(t *testing.T, release string) *machine {
	t.Helper()
	t.Parallel()
	tree := filepath.Join(treesDir(t), release)
	if _, err := os.Stat(filepath.Join(tree, "sbin/init")); err != nil {
		t.Fatalf("no tree of %s: run make test-packages (%v)", release, err)
	}
	dir, err := os.MkdirTemp("/run", "machine-")
	must(t, err)
	m := &machine{t: t, dir: dir, disk: filepath.Join(dir, "disk")}
	// Neither layer may lie on another overlay.
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"))
	for _, name := range []string{"disk", "upper", "work"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	must(t, unix.Mount("overlay", m.disk, "overlay", 0,
		fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", tree, dir, dir)))
	t.Cleanup(func() {
		m.off()
		if t.Failed() && m.out != nil {
			t.Logf("the journal of the last boot:\n%s", m.journalOnDisk())
		}
		m.removeControlGroups()
		must(t, unix.Unmount(m.disk, unix.MNT_DETACH))
		must(t, unix.Unmount(dir, unix.MNT_DETACH))
		must(t, os.Remove(dir))
	})
	// Everything that is slow and that nothing here is about.
	for _, unit := range []string{"systemd-udev-trigger.service", "systemd-udevd.service", "apt-daily.timer",
		"apt-daily-upgrade.timer", "e2scrub_all.timer", "fstrim.timer", "console-getty.service"} {
		must(t, os.Symlink("/dev/null", filepath.Join(m.disk, "etc/systemd/system", unit)))
	}
	must(t, os.MkdirAll(filepath.Join(m.disk, "var/log/journal"), 0o755))
	return m
}

// boot starts the machine in the network of a host and waits until it has
// started. It is not told that anything of Postern's has.
func (m *machine) boot(host *netlab.Host) {
	m.t.Helper()
	if m.nspawn != nil {
		m.t.Fatal("the machine is on already")
	}
	out, err := os.Create(filepath.Join(m.dir, "console"))
	must(m.t, err)
	m.out = out
	// A control group of its own, and no other program of this machine's is asked.
	const script = `mkdir -p /sys/fs/cgroup/$1 && echo $$ >/sys/fs/cgroup/$1/cgroup.procs && shift && exec systemd-nspawn "$@"`
	m.nspawn = host.Command(context.Background(), "sh", "-c", script, "sh", filepath.Base(m.dir),
		"--quiet", "--register=no", "--keep-unit", "--boot", "--directory="+m.disk, "--link-journal=no",
		"--network-namespace-path=/proc/self/ns/net", "--capability=CAP_NET_ADMIN,CAP_NET_RAW", "--resolv-conf=off", "--timezone=off")
	m.nspawn.Stdout, m.nspawn.Stderr = out, out
	must(m.t, host.Start(m.nspawn))
	m.ended = make(chan struct{})
	go func() {
		_ = m.nspawn.Wait()
		close(m.ended)
	}()
	m.eventually("the machine starts", time.Minute, func() bool {
		select {
		case <-m.ended:
			console, _ := os.ReadFile(out.Name())
			m.t.Fatalf("it ended: %s", console)
		default:
		}
		m.leader = childOf(m.nspawn.Process.Pid)
		if m.leader == 0 {
			return false
		}
		_, err := m.try("systemctl", "is-system-running", "--wait")
		exit := (*exec.ExitError)(nil)
		return err == nil || errors.As(err, &exit) && m.answers()
	})
}

// answers tells whether the service manager does: it may be degraded all the same.
func (m *machine) answers() bool {
	out, _ := m.try("systemctl", "is-system-running")
	return strings.TrimSpace(out) == "running" || strings.TrimSpace(out) == "degraded"
}

// childOf is the container's first process, 0 where there is none yet.
func childOf(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) == 0 {
		return 0
	}
	child, err := strconv.Atoi(fields[len(fields)-1])
	if err != nil {
		return 0
	}
	// The one that makes the container is not the one that lives in it.
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", child))
	if err != nil || !strings.Contains(string(status), "\t1\nNSsid:") {
		return 0
	}
	return child
}

// shutdown has the machine shut down in order.
func (m *machine) shutdown() {
	m.t.Helper()
	_, _ = m.try("systemctl", "--no-block", "poweroff") // it may be gone before it answers
	select {
	case <-m.ended:
	case <-time.After(90 * time.Second):
		m.t.Error("the machine does not shut down")
	}
	m.off()
}

// off pulls the plug.
func (m *machine) off() {
	if m.nspawn == nil {
		return
	}
	if m.leader != 0 {
		_ = unix.Kill(m.leader, unix.SIGKILL)
	}
	select {
	case <-m.ended:
	case <-time.After(10 * time.Second):
		_ = m.nspawn.Process.Kill()
		<-m.ended
	}
	m.nspawn, m.leader = nil, 0
	_ = m.out.Close()
}

// removeControlGroups takes away what the machine's leave, inner ones first. Those
// who were in them may take a moment to be gone.
func (m *machine) removeControlGroups() {
	root := filepath.Join("/sys/fs/cgroup", filepath.Base(m.dir))
	m.eventually("its control groups are left", 10*time.Second, func() bool {
		var groups []string
		// An error is of one that has gone meanwhile.
		_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				groups = append(groups, path)
			}
			return nil
		})
		for _, group := range slices.Backward(groups) {
			_ = os.Remove(group)
		}
		_, err := os.Stat(root)
		return errors.Is(err, fs.ErrNotExist)
	})
}

// try runs a program inside and gives what it said.
func (m *machine) try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	inside := []string{"-t", strconv.Itoa(m.leader), "-m", "-u", "-i", "-n", "-p", "-r", "-w", "--",
		"env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", name}
	command := exec.CommandContext(ctx, "nsenter", append(inside, args...)...)
	var both bytes.Buffer
	command.Stdout, command.Stderr = &both, &both
	err := command.Run()
	return both.String(), err
}

// run is try for what must succeed.
func (m *machine) run(name string, args ...string) string {
	m.t.Helper()
	out, err := m.try(name, args...)
	if err != nil {
		m.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// property is one of systemctl show.
func (m *machine) property(unit, name string) string {
	m.t.Helper()
	return strings.TrimSpace(m.run("systemctl", "show", "--value", "-p", name, unit))
}

// write puts a file on the disk, owned by root.
func (m *machine) write(path, text string, mode os.FileMode) {
	m.t.Helper()
	full := filepath.Join(m.disk, path)
	if _, err := os.Stat(full); err == nil { // as an editor does, owner and mode stay
		must(m.t, os.WriteFile(full, []byte(text), mode))
		return
	}
	must(m.t, os.MkdirAll(filepath.Dir(full), 0o755))
	must(m.t, os.WriteFile(full, []byte(text), mode))
	must(m.t, os.Chmod(full, mode))
}

// bring copies a file from outside into /root.
func (m *machine) bring(path string) string {
	m.t.Helper()
	data, err := os.ReadFile(path)
	must(m.t, err)
	inside := "/root/" + filepath.Base(path)
	must(m.t, os.WriteFile(filepath.Join(m.disk, inside), data, 0o644))
	return inside
}

func (m *machine) journalOnDisk() string {
	out, err := exec.Command("journalctl", "--no-pager", "-D", filepath.Join(m.disk, "var/log/journal"), "-n", "120", "-o", "short-monotonic").CombinedOutput()
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// eventually waits for what nothing tells of.
func (m *machine) eventually(what string, most time.Duration, holds func() bool) {
	m.t.Helper()
	for end := time.Now().Add(most); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			m.t.Fatalf("not within %v: %s", most, what)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
