package intercept

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Method is a way for connections to come to Postern.
type Method string

const (
	// TProxy keeps addresses as they are: the accepted socket's local address is
	// the original destination.
	TProxy Method = "tproxy"
	// Redirect rewrites the destination to this machine; conntrack remembers the
	// original one.
	Redirect Method = "redirect"
	// None is for connections made to Postern itself, as a plain front of one
	// server. There is no original destination.
	None Method = "none"
)

// mechanism is what one method does differently. Everything else in this
// package is common to all.
type mechanism struct {
	// transparent sockets accept connections to addresses that are not ours.
	transparent bool
	// original finds where an accepted connection was going; local is the
	// accepted socket's own address.
	original func(fd int, local netip.AddrPort) (netip.AddrPort, error)
}

var mechanisms = map[Method]mechanism{
	TProxy:   {transparent: true, original: localAddress},
	Redirect: {original: rewrittenDestination},
	None:     {original: noDestination},
}

func mechanismOf(method Method) (mechanism, error) {
	m, ok := mechanisms[method]
	if !ok {
		return mechanism{}, fmt.Errorf("intercept: unknown method %q, want %s, %s or %s",
			method, TProxy, Redirect, None)
	}
	return m, nil
}

// localAddress is the original destination under TPROXY. That it is not one of
// Postern's own addresses is checked for every method alike.
func localAddress(_ int, local netip.AddrPort) (netip.AddrPort, error) {
	return local, nil
}

func noDestination(int, netip.AddrPort) (netip.AddrPort, error) {
	return netip.AddrPort{}, nil
}

// rewrittenDestination asks conntrack. A connection that it does not know, or
// knows under the accepted socket's own address, was never redirected: somebody
// connected to Postern itself, and going on would connect Postern to Postern.
func rewrittenDestination(fd int, local netip.AddrPort) (netip.AddrPort, error) {
	destination, err := originalDestination(fd, local.Addr().Is6())
	if err == unix.ENOENT {
		return netip.AddrPort{}, fmt.Errorf("%w: conntrack has no original destination for it", ErrLoop)
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("intercept: original destination: %w", err)
	}
	if destination == local {
		return netip.AddrPort{}, fmt.Errorf("%w: %s was dialled directly", ErrLoop, local)
	}
	return destination, nil
}
