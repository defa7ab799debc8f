package netlab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// enteredVariable carries the outer network namespace to the re-executed
// program. It is unset at once, so that children never believe they are it.
const enteredVariable = "POSTERN_NETLAB_OUTSIDE"

// Options say how the lab is made.
type Options struct {
	// UserNamespace makes a user namespace even where real root would not need
	// one. Without it root keeps its many user ids, which programs such as
	// Postfix need; everybody else always gets a user namespace, in which only
	// their own id exists, as root.
	UserNamespace bool
	// Resolver is what /etc/resolv.conf says inside; empty means a resolver at
	// 127.0.0.1. SetResolver changes it later.
	Resolver string
}

// Enter runs the function inside a lab and returns its result as the exit code.
//
// Outside, it re-executes the running program (same arguments, same standard
// streams) in new network and mount namespaces, passes signals on and returns
// the exit code of that second run. In the second run Enter prepares the mounts
// (all private, an empty tmpfs on /run, a resolv.conf of its own), brings lo up
// and calls run. A program calls it first thing in main or TestMain:
//
//	code, err := netlab.Enter(netlab.Options{}, m.Run)
//
// Where namespaces cannot be made the error is a *ForbiddenError, which says
// what forbids them.
func Enter(options Options, run func() int) (int, error) {
	outside := os.Getenv(enteredVariable)
	if outside == "" {
		return reexecute(options)
	}
	if err := os.Unsetenv(enteredVariable); err != nil {
		return 1, err
	}
	// A variable that somebody left lying about must not make us rearrange the
	// real network.
	here, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return 1, fmt.Errorf("netlab: %w", err)
	}
	if here == outside {
		return 1, fmt.Errorf("netlab: %s is set but this is the outer network namespace %s", enteredVariable, here)
	}
	if err := prepare(options); err != nil {
		return 1, forbidden(fmt.Errorf("netlab: preparing the lab: %w", err))
	}
	return run(), nil
}

// reexecute starts the program again inside the namespaces and waits for it.
func reexecute(options Options) (int, error) {
	outside, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return 1, fmt.Errorf("netlab: %w", err)
	}
	// The death signal is tied to the thread that forked, so this one stays.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	asUser := options.UserNamespace || os.Geteuid() != 0
	command := insideCommand(outside, asUser)
	err = command.Start()
	if err != nil && !asUser && errors.Is(err, unix.EPERM) {
		// Root in a container often lacks CAP_SYS_ADMIN and may still make a
		// user namespace, in which it has it.
		command = insideCommand(outside, true)
		err = command.Start()
	}
	if err != nil {
		return 1, forbidden(fmt.Errorf("netlab: making namespaces: %w", err))
	}

	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT, unix.SIGHUP)
	defer signal.Stop(signals)
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	for {
		select {
		case s := <-signals:
			// An error here means it has just ended, which Wait reports.
			_ = command.Process.Signal(s)
		case err := <-ended:
			return exitCode(command, err)
		}
	}
}

func insideCommand(outside string, asUser bool) *exec.Cmd {
	command := exec.Command("/proc/self/exe")
	command.Args = append([]string(nil), os.Args...)
	command.Env = append(os.Environ(), enteredVariable+"="+outside)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	attributes := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		Pdeathsig:  unix.SIGKILL,
	}
	if asUser {
		attributes.Cloneflags |= unix.CLONE_NEWUSER
		attributes.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attributes.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	command.SysProcAttr = attributes
	return command
}

// exitCode turns the end of the inner program into an exit code, as a shell
// does: 128 and the signal's number for one that was killed.
func exitCode(command *exec.Cmd, err error) (int, error) {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 1, fmt.Errorf("netlab: waiting for the lab: %w", err)
	}
	status, ok := command.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return command.ProcessState.ExitCode(), nil
}
