package netlab

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ForbiddenError says that this machine does not let this user make the
// namespaces that a lab needs, what forbids it, and how to go on.
type ForbiddenError struct {
	// Setting is the sysctl that forbids it, as "name = value"; empty when
	// none of the known ones does (a container's seccomp filter, for one).
	Setting string
	// Advice is what the person at the keyboard can do.
	Advice string
	// Err is what the kernel said.
	Err error
}

func (e *ForbiddenError) Error() string {
	if e.Setting == "" {
		return fmt.Sprintf("%v: %s", e.Err, e.Advice)
	}
	return fmt.Sprintf("%v: forbidden by %s: %s", e.Err, e.Setting, e.Advice)
}

func (e *ForbiddenError) Unwrap() error { return e.Err }

// namespaceSettings are the sysctls that forbid user namespaces, with the value
// that does.
var namespaceSettings = []struct{ path, forbids, advice string }{
	{"kernel/unprivileged_userns_clone", "0",
		"run as root, or: sysctl -w kernel.unprivileged_userns_clone=1"},
	{"user/max_user_namespaces", "0",
		"run as root, or: sysctl -w user.max_user_namespaces=10000"},
	{"user/max_net_namespaces", "0",
		"sysctl -w user.max_net_namespaces=10000"},
	{"kernel/apparmor_restrict_unprivileged_userns", "1",
		"run as root, or: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, " +
			"or give the program an AppArmor profile that allows userns"},
}

// forbidden wraps a refusal of the kernel with what caused it; any other error
// comes back as it is.
func forbidden(err error) error {
	return explainRefusal(err, "/proc/sys/")
}

func explainRefusal(err error, sysctls string) error {
	refusals := []error{unix.EPERM, unix.EACCES, unix.ENOSPC, unix.EUSERS, unix.EINVAL, unix.ENOSYS}
	refused := false
	for _, refusal := range refusals {
		refused = refused || errors.Is(err, refusal)
	}
	if !refused {
		return err
	}
	for _, setting := range namespaceSettings {
		value, readErr := os.ReadFile(sysctls + setting.path)
		if readErr != nil || strings.TrimSpace(string(value)) != setting.forbids {
			continue
		}
		return &ForbiddenError{
			Setting: strings.ReplaceAll(setting.path, "/", ".") + " = " + setting.forbids,
			Advice:  setting.advice,
			Err:     err,
		}
	}
	return &ForbiddenError{
		Advice: "run as root; in a container, allow it to make user and network namespaces (CAP_SYS_ADMIN, seccomp)",
		Err:    err,
	}
}
