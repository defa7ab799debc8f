package intercept

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrPrivilege means that this process lacks a capability; the error around it
// says which and what for.
var ErrPrivilege = errors.New("intercept: missing privilege")

// Check tells whether this process may do what the method and preserving the
// source address need, by doing it to a socket that is thrown away. It returns
// nil where nothing special is needed.
func Check(method Method, preserveSource bool) error {
	m, err := mechanismOf(method)
	if err != nil {
		return err
	}
	if !m.transparent && !preserveSource {
		return nil
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("intercept: %w", os.NewSyscallError("socket", err))
	}
	return errors.Join(setTransparent(fd), unix.Close(fd))
}

// missingPrivilege says why the kernel refused a transparent socket.
func missingPrivilege() error {
	const purpose = "transparent sockets (to accept connections to other addresses and to dial from the client's)"
	if !hasCapability(unix.CAP_NET_RAW) && !hasCapability(unix.CAP_NET_ADMIN) {
		return fmt.Errorf("%w: %s need CAP_NET_RAW (CAP_NET_ADMIN works too)", ErrPrivilege, purpose)
	}
	// The capability counts in the user namespace that owns the network.
	return fmt.Errorf("%w: %s need CAP_NET_RAW over this network; the process has it only in a user namespace "+
		"of its own (PrivateUsers= must be off)", ErrPrivilege, purpose)
}

// hasCapability looks at the calling thread's effective set, which is all
// threads' unless somebody went out of their way.
func hasCapability(capability uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[capability/32].Effective&(1<<(capability%32)) != 0
}

// lacksNetAdmin is what Up, Down and Show say when the kernel refuses them.
func lacksNetAdmin(cause error) error {
	return fmt.Errorf("%w: nftables rules and policy routing need CAP_NET_ADMIN: %w", ErrPrivilege, cause)
}
