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

func TestWhenTheTargetIsStoppedWhenDownHolds(t *testing.T) {
	each(t, func(s *site, word string, want func(*site)) {
		began := time.Now()
		s.stop()
		s.t.Logf("stopping took %v", time.Since(began).Round(time.Second))
		want(s)
		if word == "pass" {
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

// Whoever starts it, a broken one is not started for ever.
func TestAtTheStartLimitTheSocketIsClosedAndWhenDownHolds(t *testing.T) {
	for by, start := range map[string]func(*site){
		"restart": func(s *site) { s.run("kill", "-KILL", s.property("postern.service", "MainPID")) },
		"connection": func(s *site) {
			s.run("systemctl", "stop", "postern.service")
			go s.send(s.net.Server4, 0, "waits")
		},
	} {
		t.Run("by "+by, func(t *testing.T) {
			each(t, func(s *site, _ string, want func(*site)) { atStartLimit(s, start, want) })
		})
	}
}

func atStartLimit(s *site, start, want func(*site)) {
	const limit = 5 // StartLimitBurst
	good := s.read("/etc/postern/postern.toml")
	s.write("/etc/postern/postern.toml", good+"\n[nonsense]\n", 0o640)
	s.run("systemctl", "reset-failed") // the count begins anew
	starts := s.starts()
	start(s)
	s.eventually("the socket is closed", time.Minute, func() bool { return s.isActive("postern.socket") == "failed" })
	if n := s.starts() - starts; n == 0 || n > limit {
		s.t.Errorf("%d starts, expected at most %d", n, limit)
	}
	want(s)
	status, _ := s.try("systemctl", "status", "--no-pager", "postern.service")
	if !strings.Contains(status, "nonsense") {
		s.t.Errorf("the status does not say why:\n%s", status)
	}
	// The way back.
	s.write("/etc/postern/postern.toml", good, 0o640)
	s.run("systemctl", "reset-failed", "postern.service", "postern.socket")
	s.run("systemctl", "start", "postern.target")
	s.guarded()
}

// starts counts how often the service was started.
func (s *site) starts() int {
	out, _ := s.try("journalctl", "--no-pager", "-b", "-u", "postern.service", "-o", "cat", "--grep", "^Starting ")
	return strings.Count(out, "Starting ")
}
