package mta_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"postern/proxy/proxytest/mta"
	"postern/proxy/proxytest/netlab"
)

// nobodys is what stands in /etc/subuid and /etc/subgid for the test's user, who
// is nobody: everybody has one.
const nobodys = "nobody:100000:65536\n"

// unpacked is where ".ci/test" unpacks programs, from here.
const unpacked = "../../../build/mta"

// isRoot says whether this is root of the machine and not of a namespace.
func isRoot(t *testing.T) bool {
	t.Helper()
	text, err := os.ReadFile("/proc/self/uid_map")
	must(t, err)
	fields := strings.Fields(string(text))
	return os.Geteuid() == 0 && len(fields) == 3 && fields[0] == fields[1]
}

// again runs one of the tests of this program as an ordinary user, who finds
// these files as /etc/subuid and /etc/subgid.
func again(t *testing.T, subuid, subgid, name string) (string, error) {
	t.Helper()
	binary, err := build()
	must(t, err)
	// The directories of "go test" are closed to others.
	dir, err := os.MkdirTemp("", "mta-user-")
	must(t, err)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	must(t, os.Chmod(dir, 0o755))
	for from, to := range map[string]string{"/proc/self/exe": "test", binary: "postern"} {
		must(t, copyProgram(from, filepath.Join(dir, to)))
	}
	for path, text := range map[string]string{"/etc/subuid": subuid, "/etc/subgid": subgid} {
		must(t, instead(t, path, text))
	}
	nobody, err := user.Lookup("nobody")
	must(t, err)
	uid, uidErr := strconv.Atoi(nobody.Uid)
	gid, gidErr := strconv.Atoi(nobody.Gid)
	must(t, errors.Join(uidErr, gidErr))
	command := exec.CommandContext(within(t, patience), filepath.Join(dir, "test"), "-test.v", "-test.run", "^"+name+"$")
	command.Dir = dir
	programs := filepath.Join(dir, "programs")
	must(t, os.Mkdir(programs, 0o755))
	// Wherever the checkout is, others need not be able to go there.
	if err := syscall.Mount(unpacked, programs, "", syscall.MS_BIND, ""); err == nil {
		t.Cleanup(func() {
			if err := syscall.Unmount(programs, 0); err != nil {
				t.Error(err)
			}
		})
	}
	command.Env = []string{"CI=true", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", binaryVariable + "=" + filepath.Join(dir, "postern"),
		"POSTERN_MTA_PROGRAMS=" + programs}
	command.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)},
	}
	return output(command, (*exec.Cmd).Run)
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// instead puts a file over another for the time of the test, in the lab's own
// mount namespace.
func instead(t *testing.T, path, text string) error {
	t.Helper()
	own := filepath.Join("/run", filepath.Base(path))
	if err := os.WriteFile(own, []byte(text), 0o644); err != nil {
		return err
	}
	if err := syscall.Mount(own, path, "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(path, 0); err != nil {
			t.Error(err)
		}
	})
	return nil
}

func TestAnOrdinaryUserWithSubordinateIDsRunsThemToo(t *testing.T) {
	if !isRoot(t) {
		t.Log("all tests of this run are an ordinary user's")
		return
	}
	for _, name := range []string{"TestAClientInClearIsUpgradedToTLS13", "TestMailThatCannotLeaveStaysUntilItCan"} {
		out, err := again(t, nobodys, nobodys, name)
		if err != nil || !strings.Contains(out, "--- PASS: "+name) {
			t.Errorf("%v: %s", err, out)
		}
	}
}

func TestAnOrdinaryUserIsToldWhatIsMissing(t *testing.T) {
	if !isRoot(t) {
		t.Log("this user has everything")
		return
	}
	for name, subgid := range map[string]string{
		"nothing": "", "somebody else's": "daemon:100000:65536\n", "too few": "nobody:100000:1000\n",
		"no numbers": "nobody:x:y\n", "no list": "nobody\n:::\n",
	} {
		t.Run(name, func(t *testing.T) {
			out, err := again(t, nobodys, subgid, "TestMailPassesBetweenTwoPostfix")
			if err == nil || !strings.Contains(out, "mta: subordinate user ids missing: run as root, or have root run: usermod --add-subuids ") ||
				!strings.Contains(out, "/etc/subgid") {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// aloneVariable marks a run of this program in a namespace with one user id.
const aloneVariable = "POSTERN_MTA_TEST_ALONE"

func TestStartPostfixSaysSoWhereOneUserIDIsAllThereIs(t *testing.T) {
	if os.Getenv(aloneVariable) == "" {
		command := exec.CommandContext(within(t, patience), "/proc/self/exe", "-test.v", "-test.run", "^"+t.Name()+"$")
		command.Env = append(os.Environ(), aloneVariable+"=1")
		one := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
		command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: one, GidMappings: one}
		if out, err := output(command, (*exec.Cmd).Run); err != nil || !strings.Contains(out, "--- PASS: "+t.Name()) {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	host, err := netlab.NewHost("alone")
	must(t, err)
	_, err = mta.StartPostfix(host, mta.Options{Name: "alone.example"})
	var missing *mta.MissingError
	if !errors.As(err, &missing) || missing.What != "user ids" {
		t.Errorf("the error is %v", err)
	}
	must(t, host.Close())
}
