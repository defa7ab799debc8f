package intercept

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Socket options that golang.org/x/sys/unix does not name, from
// linux/in.h, linux/in6.h and the two netfilter headers.
const (
	ipPktoptions      = 9
	ip6tOriginalDst   = 80
	sizeofSockaddrIn  = unix.SizeofSockaddrInet4
	sizeofSockaddrIn6 = unix.SizeofSockaddrInet6
)

// control runs f on the descriptor and tells apart, as RawConn.Control does,
// whether it could be run and what it found.
func control(conn syscall.Conn, f func(fd int) error) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	return controlRaw(raw, f)
}

func controlRaw(raw syscall.RawConn, f func(fd int) error) error {
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// family is AF_INET or AF_INET6. It decides at which level an option stands: a
// v4-mapped connection on an IPv6 socket takes the socket's options at SOL_IPV6.
func family(fd int) (int, error) {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return 0, os.NewSyscallError("getsockopt SO_DOMAIN", err)
	}
	return domain, nil
}

// setTransparent lets the socket use addresses that are not this machine's.
func setTransparent(fd int) error {
	domain, err := family(fd)
	if err != nil {
		return err
	}
	if domain == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
	} else {
		err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1)
	}
	if errors.Is(err, unix.EPERM) {
		return missingPrivilege()
	}
	return os.NewSyscallError("setsockopt IP_TRANSPARENT", err)
}

func isTransparent(fd int) (bool, error) {
	domain, err := family(fd)
	if err != nil {
		return false, err
	}
	level, option := unix.SOL_IP, unix.IP_TRANSPARENT
	if domain == unix.AF_INET6 {
		level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	value, err := unix.GetsockoptInt(fd, level, option)
	return value != 0, os.NewSyscallError("getsockopt IP_TRANSPARENT", err)
}

// keepArrivalInterface makes sockets accepted from this listener remember the
// interface of the connection's first packet.
func keepArrivalInterface(fd int) error {
	domain, err := family(fd)
	if err != nil {
		return err
	}
	if domain == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1)
	} else {
		err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_PKTINFO, 1)
	}
	return os.NewSyscallError("setsockopt PKTINFO", err)
}

// arrivalInterface is the index of the interface that an accepted connection
// came in on; 0 when the kernel does not say. TCP answers as RFC 2292 §5 meant
// it: the ancillary data of the connection, fetched by getsockopt.
func arrivalInterface(fd int) int {
	domain, err := family(fd)
	if err != nil {
		return 0
	}
	buffer := make([]byte, 512)
	level, option := unix.SOL_IP, ipPktoptions
	if domain == unix.AF_INET6 {
		level, option = unix.SOL_IPV6, unix.IPV6_2292PKTOPTIONS
	}
	n, err := getsockopt(fd, level, option, buffer)
	if err != nil {
		return 0
	}
	return packetInfoIndex(buffer[:n])
}

// packetInfoIndex finds the interface index in control messages.
func packetInfoIndex(control []byte) int {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0
	}
	for _, message := range messages {
		switch {
		case message.Header.Level == unix.SOL_IP && message.Header.Type == unix.IP_PKTINFO &&
			len(message.Data) >= unix.SizeofInet4Pktinfo:
			return int(int32(binary.NativeEndian.Uint32(message.Data)))
		case message.Header.Level == unix.SOL_IPV6 && isPacketInfo6(message.Header.Type) &&
			len(message.Data) >= unix.SizeofInet6Pktinfo:
			return int(int32(binary.NativeEndian.Uint32(message.Data[16:])))
		}
	}
	return 0
}

func isPacketInfo6(kind int32) bool {
	return kind == unix.IPV6_PKTINFO || kind == unix.IPV6_2292PKTINFO
}

// interfaceName asks the socket's own network namespace, by ioctl: the daemon
// may not be allowed netlink. Empty when there is no such interface any more.
func interfaceName(fd, index int) string {
	request, err := unix.NewIfreq("?")
	if err != nil {
		return ""
	}
	request.SetUint32(uint32(index))
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFNAME, request); err != nil {
		return ""
	}
	return request.Name()
}

// originalDestination asks conntrack where a redirected connection was going.
// An IPv4 connection, v4-mapped or not, is asked for at SOL_IP.
func originalDestination(fd int, v6 bool) (netip.AddrPort, error) {
	buffer := make([]byte, sizeofSockaddrIn6)
	if v6 {
		n, err := getsockopt(fd, unix.SOL_IPV6, ip6tOriginalDst, buffer)
		if err != nil {
			return netip.AddrPort{}, err
		}
		return parseSockaddr(buffer[:n])
	}
	n, err := getsockopt(fd, unix.SOL_IP, unix.SO_ORIGINAL_DST, buffer[:sizeofSockaddrIn])
	if err != nil {
		return netip.AddrPort{}, err
	}
	return parseSockaddr(buffer[:n])
}

// parseSockaddr reads a struct sockaddr_in or sockaddr_in6.
func parseSockaddr(b []byte) (netip.AddrPort, error) {
	if len(b) >= sizeofSockaddrIn {
		port := binary.BigEndian.Uint16(b[2:])
		switch binary.NativeEndian.Uint16(b) {
		case unix.AF_INET:
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), port), nil
		case unix.AF_INET6:
			if len(b) >= sizeofSockaddrIn6 {
				return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])).Unmap(), port), nil
			}
		}
	}
	return netip.AddrPort{}, fmt.Errorf("not a socket address: % x", b)
}

// getsockopt fills the buffer and returns how much of it the kernel used.
func getsockopt(fd, level, option int, buffer []byte) (int, error) {
	size := uint32(len(buffer))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&buffer[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(min(size, uint32(len(buffer)))), nil
}
