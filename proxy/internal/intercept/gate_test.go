package intercept

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAnInheritedSocketMustBeTransparentForTProxy(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		plain, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer plain.Close()
		gate := gateOf(t, tproxyPlan())
		if err := gate.Adopt(plain.(*net.TCPListener)); !errors.Is(err, ErrNotTransparent) ||
			!strings.Contains(err.Error(), "Transparent=yes") {
			t.Errorf("%s: %v", address, err)
		}
		if err := gateOf(t, redirectPlan()).Adopt(plain.(*net.TCPListener)); err != nil {
			t.Errorf("%s under redirect: %v", address, err)
		}
		ours, err := gate.Listen(context.Background(), netip.MustParseAddrPort(address))
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		if err := gate.Adopt(ours); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// inherit hands a listener over as systemd does: as a file.
func inherit(t *testing.T, listener *net.TCPListener) *net.TCPListener {
	t.Helper()
	file, err := listener.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	inherited, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	return inherited.(*net.TCPListener)
}

func TestInheritedSocketsServeBothMethodsAndOneSocketBothFamilies(t *testing.T) {
	for _, plan := range []Plan{tproxyPlan(), redirectPlan()} {
		t.Run(string(plan.Method), func(t *testing.T) {
			n := routed(t)
			up(t, n.Gateway, plan)
			r := startRelay(t, n.Gateway, plan)
			r.stopListening()
			for i, address := range plan.Listen {
				opened := inherit(t, openOutside(t, n.Gateway.Do, plan.Method == TProxy, address))
				if err := r.gate.Adopt(opened); err != nil {
					t.Fatal(err)
				}
				r.listeners[i] = opened
				r.wg.Go(func() { r.accept(opened) })
			}
			families(t, n, func(t *testing.T, client, server netip.Addr) {
				echo(t, n.Server, at(server, smtp))
				v := mustCall(t, n.Client, anyPort, at(server, smtp))
				arrival := <-r.arrivals
				if arrival.Client != v.local || arrival.Destination != at(server, smtp) || arrival.Interface != "lan0" {
					t.Errorf("arrived %+v", arrival)
				}
			})
		})
	}
	t.Run("v4-mapped", func(t *testing.T) {
		n := routed(t)
		plan := redirectPlan()
		up(t, n.Gateway, plan)
		r := startRelay(t, n.Gateway, plan)
		r.stopListening()
		// One IPv6 socket for both families, as systemd opens it by default.
		var dual *net.TCPListener
		err := n.Gateway.Do(func() error {
			var config net.ListenConfig
			config.SetMultipathTCP(false)
			listener, err := config.Listen(context.Background(), "tcp", "[::]:2525")
			if err == nil {
				dual = listener.(*net.TCPListener)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.gate.Adopt(dual); err != nil {
			t.Fatal(err)
		}
		r.listeners = []*net.TCPListener{dual}
		r.wg.Go(func() { r.accept(dual) })
		families(t, n, func(t *testing.T, client, server netip.Addr) {
			echo(t, n.Server, at(server, smtp))
			v := mustCall(t, n.Client, anyPort, at(server, smtp))
			arrival := <-r.arrivals
			if arrival.Client != v.local || arrival.Destination != at(server, smtp) || arrival.Interface != "lan0" {
				t.Errorf("arrived %+v", arrival)
			}
		})
	})
}

// openOutside opens a socket without any help of a Gate.
func openOutside(t *testing.T, do func(func() error) error, transparent bool, address netip.AddrPort) *net.TCPListener {
	t.Helper()
	var listener *net.TCPListener
	err := do(func() error {
		domain := unix.AF_INET6
		if address.Addr().Is4() {
			domain = unix.AF_INET
		}
		fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		options := []error{unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)}
		if domain == unix.AF_INET6 {
			options = append(options, unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_V6ONLY, 1))
		}
		if transparent {
			options = append(options, unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1))
		}
		if err := errors.Join(append(options, unix.Bind(fd, sockaddr(address)), unix.Listen(fd, 16))...); err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		listener, err = fileListener(fd)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

func fileListener(fd int) (*net.TCPListener, error) {
	file := os.NewFile(uintptr(fd), "listener")
	defer file.Close()
	listener, err := net.FileListener(file)
	if err != nil {
		return nil, err
	}
	return listener.(*net.TCPListener), nil
}

// withCapabilities runs f on a thread that has only these, and throws the
// thread away.
func withCapabilities(t *testing.T, f func() error, capabilities ...uint) error {
	t.Helper()
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		result <- withCapabilitiesHere(f, capabilities...)
	}()
	return <-result
}

// withCapabilitiesHere does so on the calling thread, which gets them back.
func withCapabilitiesHere(f func() error, capabilities ...uint) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var all, few [2]unix.CapUserData
	if err := unix.Capget(&header, &all[0]); err != nil {
		return err
	}
	for i := range few {
		few[i].Permitted = all[i].Permitted
	}
	for _, c := range capabilities {
		few[c/32].Effective |= 1 << (c % 32)
	}
	if err := unix.Capset(&header, &few[0]); err != nil {
		return err
	}
	return errors.Join(f(), unix.Capset(&header, &all[0]))
}

func TestCheckSaysWhichCapabilityIsMissingAndWhatFor(t *testing.T) {
	tproxy := func() error { return Check(TProxy, true) }
	for _, enough := range []uint{unix.CAP_NET_RAW, unix.CAP_NET_ADMIN} {
		if err := withCapabilities(t, tproxy, enough); err != nil {
			t.Errorf("with capability %d: %v", enough, err)
		}
	}
	err := withCapabilities(t, tproxy)
	if !errors.Is(err, ErrPrivilege) || !strings.Contains(err.Error(), "CAP_NET_RAW") ||
		!strings.Contains(err.Error(), "transparent sockets") {
		t.Errorf("without any: %v", err)
	}
	for _, method := range []Method{Redirect, None} {
		if err := withCapabilities(t, func() error { return Check(method, false) }); err != nil {
			t.Errorf("%s: %v", method, err)
		}
	}
	if err := Check("magic", false); err == nil {
		t.Error("an unknown method was accepted")
	}
}

func TestWithoutTheCapabilityListeningDiallingAndUpSayWhatIsMissing(t *testing.T) {
	gate := gateOf(t, tproxyPlan())
	for what, f := range map[string]func() error{
		"listen": func() error {
			_, err := gate.Listen(context.Background(), netip.MustParseAddrPort("127.0.0.1:0"))
			return err
		},
		"dial": func() error {
			_, err := gate.Dial(within(t, patience), Arrival{Client: netip.MustParseAddrPort("10.1.0.2:1")}, netip.MustParseAddrPort("127.0.0.1:25"))
			return err
		},
		"up":   func() error { _, err := tproxyPlan().Up(); return err },
		"show": func() error { _, err := tproxyPlan().Show(); return err },
		"down": func() error { _, err := Down(context.Background(), Removal{}); return err },
	} {
		if err := withCapabilities(t, f); !errors.Is(err, ErrPrivilege) || !strings.Contains(err.Error(), "CAP_NET_") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestTheDaemonNeedsNothingButCapNetRaw(t *testing.T) {
	n := routed(t)
	plan := tproxyPlan()
	up(t, n.Gateway, plan)
	families(t, n, func(t *testing.T, client, server netip.Addr) {
		echo(t, n.Server, at(server, smtp))
		gate := gateOf(t, plan)
		own, _ := plan.listener(client.Is4())
		arrived := make(chan error, 1)
		err := n.Gateway.Do(func() error {
			limited := func(f func() error) error { return withCapabilitiesHere(f, unix.CAP_NET_RAW) }
			return limited(func() error {
				listener, err := gate.Listen(context.Background(), own)
				if err != nil {
					return err
				}
				defer listener.Close()
				go func() {
					v, err := call(n.Client, anyPort, at(server, smtp))
					if err == nil {
						err = v.Close()
					}
					arrived <- err
				}()
				conn, err := listener.AcceptTCP()
				if err != nil {
					return err
				}
				defer conn.Close()
				arrival, err := gate.Arrive(conn)
				if err != nil {
					return err
				}
				if arrival.Interface != "lan0" {
					t.Errorf("interface %q", arrival.Interface)
				}
				upstream, err := gate.Dial(within(t, patience), arrival, arrival.Destination)
				if err != nil {
					return err
				}
				go pump(conn, upstream)
				if err := <-arrived; err != nil {
					return err
				}
				return upstream.Close()
			})
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestAGateForRedirectCannotPreserveTheSource(t *testing.T) {
	for _, method := range []Method{Redirect, None, "magic"} {
		if _, err := NewGate(Options{Method: method, PreserveSource: true}); err == nil {
			t.Errorf("%s was accepted", method)
		}
	}
}
