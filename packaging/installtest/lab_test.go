//go:build install

package installtest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"postern/proxy/proxytest/netlab"
)

// What "make test-packages" made, in absolute paths: trees of releases by their
// name, and packages of two versions, the first the older.
const (
	treesVariable    = "POSTERN_TREES"
	packagesVariable = "POSTERN_PACKAGES"
)

func TestMain(m *testing.M) {
	code, err := netlab.Enter(netlab.Options{}, func() int {
		if err := unifyControlGroups(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// unifyControlGroups has the machines find the control groups of today's systems
// where this one still has those of old. It is the lab's own mount.
func unifyControlGroups() error {
	const root = "/sys/fs/cgroup"
	var fs unix.Statfs_t
	if err := unix.Statfs(root, &fs); err != nil {
		return err
	}
	if fs.Type == unix.CGROUP2_SUPER_MAGIC {
		return nil
	}
	return unix.Mount("cgroup2", root, "cgroup2", 0, "")
}

func treesDir(t *testing.T) string { return variable(t, treesVariable) }

func variable(t *testing.T, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("%s is not set: run make test-packages", name)
	}
	return value
}

// packages are the paths of this machine's packages of a kind, "deb" or "rpm", the
// older and the newer.
func packages(t *testing.T, kind string) (older, newer string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(variable(t, packagesVariable), "*", "*."+kind))
	must(t, err)
	found = slices.DeleteFunc(found, func(path string) bool {
		return !strings.Contains(path, "amd64") && !strings.Contains(path, "x86_64")
	})
	slices.Sort(found) // by directory: 1-…, 2-…
	if len(found) != 2 {
		t.Fatalf("%d packages found, expected two: %q", len(found), found)
	}
	return found[0], found[1]
}

// install installs a deb, the older one or the newer one.
func (s *site) install(path string) string {
	s.t.Helper()
	return s.run("dpkg", "-i", s.bring(path))
}

func (s *site) start() {
	s.t.Helper()
	s.run("systemctl", "enable", "--now", "postern.target")
}

// stop stops everything and waits for it: systemctl itself waits for the target
// alone.
func (s *site) stop() {
	s.t.Helper()
	s.run("systemctl", "stop", "postern.target")
	s.eventually("all is stopped", 2*time.Minute, func() bool {
		return s.isActive(units...) == "inactive inactive inactive inactive inactive"
	})
}

// isActive says what state units are in, "active active inactive".
func (s *site) isActive(units ...string) string {
	out, _ := s.try("systemctl", append([]string{"is-active"}, units...)...) // exits 3 where one is not
	return strings.Join(strings.Fields(out), " ")
}

// units are all of them.
var units = []string{"postern.target", "postern.socket", "postern.service", "postern-intercept.service", "postern-intercept-online.service"}
