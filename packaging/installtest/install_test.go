//go:build install

package installtest

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestInstallingStartsNothingAndPurgingLeavesNothing(t *testing.T) {
	s := newSite(t, "bookworm")
	before := s.files()
	s.installOlder()
	if got := s.isActive(units...); got != "inactive inactive inactive inactive inactive" {
		t.Errorf("after the installation: %s", got)
	}
	if out, _ := s.try("systemctl", "is-enabled", "postern.target"); strings.TrimSpace(out) != "disabled" {
		t.Errorf("postern.target is %s", out)
	}
	s.wantNoTrace()
	s.open()

	s.configure("block", "")
	s.start()
	s.guarded()
	s.use()
	out := s.run("dpkg", "-r", "postern")
	t.Logf("dpkg -r: %s", out)
	s.wantNoTrace()
	s.open()
	if _, err := os.Stat(filepath.Join(s.disk, "etc/postern/tls/key.pem")); err != nil {
		t.Errorf("removing took the key: %v", err)
	}
	s.run("dpkg", "-P", "postern")
	for path, what := range s.files() {
		if before[path] != what {
			t.Errorf("left or changed: %s (%s, was %q)", path, what, before[path])
		}
		delete(before, path)
	}
	for path := range before {
		t.Errorf("gone: %s", path)
	}
}

// Where policy-rc.d forbids it nothing is stopped, by Debian's policy: interception
// goes all the same, and what runs on is named with the way to stop it.
func TestRemovalWhereNothingMayBeStoppedTakesInterceptionOut(t *testing.T) {
	s := newSite(t, "bookworm")
	older, _ := packages(t, "deb")
	s.install(older)
	s.configure("block", "")
	s.start()
	s.guarded()
	s.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
	out := s.run("dpkg", "-r", "postern")
	s.wantNoTrace()
	s.open()
	_, command, found := strings.Cut(out, "say: ")
	if command, _, _ = strings.Cut(command, "\n"); !found {
		t.Fatalf("it is not said: %s", out)
	}
	s.run("sh", "-c", command)
	if out, err := s.try("pgrep", "-x", "postern"); err == nil {
		t.Errorf("it runs: %s", out)
	}
	s.run("dpkg", "-P", "postern")
	if out, err := s.try("getent", "passwd", "postern"); err == nil {
		t.Errorf("the user is left: %s", out)
	}
}

// wantNoTrace wants nothing of Postern's in the kernel.
func (s *site) wantNoTrace() {
	s.t.Helper()
	for _, look := range [][]string{{"nft", "list", "tables"}, {"ip", "rule"}, {"ip", "-6", "rule"}, {"ip", "route", "show", "table", "2525"}} {
		out, err := s.try(look[0], look[1:]...)
		if err != nil && look[1] != "route" { // of a table that does not exist
			s.t.Errorf("%v: %v: %s", look, err, out)
		}
		if strings.Contains(out, "postern") || strings.Contains(out, "2525") || strings.Contains(out, "525:") || strings.Contains(out, "local") && look[1] == "route" {
			s.t.Errorf("%v: %s", look, out)
		}
	}
}

// lives is what changes by itself in a machine that runs.
var lives = regexp.MustCompile(`^/(proc|sys|dev|run|tmp|root|var/tmp|var/log/journal|var/cache|var/lib/systemd|var/lib/dpkg|var/lib/private)(/|$)|^/var/log/(dpkg.log|wtmp|btmp|lastlog)$` +
	// Passwords' files with a backup of them, and what a user leaves: ids are not used again.
	`|^/etc/(passwd|group|shadow|gshadow)-$|^/etc/(machine-id|\.updated|\.pwd\.lock)$|^/var/\.updated$|^/var/log$`)

// files are all there are, with mode, owner and, of files, the content's size and
// time of change.
func (s *site) files() map[string]string {
	s.t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(s.disk, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		inside := strings.TrimPrefix(path, s.disk)
		if lives.MatchString(inside) {
			if entry.IsDir() && inside != "/var/log" {
				return fs.SkipDir
			}
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		what := fmt.Sprintf("%s %d:%d", info.Mode(), stat.Uid, stat.Gid)
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			what += fmt.Sprintf(" %d bytes %x", len(content), digest(content))
		}
		all[inside] = what
		return nil
	})
	must(s.t, err)
	return all
}

func TestTheServiceIsConfinedAndSaysWhatItDid(t *testing.T) {
	for _, release := range []string{"bullseye", "bookworm", "trixie"} { // systemd 247, 252 and 257
		t.Run(release, func(t *testing.T) {
			s := newSite(t, release)
			s.installOlder()
			s.configure("block", "")
			s.start()
			s.guarded()
			if out, err := s.try("systemctl", "--failed", "--no-legend"); err != nil || strings.Contains(out, "postern") {
				t.Errorf("failed units: %s", out)
			}
			status := s.run("systemctl", "status", "postern.service")
			if !strings.Contains(status, "serving, configuration 1") {
				t.Errorf("%s", status)
			}
			for _, complaint := range []string{"Unknown key", "Unknown lvalue", "Failed to parse", "ordering cycle"} {
				if out, _ := s.try("journalctl", "-b", "--no-pager", "--grep", complaint); strings.Contains(out, "postern") {
					t.Errorf("%s", out)
				}
			}
			out := s.run("systemd-analyze", "security", "--no-pager", "postern.service")
			score := regexp.MustCompile(`Overall exposure level for postern.service: ([0-9.]+)`).FindStringSubmatch(out)
			if score == nil {
				t.Fatalf("%s", out)
			}
			exposure, err := strconv.ParseFloat(score[1], 64)
			must(t, err)
			t.Logf("%s: exposure %.1f", strings.SplitN(s.run("systemctl", "--version"), "\n", 2)[0], exposure)
			if exposure > 1.5 {
				t.Errorf("the exposure is %.1f, at most 1.5 is wanted\n%s", exposure, out)
			}
			s.wantCapabilities()
			s.wantRecord()
		})
	}
}

// wantCapabilities wants the daemon to be of its own user, with one capability.
func (s *site) wantCapabilities() {
	s.t.Helper()
	status := s.run("cat", "/proc/"+s.property("postern.service", "MainPID")+"/status")
	uid := strings.TrimSpace(s.run("id", "-u", "postern"))
	const netRaw = "0000000000002000"
	for _, want := range []string{"Uid:\t" + uid + "\t" + uid, "CapEff:\t" + netRaw, "CapPrm:\t" + netRaw, "CapBnd:\t" + netRaw, "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(status, want) {
			s.t.Errorf("no %q in the daemon's status:\n%s", want, status)
		}
	}
}

// wantRecord asks the journal by field.
func (s *site) wantRecord() {
	s.t.Helper()
	out := s.run("journalctl", "--no-pager", "-o", "json", "POSTERN_VERDICT=allow", "POSTERN_UPSTREAM_TLS_VERSION=TLS 1.3")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var entry map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &entry); err != nil || len(lines) != len(s.servers) {
		s.t.Fatalf("%d records: %v\n%s", len(lines), err, out)
	}
	if entry["POSTERN_UPSTREAM_TLS_STATE"] != "ok" || entry["_SYSTEMD_UNIT"] != "postern.service" {
		s.t.Errorf("%v", entry)
	}
	if out, _ := s.try("journalctl", "--no-pager", "-o", "json", "POSTERN_REASON=tls-version-too-low"); strings.Contains(out, "{") {
		s.t.Errorf("%s", out)
	}
}
