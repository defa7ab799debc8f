package mta

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"postern/proxy/proxytest/netlab"
)

// waitingVariable marks the run of the program that waits for its user ids.
const waitingVariable = "POSTERN_MTA_WAITING"

// idsReady is the file descriptor on which that run hears that it has them.
const idsReady = 3

// Enter is [netlab.Enter] for programs that run mail servers. Root's lab is the same;
// an ordinary user's has, besides the user as root, the subordinate ids that
// /etc/subuid and /etc/subgid give, put in place by newuidmap and newgidmap.
//
// Where these are missing the error is a *[MissingError]; where the kernel
// forbids namespaces it is a *[netlab.ForbiddenError].
func Enter(options netlab.Options, run func() int) (int, error) {
	if os.Getenv(waitingVariable) != "" {
		return 1, becomeRoot()
	}
	if os.Geteuid() == 0 {
		return netlab.Enter(options, run)
	}
	ids, err := subordinateIDs()
	if err != nil {
		return 1, err
	}
	child, ready, err := startWaiting()
	if err != nil {
		// netlab meets the same refusal, and knows how to explain it.
		return netlab.Enter(options, run)
	}
	for _, m := range ids {
		if err = m.apply(child.Process.Pid); err != nil {
			break
		}
	}
	if err != nil {
		// It ends by itself, for it hears nothing.
		return 1, errors.Join(err, ready.Close(), ignoreExit(child.Wait()))
	}
	if _, err := ready.Write([]byte{1}); err != nil {
		return 1, errors.Join(fmt.Errorf("mta: %w", err), ready.Close(), ignoreExit(child.Wait()))
	}
	return attend(child, ready)
}

// startWaiting starts this program again in a user namespace in which nobody is
// mapped yet.
func startWaiting() (*exec.Cmd, *os.File, error) {
	heard, ready, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	child := exec.Command("/proc/self/exe")
	child.Args = append([]string(nil), os.Args...)
	child.Env = append(os.Environ(), waitingVariable+"=1")
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.ExtraFiles = []*os.File{heard}
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
	if err := child.Start(); err != nil {
		return nil, nil, errors.Join(err, heard.Close(), ready.Close())
	}
	return child, ready, heard.Close()
}

// becomeRoot waits for the ids and runs the program once more: a program that is
// started by root has root's capabilities, and this one was started by nobody.
func becomeRoot() error {
	ready := os.NewFile(idsReady, "ready")
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("mta: waiting for user ids: %w", err)
	}
	if err := errors.Join(ready.Close(), os.Unsetenv(waitingVariable)); err != nil {
		return fmt.Errorf("mta: %w", err)
	}
	return fmt.Errorf("mta: %w", syscall.Exec("/proc/self/exe", os.Args, os.Environ()))
}

// attend passes signals on to the child and returns its exit code.
func attend(child *exec.Cmd, ready *os.File) (int, error) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	defer signal.Stop(signals)
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	for {
		select {
		case s := <-signals:
			// An error here means it has just ended, which Wait reports.
			_ = child.Process.Signal(s)
		case err := <-ended:
			return child.ProcessState.ExitCode(), errors.Join(ignoreExit(err), ready.Close())
		}
	}
}

// ignoreExit drops an error that only says how the program exited.
func ignoreExit(err error) error {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil
	}
	return err
}

// mapping is one call of newuidmap or newgidmap.
type mapping struct {
	program      string
	own          int
	first, count int
}

func (m mapping) apply(pid int) error {
	out, err := exec.Command(m.program, strconv.Itoa(pid),
		"0", strconv.Itoa(m.own), "1", "1", strconv.Itoa(m.first), strconv.Itoa(m.count)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mta: %s: %w: %s", m.program, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// subordinateIDs finds what the user may map besides itself.
func subordinateIDs() ([]mapping, error) {
	var ids []mapping
	for _, kind := range []struct {
		program, file string
		own           int
	}{{"newuidmap", "/etc/subuid", os.Geteuid()}, {"newgidmap", "/etc/subgid", os.Getegid()}} {
		program, err := exec.LookPath(kind.program)
		if err != nil {
			return nil, &MissingError{What: kind.program, Advice: "run as root, or apt-get install uidmap", Err: err}
		}
		first, count, err := subordinateRange(kind.file)
		if err != nil {
			return nil, err
		}
		ids = append(ids, mapping{program, kind.own, first, min(count, manyIDs)})
	}
	return ids, nil
}

// subordinateRange reads the user's first range that is long enough off a file
// as described in subuid(5): "name or id:first:count".
func subordinateRange(path string) (first, count int, err error) {
	names := []string{strconv.Itoa(os.Geteuid())}
	if found, err := user.LookupId(names[0]); err == nil {
		names = append(names, found.Username)
	}
	missing := &MissingError{
		What: "subordinate user ids",
		Advice: fmt.Sprintf("run as root, or have root run: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s",
			names[len(names)-1]),
	}
	file, err := os.Open(path)
	if err != nil {
		missing.Err = err
		return 0, 0, missing
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(fields) != 3 || fields[0] != names[0] && fields[0] != names[len(names)-1] {
			continue
		}
		first, firstErr := strconv.Atoi(fields[1])
		count, countErr := strconv.Atoi(fields[2])
		if firstErr == nil && countErr == nil && count >= manyIDs {
			return first, count, nil
		}
	}
	missing.Err = fmt.Errorf("%s gives %s none, or fewer than %d", path, names[len(names)-1], manyIDs)
	return 0, 0, missing
}
