package netlab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// rerun runs this test binary again, from inside the lab, which must not change
// what Enter does.
func rerun(t *testing.T, attributes *syscall.SysProcAttr, args []string, env ...string) (string, error) {
	t.Helper()
	command := exec.CommandContext(within(t, time.Minute), "/proc/self/exe", args...)
	command.Env = append(os.Environ(), env...)
	command.SysProcAttr = attributes
	out, err := command.CombinedOutput()
	return string(out), err
}

const nested = "-test.run=Gateway|Capture|Sysctls|Programs|Resolver|Returns"

func TestTheLabWorksInAUserNamespace(t *testing.T) {
	if os.Getenv(userVariable) != "" {
		return // this is that run
	}
	out, err := rerun(t, nil, []string{nested, "-test.v"}, userVariable+"=1")
	if err != nil || strings.Count(out, "--- PASS") < 6 {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestTheLabWorksForAUserWithoutRoot(t *testing.T) {
	if os.Geteuid() != 0 || os.Getenv(userVariable) != "" {
		return // this is such a run already
	}
	if mapped, err := os.ReadFile("/proc/self/uid_map"); err != nil {
		t.Fatal(err)
	} else if f := strings.Fields(string(mapped)); len(f) == 3 && f[2] == "1" {
		return // root of a namespace that a user made: all tests here are such a run
	}
	nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := rerun(t, nobody, []string{nested, "-test.v"})
	if err != nil || strings.Count(out, "--- PASS") < 6 {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestTheExitCodeComesOut(t *testing.T) {
	_, err := rerun(t, nil, nil, "NETLAB_TEST_EXIT=7")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("got %v", err)
	}
}

func TestAStrayVariableDoesNotMakeTheOuterNetworkALab(t *testing.T) {
	out, err := rerun(t, nil, nil, enteredVariable+"="+here(t))
	if err == nil || !strings.Contains(out, "outer network namespace") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestARefusalNamesTheSettingThatForbidsIt(t *testing.T) {
	for _, row := range []struct{ path, value, want string }{
		{"kernel/unprivileged_userns_clone", "0\n", "kernel.unprivileged_userns_clone = 0"},
		{"user/max_user_namespaces", "0\n", "user.max_user_namespaces = 0"},
		{"kernel/apparmor_restrict_unprivileged_userns", "1\n", "kernel.apparmor_restrict_unprivileged_userns = 1"},
		{"user/max_user_namespaces", "1000\n", ""},
	} {
		root := t.TempDir() + "/"
		for _, dir := range []string{"kernel", "user"} {
			if err := os.Mkdir(root+dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(root+row.path, []byte(row.value), 0o644); err != nil {
			t.Fatal(err)
		}
		err := explainRefusal(fmt.Errorf("clone: %w", unix.EPERM), root)
		var refused *ForbiddenError
		if !errors.As(err, &refused) || refused.Setting != row.want ||
			refused.Advice == "" || !errors.Is(err, unix.EPERM) {
			t.Errorf("%s=%q: %v", row.path, row.value, err)
		}
	}
	other := errors.New("something else")
	if got := explainRefusal(other, "/proc/sys/"); got != other {
		t.Errorf("an error that is no refusal became %v", got)
	}
}
