package intercept

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrPortsExhausted means that every port of net.ipv4.ip_local_port_range is in
// use between the client's address and the server.
var ErrPortsExhausted = errors.New("intercept: no local port left")

// dialAttempts is how often a connection is dialled because its port was that of
// a client leg. Where the kernel cannot be told to avoid those (before Linux
// 6.3) each attempt hits one with a chance of their number in 28000.
const dialAttempts = 8

// errSharedPort says that the kernel chose the port of a live client leg.
var errSharedPort = errors.New("every port chosen was that of a live client connection to the same server")

// Dial connects to the destination for a connection that arrived; with
// PreserveSource, and for one of this machine's own, from its client's address.
// Only the context limits how long it takes. One address is tried, and nothing is
// tried instead of it. Errors: ErrLoop, ErrPortsExhausted, ErrPrivilege, or what
// the network said, as net.Dialer returns it. The dialling is done in the network
// namespace of the calling thread.
func (g *Gate) Dial(ctx context.Context, arrival Arrival, destination netip.AddrPort) (*net.TCPConn, error) {
	client, destination := unmap(arrival.Client), unmap(destination)
	if !destination.IsValid() || destination.Addr().IsUnspecified() || destination.Port() == 0 {
		return nil, fmt.Errorf("intercept: %s is no destination", destination)
	}
	if g.isOwn(destination) {
		return nil, fmt.Errorf("%w: %s is Postern's own address", ErrLoop, destination)
	}
	bind := g.bindFor(arrival)
	if bind != nil && client.Addr().Is4() != destination.Addr().Is4() {
		return nil, fmt.Errorf("intercept: dialling %s in the name of %s: different address families",
			destination, client.Addr())
	}
	for range dialAttempts {
		conn, err := dialOnce(ctx, attempt{gate: g, bind: bind, client: client.Addr(), destination: destination})
		if errors.Is(err, errSharedPort) {
			continue
		}
		return conn, err
	}
	return nil, fmt.Errorf("intercept: dialling %s: %w", destination, errSharedPort)
}

// bindFor is how the socket onwards takes the client's address; nil where it has
// an address of this machine, whichever the kernel chooses. Nobody else's packets
// come in on the loopback interface: whether the address is this machine's is not
// to be found out by binding to it, which net.ipv4.ip_nonlocal_bind always allows.
func (g *Gate) bindFor(arrival Arrival) func(fd int, client netip.Addr) error {
	switch {
	case g.options.PreserveSource:
		return bindAs
	case g.options.Method == Redirect && arrival.Interface == Loopback:
		return bindOwn
	}
	return nil
}

// attempt is one connection being made.
type attempt struct {
	gate        *Gate
	bind        func(fd int, client netip.Addr) error // nil: to no address
	client      netip.Addr
	destination netip.AddrPort

	// Once the SYN is out: who sent it, and how it is known.
	route route
	port  uint16
	leg   *leg

	// The kernel was told to keep away from some ports, and found no other.
	confined, cornered bool
}

// dialOnce binds and connects in the dialer's control function, where nothing
// else can come in between: a connection must be known as ours from the moment
// its first packet leaves. net.Dialer connects once more afterwards, is told
// that this is under way, and waits for the outcome and the context.
func dialOnce(ctx context.Context, a attempt) (*net.TCPConn, error) {
	conn, err := a.dial(ctx)
	if err != nil && a.confined && errors.Is(err, unix.EADDRNOTAVAIL) {
		a.cornered = true
		conn, err = a.dial(ctx)
	}
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil, fmt.Errorf("%w from %s to %s (net.ipv4.ip_local_port_range): %w",
			ErrPortsExhausted, a.client, a.destination, err)
	}
	return conn, err
}

func (a *attempt) dial(ctx context.Context) (*net.TCPConn, error) {
	dialer := net.Dialer{
		KeepAliveConfig: keepAlive,
		Control: func(_, _ string, raw syscall.RawConn) error {
			a.forget() // the dialer repeats some attempts by itself
			return controlRaw(raw, a.start)
		},
	}
	conn, err := dialer.DialContext(ctx, network(a.destination.Addr()), a.destination.String())
	if err != nil {
		a.forget()
		return nil, err
	}
	tcp := conn.(*net.TCPConn)
	raw, err := tcp.SyscallConn()
	if err != nil {
		a.forget()
		return nil, errors.Join(err, tcp.Close())
	}
	legs := a.legs()
	legs.mu.Lock()
	defer legs.mu.Unlock()
	a.leg.conn = raw
	return tcp, nil
}

func (a *attempt) legs() *legs { return a.gate.legsOf(a.client, a.destination) }

// start sends the SYN and records the connection under the address that it
// went out from.
func (a *attempt) start(fd int) error {
	if a.bind != nil {
		if err := a.bind(fd, a.client); err != nil {
			return err
		}
	}
	legs := a.legs()
	legs.mu.Lock()
	defer legs.mu.Unlock()
	if a.bind != nil && !a.cornered {
		a.confined = avoid(fd, legs.client.ports(route{a.client, a.destination}))
	}
	if err := unix.Connect(fd, sockaddr(a.destination)); err != nil && err != unix.EINPROGRESS {
		return os.NewSyscallError("connect", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	local := addrPort(name)
	r := route{local.Addr(), a.destination}
	if legs.client.holds(r, local.Port()) {
		return errSharedPort
	}
	a.route, a.port, a.leg = r, local.Port(), &leg{}
	legs.upstream.add(a.route, a.port, a.leg)
	return nil
}

// forget takes out a connection that did not come about.
func (a *attempt) forget() {
	if a.leg == nil {
		return
	}
	legs := a.legs()
	legs.mu.Lock()
	defer legs.mu.Unlock()
	legs.upstream.remove(a.route, a.port, a.leg)
	a.leg = nil
}

// bindAs takes the client's address and leaves the port for connect to choose,
// so that one port serves many servers. An explicit port is never bound: the
// kernel would then keep that port from all sockets that let it choose.
func bindAs(fd int, client netip.Addr) error {
	if err := setTransparent(fd); err != nil {
		return err
	}
	return bindOwn(fd, client)
}

func sockaddr(address netip.AddrPort) unix.Sockaddr {
	if address.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(address.Port()), Addr: address.Addr().As16()}
}

func addrPort(address unix.Sockaddr) netip.AddrPort {
	switch a := address.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}
