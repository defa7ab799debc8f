package mta_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/netlab"
)

// Where Postern can stand.
var positions = []struct {
	name    string
	network func() (*netlab.Network, error)
	taking  string // keys of [intercept], without when_down
	listen  []string
	pass    bool // can be had
	own     bool // the client is a program of the gateway itself
	needs   []uintptr
}{
	{"a router, by tproxy", netlab.NewRouted, "interfaces = [\"lan0\"]", loopbacks, true, false, []uintptr{capNetRaw}},
	{"a bridge, by tproxy", newForwardingBridge, "interfaces = [\"br0\"]", loopbacks, true, false, []uintptr{capNetRaw}},
	{"a router, by redirect", netlab.NewRouted, "method = \"redirect\"\ninterfaces = [\"lan0\"]", everywhere, false, false, nil},
	{"a bridge, by redirect", newForwardingBridge, "method = \"redirect\"\ninterfaces = [\"br0\"]", everywhere, false, false, nil},
	{"the mail host itself", netlab.NewRouted, "method = \"redirect\"\ninterfaces = [\"lo\"]\nuser = \"nobody\"", loopbacks, false, true, nil},
}

var (
	loopbacks  = []string{"127.0.0.1:2525", "[::1]:2525"}
	everywhere = []string{"0.0.0.0:2525", "[::]:2525"}
)

// newForwardingBridge is a bridge on which pass can be had.
func newForwardingBridge() (*netlab.Network, error) {
	n, err := netlab.NewBridged()
	if err != nil {
		return nil, err
	}
	return n, errors.Join(
		n.Gateway.Sysctl("net.ipv4.ip_forward", "1"),
		n.Gateway.Sysctl("net.ipv6.conf.all.forwarding", "1"),
		n.Gateway.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), n.Server4),
		n.Gateway.AddRoute(netip.MustParsePrefix("::/0"), n.Server6),
	)
}

// caller has one client connect again and again from the same ports.
type caller struct {
	*site
	from   *netlab.Host
	here   netip.Addr
	server *proxytest.Server
	calls  int
}

const firstReused, lastReused = 40000, 40005

// way is how a connection got to the server, or did not.
type way string

const (
	throughPostern way = "through Postern"
	direct         way = "direct"
	refused        way = "refused"
)

func (c *caller) dial(port uint16) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return c.from.Dial(ctx, netip.AddrPortFrom(c.here, port), netip.AddrPortFrom(c.site.server, 25))
}

// converse has a session on a connection, which the server ends, so that what is
// left of it (TIME_WAIT) is on the gateway.
func (c *caller) converse(conn *net.TCPConn) (way, error) {
	client := proxytest.NewClient(conn, patience)
	defer client.Close()
	c.calls++
	name := fmt.Sprintf("call%d.example", c.calls)
	if reply, err := client.ReadReply(); err != nil || reply.Code != 220 {
		return "", fmt.Errorf("banner: %s %w", reply, err)
	}
	if reply, err := client.Hello("EHLO", name); err != nil || !reply.OK() {
		return "", fmt.Errorf("EHLO: %s %w", reply, err)
	}
	if _, err := client.Pipeline("QUIT"); err != nil {
		return "", fmt.Errorf("QUIT: %w", err)
	}
	if reply, err := client.ReadReply(); err == nil {
		return "", fmt.Errorf("behind QUIT: %s", reply)
	}
	for _, session := range c.server.Sessions() {
		if len(session.Hellos) > 0 && session.Hellos[0] == "EHLO "+name {
			if session.Remote.String() == conn.LocalAddr().String() {
				return direct, nil
			}
			return throughPostern, nil
		}
	}
	return "", errors.New("the server knows nothing of it")
}

// wants calls from each of the ports that were used before.
func (c *caller) wants(when string, want way) {
	c.t.Helper()
	for port := uint16(firstReused); port <= lastReused; port++ {
		got := refused
		conn, err := c.dial(port)
		if err == nil {
			got, err = c.converse(conn)
		} else if errors.Is(err, unix.ECONNREFUSED) {
			err = nil
		}
		if err != nil || got != want {
			c.t.Errorf("%s, from port %d: %q %v, want %s", when, port, got, err, want)
		}
	}
}

// waits calls from the same ports, wants no word, then has meanwhile called, and
// wants all that waited to be served.
func (c *caller) waits(when string, meanwhile func()) {
	c.t.Helper()
	var waiting []*net.TCPConn
	for port := uint16(firstReused); port <= lastReused; port++ {
		conn, err := c.dial(port)
		if err != nil {
			c.t.Errorf("%s, from port %d: %v, want to wait", when, port, err)
			continue
		}
		waiting = append(waiting, conn)
	}
	for _, conn := range waiting {
		must(c.t, conn.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
		if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			c.t.Errorf("%s: read %d bytes, %v, while it should wait", when, n, err)
		}
	}
	meanwhile()
	for _, conn := range waiting {
		if got, err := c.converse(conn); err != nil || got != throughPostern {
			c.t.Errorf("%s, and then: %q %v", when, got, err)
		}
	}
}

func TestWhatPort25DoesWhilePosternIsDeadOrHangs(t *testing.T) {
	for _, at := range positions {
		for _, whenDown := range []string{"block", "pass"} {
			if whenDown == "pass" && !at.pass {
				continue
			}
			for _, family := range []string{"IPv4", "IPv6"} {
				t.Run(fmt.Sprint(at.name, ", ", whenDown, ", ", family), func(t *testing.T) {
					s := newSiteOn(t, at.network)
					if family == "IPv6" {
						s.client, s.server = s.net.Client6, s.net.Server6
					}
					c := &caller{site: s, from: s.net.Client, here: s.client}
					if at.own {
						c.from = s.net.Gateway
						c.here = map[bool]netip.Addr{true: netip.MustParseAddr("203.0.113.1"), false: netip.MustParseAddr("2001:db8:2::1")}[s.client.Is4()]
					}
					listener, err := s.net.Server.Listen(netip.AddrPortFrom(s.server, 25))
					must(t, err)
					c.server = proxytest.Serve(listener, proxytest.ServerConfig{})
					t.Cleanup(func() { _ = c.server.Close() })
					p := s.guardTaking(at.taking+"\nwhen_down = \""+whenDown+"\"", "", at.needs...)
					down := map[string]way{"block": refused, "pass": direct}[whenDown]

					c.wants("at first", throughPostern)
					c.wants("again", throughPostern)
					p.kill()
					c.wants("after SIGKILL", down)
					p.start()
					c.wants("after the start", throughPostern)

					p.freeze()
					c.waits("after SIGSTOP", func() { must(t, p.command.Process.Signal(syscall.SIGCONT)) })

					// A service manager holds the sockets.
					p.kill()
					p.sockets = s.held(at.listen)
					c.waits("before the first start", p.start)
					c.wants("with sockets of somebody else", throughPostern)
					p.kill()
					c.waits("after SIGKILL with sockets of somebody else", p.start)
					p.kill()
					for _, socket := range p.sockets {
						must(t, socket.Close())
					}
					c.wants("after those were closed", down)
					p.sockets = nil
					p.start()
				})
			}
		}
	}
}

// freeze stops every thread, which takes a moment after the signal.
func (p *postern) freeze() {
	p.t.Helper()
	must(p.t, p.command.Process.Signal(syscall.SIGSTOP))
	p.wait("SIGSTOP to take hold", func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.command.Process.Pid))
		must(p.t, err)
		return !slices.ContainsFunc(threads, func(path string) bool {
			text, err := os.ReadFile(path)
			if errors.Is(err, os.ErrNotExist) {
				return false // a thread that has ended
			}
			must(p.t, err)
			// The state stands behind the name, which may hold anything (proc_pid_stat(5)).
			return !bytes.HasPrefix(text[bytes.LastIndexByte(text, ')'):], []byte(") T "))
		})
	})
}

// held are listening sockets as a service manager holds them on the gateway, with
// Transparent=yes whatever the method.
func (s *site) held(addresses []string) []*os.File {
	s.t.Helper()
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var option error
		err := raw.Control(func(fd uintptr) {
			option = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1) // at this level for both families
		})
		return errors.Join(err, option)
	}}
	config.SetMultipathTCP(false)
	var files []*os.File
	for _, address := range addresses {
		network := map[bool]string{true: "tcp4", false: "tcp6"}[netip.MustParseAddrPort(address).Addr().Is4()]
		must(s.t, s.net.Gateway.Do(func() error {
			listener, err := config.Listen(context.Background(), network, address)
			if err != nil {
				return err
			}
			file, err := listener.(*net.TCPListener).File() // the same socket, and it stays open
			files = append(files, file)
			return errors.Join(err, listener.Close())
		}))
	}
	return files
}
