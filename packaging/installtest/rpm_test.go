//go:build install

package installtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// rpm is run where Debian's packages are everybody else's, so that what the rpm
// needs is not in its data base.
func (s *site) rpm(args ...string) string {
	s.t.Helper()
	return s.run("rpm", append([]string{"--force-debian", "--nodeps"}, args...)...)
}

func TestTheRPMIsInstalledUpgradedAndErased(t *testing.T) {
	s := newSite(t, "bookworm")
	older, newer := packages(t, "rpm")
	before := s.files()
	s.rpm("-i", s.bring(older))
	if got := s.isActive(units...); got != "inactive inactive inactive inactive inactive" {
		t.Errorf("after the installation: %s", got)
	}
	if out, _ := s.try("systemctl", "is-enabled", "postern.target"); strings.TrimSpace(out) != "disabled" {
		t.Errorf("postern.target is %s", out)
	}
	s.wantNoTrace()
	if out, err := s.try("rpm", "--force-debian", "-V", "--nodeps", "postern"); err != nil {
		t.Errorf("rpm -V: %v: %s", err, out)
	}
	s.configure("block", "")
	s.start()
	s.guarded()

	socket, pid := s.property("postern.socket", "ActiveEnterTimestampMonotonic"), s.property("postern.service", "MainPID")
	l := s.load(2)
	time.Sleep(500 * time.Millisecond) // of load
	s.rpm("-U", s.bring(newer))
	time.Sleep(500 * time.Millisecond)
	l.end()
	if now := s.property("postern.service", "MainPID"); now == pid || now == "0" {
		t.Errorf("process %s before, %s after", pid, now)
	}
	if now := s.property("postern.socket", "ActiveEnterTimestampMonotonic"); now != socket {
		t.Error("the socket was opened again")
	}
	if got := s.read("/etc/postern/postern.toml"); !strings.Contains(got, "lan0") {
		t.Errorf("the configuration was replaced:\n%s", got)
	}

	s.use()
	s.rpm("-e", "postern")
	s.wantNoTrace()
	s.open()
	if _, err := os.Stat(filepath.Join(s.disk, "etc/postern/postern.toml.rpmsave")); err != nil {
		t.Errorf("the configuration is not kept: %v", err)
	}
	// What rpm leaves, for there is no purge: what the administrator wrote, what the
	// service wrote, and the user, whose number must not be somebody else's soon.
	kept := []string{"/etc/postern", "/var/lib/postern", "/var/lib/postern-intercept", "/var/log/postern", "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/var/lib/rpm",
		"/usr/share/licenses"} // which is everybody's, where rpm is at home
	for path, what := range s.files() {
		mine := false
		for _, p := range kept {
			mine = mine || path == p || strings.HasPrefix(path, p+"/")
		}
		if before[path] != what && !mine {
			t.Errorf("left or changed: %s (%s, was %q)", path, what, before[path])
		}
		delete(before, path)
	}
	for path := range before {
		t.Errorf("gone: %s", path)
	}
}
