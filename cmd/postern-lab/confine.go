package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// confinedCommand is the hidden subcommand by which the lab starts a program
// with fewer capabilities than its own.
const confinedCommand = "confined"

// confined becomes another program that holds CAP_NET_RAW and nothing else, as a
// service manager would start it. In the lab everything runs as user 0, who gets
// at exec what the bounding set holds (capabilities(7)); so that is what is cut.
// Inherited sockets (LISTEN_FDS) are addressed to it: it keeps the process.
// It returns only if it failed.
func confined(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("%s: no program given", confinedCommand)
	}
	// Capabilities belong to the thread, and the one that calls exec decides.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for c := range uintptr(64) {
		if c == unix.CAP_NET_RAW {
			continue
		}
		// Numbers beyond those that the kernel knows are EINVAL.
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if err != nil && err != unix.EINVAL {
			return fmt.Errorf("%s: dropping capability %d: %w", confinedCommand, c, err)
		}
	}
	if os.Getenv("LISTEN_FDS") != "" {
		if err := os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid())); err != nil {
			return fmt.Errorf("%s: %w", confinedCommand, err)
		}
	}
	err := syscall.Exec(args[0], args, os.Environ())
	return fmt.Errorf("%s: %s: %w", confinedCommand, args[0], err)
}
