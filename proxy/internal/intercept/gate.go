package intercept

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLoop means that going on would connect Postern to itself: the connection
// was made to Postern's own address, or is one that Postern made and that came
// back. The error around it says which.
var ErrLoop = errors.New("intercept: loop")

// ErrNotTransparent means that an inherited socket cannot take connections to
// other addresses.
var ErrNotTransparent = errors.New("intercept: inherited socket is not transparent")

// backlog is how many connections may wait to be accepted on one listener. The
// kernel cuts it to net.core.somaxconn.
const backlog = 4096

// keepAlive notices a peer that vanished within about two minutes.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4}

// Options are what a Gate needs to know.
type Options struct {
	Method Method
	// PreserveSource dials upstream from the client's own address. It needs
	// TProxy, whose rules bring the answers back.
	PreserveSource bool
}

// Gate is the daemon's side of interception. It is safe for concurrent use.
type Gate struct {
	options   Options
	mechanism mechanism
	legs      *allLegs
	names     *interfaceNames

	mu  sync.Mutex
	own []netip.AddrPort // what Listen and Adopt were given
}

// Arrival is a connection that came in.
type Arrival struct {
	Conn *net.TCPConn
	// Client is who connected, never v4-mapped.
	Client netip.AddrPort
	// Destination is the server that the client meant, never v4-mapped; the zero
	// value under None.
	Destination netip.AddrPort
	// Interface is where the connection came in; empty when unknown.
	Interface string
}

// NewGate makes a Gate that has no listeners yet.
func NewGate(options Options) (*Gate, error) {
	m, err := mechanismOf(options.Method)
	if err != nil {
		return nil, err
	}
	if options.PreserveSource && options.Method != TProxy {
		return nil, fmt.Errorf("intercept: preserving the source address needs method %s, not %s",
			TProxy, options.Method)
	}
	return &Gate{options: options, mechanism: m, legs: newLegs(), names: newInterfaceNames()}, nil
}

// Listen opens a listening socket as the method needs it. An IPv6 address never
// takes IPv4 connections, also [::], so that both can be listened on.
func (g *Gate) Listen(ctx context.Context, address netip.AddrPort) (*net.TCPListener, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return controlRaw(raw, func(fd int) error {
			if g.mechanism.transparent {
				if err := setTransparent(fd); err != nil {
					return err
				}
			}
			return keepArrivalInterface(fd)
		})
	}}
	// Multipath TCP listens on another kind of socket; interception knows plain
	// TCP, and a client that offers multipath falls back to it.
	config.SetMultipathTCP(false)
	listener, err := config.Listen(ctx, network(address.Addr()), address.String())
	if err != nil {
		return nil, fmt.Errorf("intercept: %w", err)
	}
	tcp := listener.(*net.TCPListener)
	// Go takes its backlog from /proc/sys, which the daemon may not read.
	err = control(tcp, func(fd int) error { return unix.Listen(fd, backlog) })
	if err != nil {
		return nil, fmt.Errorf("intercept: %w", errors.Join(err, tcp.Close()))
	}
	g.claim(tcp)
	return tcp, nil
}

// Adopt prepares a listening socket that somebody else opened, as systemd does.
// Under TProxy it must be transparent already (Transparent=yes in the socket
// unit), else ErrNotTransparent.
func (g *Gate) Adopt(listener *net.TCPListener) error {
	err := control(listener, func(fd int) error {
		transparent, err := isTransparent(fd)
		if err != nil {
			return err
		}
		if g.mechanism.transparent && !transparent {
			return fmt.Errorf("%w: %s: set Transparent=yes in the socket unit",
				ErrNotTransparent, listener.Addr())
		}
		// A multipath TCP socket cannot say where its connections come in; all
		// else it does like any other.
		if err := keepArrivalInterface(fd); !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("intercept: adopting a socket: %w", err)
	}
	g.claim(listener)
	return nil
}

func (g *Gate) claim(listener *net.TCPListener) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.own = append(g.own, unmap(listener.Addr().(*net.TCPAddr).AddrPort()))
}

// Arrive finds out about a connection that one of the listeners accepted. The
// error is ErrLoop for one that must not be served; whatever the error, the
// connection is still the caller's to close.
func (g *Gate) Arrive(conn *net.TCPConn) (Arrival, error) {
	local := unmap(conn.LocalAddr().(*net.TCPAddr).AddrPort())
	arrival := Arrival{Conn: conn, Client: unmap(conn.RemoteAddr().(*net.TCPAddr).AddrPort())}
	raw, err := conn.SyscallConn()
	if err != nil {
		return arrival, fmt.Errorf("intercept: %w", err)
	}
	err = controlRaw(raw, func(fd int) error {
		arrival.Interface = g.names.of(fd)
		arrival.Destination, err = g.mechanism.original(fd, local)
		return err
	})
	if err != nil {
		return arrival, err
	}
	if g.options.Method != None && g.isOwn(arrival.Destination) {
		return arrival, fmt.Errorf("%w: %s connected to Postern's own address %s",
			ErrLoop, arrival.Client, arrival.Destination)
	}
	to := arrival.Destination
	if g.options.Method == None {
		to = local
	}
	err = g.enter(route{arrival.Client.Addr(), to}, arrival.Client.Port(), raw)
	if err != nil && g.options.Method == Redirect && arrival.Interface == Loopback {
		err = fmt.Errorf("%w: it must run as the user that [intercept] user names", err)
	}
	if err != nil {
		return arrival, err
	}
	if err := conn.SetKeepAliveConfig(keepAlive); err != nil {
		return arrival, fmt.Errorf("intercept: %w", err)
	}
	return arrival, nil
}

// enter records a client leg, unless it is an upstream leg of ours that came
// back. A client that happens to use the very port we dialled the same server
// from looks the same and is refused too: both would share one conntrack entry.
func (g *Gate) enter(r route, port uint16, conn syscall.RawConn) error {
	legs := g.legsOf(r.from, r.to)
	legs.mu.Lock()
	defer legs.mu.Unlock()
	if legs.upstream.holds(r, port) {
		return fmt.Errorf("%w: the connection from %s to %s is Postern's own", ErrLoop,
			netip.AddrPortFrom(r.from, port), r.to)
	}
	legs.client.add(r, port, &leg{conn})
	return nil
}

// isOwn tells whether a connection to the address would reach Postern's own
// listeners.
func (g *Gate) isOwn(address netip.AddrPort) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, own := range g.own {
		if own.Port() != address.Port() {
			continue
		}
		if own.Addr() == address.Addr() {
			return true
		}
		if own.Addr().IsUnspecified() && isLocal(address.Addr()) {
			return true
		}
	}
	return false
}

// isLocal tells whether the address is this machine's, by binding to it: the
// daemon lists no interfaces. Where net.ipv4.ip_nonlocal_bind is set every
// address looks local, which here errs towards refusing a loop.
func isLocal(address netip.Addr) bool {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(address, 0)))
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

func unmap(address netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(address.Addr().Unmap(), address.Port())
}

func network(address netip.Addr) string {
	if address.Is4() {
		return "tcp4"
	}
	return "tcp6"
}
