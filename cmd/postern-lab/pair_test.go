package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/netlab"
)

// shippedKeepalived is the configuration that is in the manual. Names and addresses
// below are those in it.
const shippedKeepalived = "../../packaging/keepalived/keepalived.conf"

// A pair is two gateways between clients and servers, each side one Ethernet.
type pair struct {
	ctx                    context.Context
	client, server         *netlab.Host
	client4, client6       netip.Addr
	server4, server6       netip.Addr
	keepalived             string
	gateways               [2]*gateway
	lanSwitch, worldSwitch *netlab.Host
}

// A gateway is one of them.
type gateway struct {
	host *netlab.Host
	dir  string
	own  map[string][]netip.Prefix // its addresses, by interface

	*daemon
	vrrp *exec.Cmd
	said *shared
}

// shared is what a program says, while somebody reads it.
type shared struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// newPair lays the network, with Postern on both gateways and keepalived on none.
func newPair(t *testing.T) *pair {
	t.Helper()
	keepalived, err := exec.LookPath("/usr/sbin/keepalived")
	if err != nil {
		if os.Getenv("CI") == "" {
			t.Skip("keepalived is missing: apt-get install keepalived")
		}
		t.Fatal("keepalived is missing: apt-get install keepalived")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	p := &pair{
		ctx: ctx, keepalived: keepalived, client4: at("10.1.0.2"), client6: at("2001:db8:1::2"),
		server4: at("203.0.113.2"), server6: at("2001:db8:2::2"),
		client: newHost(t, "client"), server: newHost(t, "server"),
		lanSwitch: newHost(t, "switch of the clients"), worldSwitch: newHost(t, "switch of the servers"),
	}
	p.plug(t, p.lanSwitch, "p0", p.client, "eth0", subnet(p.client4), subnet(p.client6))
	p.plug(t, p.worldSwitch, "p0", p.server, "eth0", subnet(p.server4), subnet(p.server6))
	for i := range p.gateways {
		p.gateways[i] = p.newGateway(t, i)
	}
	for _, s := range []*netlab.Host{p.lanSwitch, p.worldSwitch} {
		must(t, s.AddBridge("br0", []string{"p0", "p1", "p2"}))
	}
	// The ways that keepalived.conf(5) moves.
	must(t, errors.Join(
		p.client.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), at("10.1.0.1")),
		p.client.AddRoute(netip.MustParsePrefix("::/0"), at("2001:db8:1::1")),
		p.server.AddRoute(netip.MustParsePrefix("10.1.0.0/24"), at("203.0.113.1")),
		p.server.AddRoute(netip.MustParsePrefix("2001:db8:1::/64"), at("2001:db8:2::1")),
		p.client.Sysctl("net.ipv4.ip_local_port_range", "32768 44999"),
	))
	for _, address := range []netip.Addr{p.server4, p.server6} {
		listener, err := p.server.Listen(netip.AddrPortFrom(address, smtpPort))
		must(t, err)
		server := proxytest.Serve(listener, proxytest.ServerConfig{})
		t.Cleanup(func() { _ = server.Close() })
	}
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newHost(t *testing.T, name string) *netlab.Host {
	t.Helper()
	host, err := netlab.NewHost(name)
	must(t, err)
	t.Cleanup(func() { _ = host.Close() })
	for _, family := range []string{"iptables", "ip6tables"} {
		// Where br_netfilter is compiled in it is on in every new namespace.
		if err := host.Sysctl("net/bridge/bridge-nf-call-"+family, "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return host
}

func (p *pair) plug(t *testing.T, s *netlab.Host, port string, host *netlab.Host, name string, addresses ...netip.Prefix) {
	t.Helper()
	must(t, netlab.Connect(netlab.End{Host: host, Interface: name, Addresses: addresses}, netlab.End{Host: s, Interface: port}))
}

func (p *pair) newGateway(t *testing.T, i int) *gateway {
	t.Helper()
	number := 11 + i
	g := &gateway{
		host: newHost(t, fmt.Sprintf("gw%d", i+1)), said: &shared{},
		own: map[string][]netip.Prefix{
			"lan0": {subnet(at(fmt.Sprintf("10.1.0.%d", number))), subnet(at(fmt.Sprintf("2001:db8:1::%d", number)))},
			"wan0": {subnet(at(fmt.Sprintf("203.0.113.%d", number))), subnet(at(fmt.Sprintf("2001:db8:2::%d", number)))},
		},
	}
	port := fmt.Sprintf("p%d", i+1)
	p.plug(t, p.lanSwitch, port, g.host, "lan0", g.own["lan0"]...)
	p.plug(t, p.worldSwitch, port, g.host, "wan0", g.own["wan0"]...)
	must(t, errors.Join(
		g.host.Sysctl("net.ipv4.ip_forward", "1"),
		g.host.Sysctl("net.ipv6.conf.all.forwarding", "1"),
		g.host.Sysctl("net.ipv4.ip_local_port_range", "45000 60999"),
	))
	var err error
	g.dir, err = os.MkdirTemp("/run", "gateway-")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(g.dir, "postern.toml"), []byte("[intercept]\ninterfaces = [\"lan0\"]\n"), 0o600))
	up := g.host.Command(p.ctx, program("postern"), "intercept", "up", "--config", filepath.Join(g.dir, "postern.toml"))
	must(t, g.host.Run(up))
	g.startPostern(p.ctx, t)
	t.Cleanup(func() {
		if err := g.kill(); err != nil && t.Failed() {
			t.Log(err)
		}
		g.killKeepalived()
		if t.Failed() {
			t.Logf("keepalived on %s said\n%s", g.host.Name(), g.said)
		}
	})
	return g
}

func (g *gateway) startPostern(ctx context.Context, t *testing.T) {
	t.Helper()
	var err error
	g.daemon, err = startDaemon(ctx, g.host, program("postern"), filepath.Join(g.dir, "postern.toml"))
	must(t, err)
}

func (p *pair) startKeepalived(t *testing.T, g *gateway) {
	t.Helper()
	g.vrrp = g.host.Command(p.ctx, p.keepalived, "--dont-fork", "--log-console", "--vrrp", "--config-id", g.host.Name(),
		"--use-file", shippedKeepalived, "--pid", filepath.Join(g.dir, "pid"), "--vrrp_pid", filepath.Join(g.dir, "vrrp.pid"))
	g.vrrp.SysProcAttr.Setpgid = true // its children die with it
	g.vrrp.Stdout, g.vrrp.Stderr = g.said, g.said
	g.vrrp.WaitDelay = time.Second
	must(t, g.host.Start(g.vrrp))
}

func (g *gateway) killKeepalived() {
	if g.vrrp == nil {
		return
	}
	_ = unix.Kill(-g.vrrp.Process.Pid, unix.SIGKILL)
	_ = g.vrrp.Wait() // that it was killed is known
	g.vrrp = nil
}

// dies is the end of a gateway: it says no word more.
func (g *gateway) dies(t *testing.T) {
	t.Helper()
	must(t, g.host.Do(func() error { return errors.Join(setLink("lan0", false), setLink("wan0", false)) }))
	g.killKeepalived()
}

// boots brings it back as a machine that starts, with its own addresses alone.
func (p *pair) boots(t *testing.T, g *gateway) {
	t.Helper()
	for name, addresses := range g.own {
		must(t, g.host.Do(func() error {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			present, err := netlink.AddrList(link, netlink.FAMILY_ALL)
			for _, address := range present {
				gone := netlink.AddrDel(link, &address)
				if !errors.Is(gone, unix.EADDRNOTAVAIL) { // it went with another
					err = errors.Join(err, gone)
				}
			}
			return errors.Join(err, setLink(name, true))
		}))
		must(t, g.host.AddAddress(name, addresses...))
	}
	p.startKeepalived(t, g)
}

func setLink(name string, up bool) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if up {
		return netlink.LinkSetUp(link)
	}
	return netlink.LinkSetDown(link)
}

// holds waits until a gateway has the addresses of both sides.
func (p *pair) holds(t *testing.T, g *gateway) {
	t.Helper()
	moved := func() bool {
		err := g.host.Do(func() error {
			addresses, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
			if err != nil {
				return err
			}
			for _, wanted := range []string{"10.1.0.1", "2001:db8:1::1", "203.0.113.1", "2001:db8:2::1"} {
				found := false
				for _, a := range addresses {
					found = found || a.IP.Equal(net.ParseIP(wanted))
				}
				if !found {
					return errors.New(wanted)
				}
			}
			return nil
		})
		return err == nil
	}
	for !moved() {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-p.ctx.Done():
			t.Fatalf("%s never took the addresses over", g.host.Name())
		}
	}
}
