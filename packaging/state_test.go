package packaging

import (
	"os"
	"path"
	"regexp"
	"strings"
	"testing"
)

// kept finds what the configuration says the daemon keeps, as it is shipped.
var kept = regexp.MustCompile(`(?m)^#?(store|cache) = "(?:bolt://)?([^"]+)"`)

// The daemon runs with everything else read-only, and makes files and directories
// in its state directory itself.
func TestWhatTheDaemonKeepsLiesWhereItMayWrite(t *testing.T) {
	unit, err := os.ReadFile("systemd/postern.service")
	if err != nil {
		t.Fatal(err)
	}
	settings, err := os.ReadFile("postern.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"\nStateDirectory=postern\n", "\nStateDirectoryMode=0750\n", "\nProtectSystem=strict\n", "\nUMask=0077\n"} {
		if !strings.Contains(string(unit), line) {
			t.Errorf("the unit has no %q", line)
		}
	}
	found := kept.FindAllStringSubmatch(string(settings), -1)
	if len(found) != 2 {
		t.Fatalf("%q", found)
	}
	for _, m := range found {
		if path.Dir(m[2]) != "/var/lib/postern" {
			t.Errorf("%s is %s: nobody makes its directory", m[1], m[2])
		}
	}
}
