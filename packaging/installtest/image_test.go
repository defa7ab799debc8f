//go:build install

package installtest

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// An image is made where no systemd runs, and boots elsewhere.
func TestAnImageIsMadeWithoutSystemdRunning(t *testing.T) {
	for _, row := range []struct{ kind, install, remove string }{
		{"deb", "dpkg -i", "dpkg -P postern"},
		{"rpm", "rpm --force-debian --nodeps -i", "rpm --force-debian --nodeps -e postern"},
	} {
		t.Run(row.kind, func(t *testing.T) {
			m := newMachine(t, "bookworm")
			older, _ := packages(t, row.kind)
			inside := func(command string) {
				t.Helper()
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				out, err := exec.CommandContext(ctx, "chroot", m.disk, "sh", "-ec", command).CombinedOutput()
				if err != nil {
					t.Fatalf("%s: %v\n%s", command, err, out)
				}
				if strings.Contains(string(out), "rror") || strings.Contains(string(out), "arning") || strings.Contains(string(out), "ailed") {
					t.Errorf("%s:\n%s", command, out)
				}
			}
			inside(row.install + " " + m.bring(older))
			inside("getent passwd postern && postern version && stat -c %U:%G:%a /etc/postern/postern.toml | grep -x root:postern:640")
			inside("test ! -e /etc/systemd/system/multi-user.target.wants/postern.target")
			inside(row.remove)
			inside("test ! -e /usr/bin/postern")
		})
	}
}
