//go:build install

package installtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func (s *site) read(path string) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.disk, path))
	must(s.t, err)
	return string(text)
}

// whenDown is what connections meet then: those of ports in use and others.
var whenDown = []struct {
	word string
	want func(*site)
}{{"block", (*site).blocked}, {"pass", (*site).open}}

func TestWhenTheTargetIsStoppedWhenDownHolds(t *testing.T) {
	for _, row := range whenDown {
		t.Run(row.word, func(t *testing.T) {
			s := newSite(t, "bookworm")
			older, _ := packages(t, "deb")
			s.install(older)
			s.configure(row.word, "")
			s.start()
			s.guarded()
			s.use()
			began := time.Now()
			s.stop()
			t.Logf("stopping took %v", time.Since(began).Round(time.Second))
			row.want(s)
			if row.word == "pass" {
				s.wantNoTrace()
			}
			s.run("systemctl", "start", "postern.target")
			s.guarded()

			// To stop the service alone is a pause, until somebody comes.
			s.run("systemctl", "stop", "postern.service")
			s.guarded()

			s.stop()
			s.run("postern", "intercept", "down")
			s.wantNoTrace()
			s.open()
		})
	}
}

// Whoever starts it, a broken one is not started for ever.
func TestAtTheStartLimitTheSocketIsClosedAndWhenDownHolds(t *testing.T) {
	const limit = 5 // StartLimitBurst
	for _, row := range whenDown {
		for _, by := range []string{"restart", "connection"} {
			t.Run(row.word+" by "+by, func(t *testing.T) {
				s := newSite(t, "bookworm")
				older, _ := packages(t, "deb")
				s.install(older)
				s.configure(row.word, "")
				s.start()
				s.guarded()
				s.use()
				good := s.read("/etc/postern/postern.toml")
				s.write("/etc/postern/postern.toml", good+"\n[nonsense]\n", 0o640)
				s.run("systemctl", "reset-failed") // the count begins anew
				starts := s.starts()
				if by == "restart" {
					s.run("kill", "-KILL", s.property("postern.service", "MainPID"))
				} else {
					s.run("systemctl", "stop", "postern.service")
					go s.send(s.net.Server4, 0, "waits")
				}
				s.eventually("the socket is closed", time.Minute, func() bool { return s.isActive("postern.socket") == "failed" })
				if n := s.starts() - starts; n == 0 || n > limit {
					t.Errorf("%d starts, expected at most %d", n, limit)
				}
				row.want(s)
				status, _ := s.try("systemctl", "status", "--no-pager", "postern.service")
				if !strings.Contains(status, "nonsense") {
					t.Errorf("the status does not say why:\n%s", status)
				}
				// The way back.
				s.write("/etc/postern/postern.toml", good, 0o640)
				s.run("systemctl", "reset-failed", "postern.service", "postern.socket")
				s.run("systemctl", "start", "postern.target")
				s.guarded()
			})
		}
	}
}

// starts counts how often the service was started.
func (s *site) starts() int {
	out, _ := s.try("journalctl", "--no-pager", "-b", "-u", "postern.service", "-o", "cat", "--grep", "^Starting ")
	return strings.Count(out, "Starting ")
}
