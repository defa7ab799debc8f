package netlab

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// offloads are what an interface would leave to its hardware, and a veth to
// nobody: frames of up to 64 KiB, without checksums.
var offloads = []struct {
	name    string
	command uint32
}{
	{"tx-checksumming", unix.ETHTOOL_STXCSUM},
	{"tcp-segmentation-offload", unix.ETHTOOL_STSO},
	{"generic-segmentation-offload", unix.ETHTOOL_SGSO},
	{"generic-receive-offload", unix.ETHTOOL_SGRO},
}

// wholeFrames has an interface of this network send what a real wire would carry.
func wholeFrames(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	for _, one := range offloads {
		if err := switchOff(fd, name, one.command); err != nil {
			return fmt.Errorf("switching %s off: %w", one.name, err)
		}
	}
	return nil
}

// switchOff sets a value of ethtool to 0 (ethtool_value in linux/ethtool.h, by way
// of ifreq in linux/if.h).
func switchOff(fd int, name string, command uint32) error {
	value := struct{ command, data uint32 }{command, 0}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return os.NewSyscallError("ioctl", errno)
	}
	return nil
}
