package packaging

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// What a script would begin by itself. An interceptor that starts on installation
// takes a network's mail away from who has not asked for it.
var begins = regexp.MustCompile(`(?m)^[^#\n]*\b(systemctl|deb-systemd-invoke|deb-systemd-helper)\b[^#\n]* (start|restart|enable|reenable|preset|reload-or-restart)\b|^[^#\n]*postern (run|intercept up)\b`)

// Programs that speak to the network, or would be asked to.
var networking = regexp.MustCompile(`(?m)^[^#\n]*\b(curl|wget|apt|apt-get|dnf|yum|zypper|ping|host|dig|getent (a?hosts\w*)|nc|ssh|rsync|git)\b`)

func TestNoMaintainerScriptStartsAnythingOrTouchesTheNetwork(t *testing.T) {
	names := glob(t, "scripts/*")
	for _, name := range names {
		text := read(t, name)
		for _, r := range []*regexp.Regexp{begins, networking} {
			if m := r.FindString(text); m != "" {
				t.Errorf("%s: %s", name, m)
			}
		}
	}
	if len(names) != 7 {
		t.Errorf("%v", names)
	}
	for _, bad := range []string{"systemctl start postern.target", "\tdeb-systemd-invoke restart postern.service || true", "x; systemctl --now enable postern.socket",
		"postern intercept up"} {
		if !begins.MatchString(bad) {
			t.Errorf("%q would do", bad)
		}
	}
	if !networking.MatchString("\tx=$(curl y)") {
		t.Error("curl would do")
	}
}

// The socket and the target stay as they are: an upgrade refuses no connection.
func TestAnUpgradeRestartsTheServiceAloneAndOnlyIfItIsActive(t *testing.T) {
	for _, name := range []string{"scripts/deb.postinst", "scripts/rpm.postun"} {
		var found []string
		for _, line := range strings.Split(read(t, name), "\n") {
			if strings.Contains(line, "restart ") && !strings.Contains(line, "#") {
				found = append(found, strings.TrimSpace(line))
			}
		}
		if len(found) != 1 || !strings.Contains(found[0], " try-restart postern.service ") {
			t.Errorf("%s: %q", name, found)
		}
	}
}

func TestRemovalStopsEveryUnitThatIsShipped(t *testing.T) {
	var units []string
	for _, name := range glob(t, "systemd/*") {
		if unit := filepath.Base(name); !strings.HasSuffix(unit, ".conf") {
			units = append(units, unit)
		}
		// postern.target is what is enabled, and the one whose link is taken away.
		if enabled := strings.Contains(read(t, name), "[Install]"); enabled != strings.HasSuffix(name, ".target") {
			t.Errorf("%s: enabled by itself: %v", name, enabled)
		}
	}
	for _, name := range []string{"scripts/deb.prerm", "scripts/rpm.preun"} {
		_, list, _ := strings.Cut(read(t, name), "\nunits=\"")
		list, _, _ = strings.Cut(list, "\"")
		stopped := strings.Fields(list)
		slices.Sort(stopped)
		if !slices.Equal(stopped, units) {
			t.Errorf("%s stops %v, and shipped are %v", name, stopped, units)
		}
	}
}

func TestTheRPMMakesTheUserThatSysusersDeclares(t *testing.T) {
	declared := regexp.MustCompile(`(?m)^u .*$`).FindString(read(t, "sysusers.conf"))
	if made := regexp.MustCompile(`(?m)^u .*$`).FindString(read(t, "scripts/rpm.pre")); made != declared || declared == "" {
		t.Errorf("%q is made and %q declared", made, declared)
	}
}
