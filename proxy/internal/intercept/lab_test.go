package intercept

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"postern/proxy/proxytest/mta"
	"postern/proxy/proxytest/netlab"
)

// userVariable makes a second run of the test binary enter a user namespace.
const userVariable = "INTERCEPT_TEST_USER_NAMESPACE"

// The tests put real packets through the rules, in network namespaces.
func TestMain(m *testing.M) {
	options := netlab.Options{UserNamespace: os.Getenv(userVariable) != ""}
	code, err := enter(options, func() int {
		code := m.Run()
		if fuzzing := flag.Lookup("test.fuzz").Value.String() != ""; fuzzing {
			return code // the fuzzer's own goroutines may outlive it
		}
		if err := goleak.Find(); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// enter has an ordinary user bring more ids than one, where there are some, for
// connections of several users are told apart.
func enter(options netlab.Options, run func() int) (int, error) {
	if options.UserNamespace {
		return netlab.Enter(options, run)
	}
	code, err := mta.Enter(options, run)
	if missing := (*mta.MissingError)(nil); errors.As(err, &missing) {
		return netlab.Enter(options, run)
	}
	return code, err
}

const smtp = 25

// families runs the test with the addresses of each.
func families(t *testing.T, n *netlab.Network, test func(t *testing.T, client, server netip.Addr)) {
	t.Helper()
	t.Run("IPv4", func(t *testing.T) { test(t, n.Client4, n.Server4) })
	t.Run("IPv6", func(t *testing.T) { test(t, n.Client6, n.Server6) })
}

func routed(t *testing.T) *netlab.Network {
	t.Helper()
	n, err := netlab.NewRouted()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// tproxyPlan and redirectPlan are the plans that most tests vary.
func tproxyPlan() Plan {
	return Plan{
		Method: TProxy, Interfaces: []string{"lan0"}, Ports: []uint16{smtp}, WhenDown: Block,
		Listen:         []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:2525"), netip.MustParseAddrPort("[::1]:2525")},
		PreserveSource: true,
	}
}

func redirectPlan() Plan {
	p := tproxyPlan()
	p.Method, p.PreserveSource = Redirect, false
	p.Listen = []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:2525"), netip.MustParseAddrPort("[::]:2525")}
	return p
}

func up(t *testing.T, host *netlab.Host, p Plan) Report {
	t.Helper()
	var report Report
	err := host.Do(func() (err error) {
		report, err = p.Up()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func show(t *testing.T, host *netlab.Host, p Plan) State {
	t.Helper()
	var state State
	err := host.Do(func() (err error) {
		state, err = p.Show()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// relay is the smallest daemon: it copies between its two legs.
type relay struct {
	host *netlab.Host
	uid  int // whom it dials as
	gate *Gate
	// connect limits dialling, a time.Duration.
	connect atomic.Int64

	mu        sync.Mutex
	listeners []*net.TCPListener
	conns     []*net.TCPConn
	wg        sync.WaitGroup

	arrivals chan Arrival
	refused  chan error
}

func gateOf(t *testing.T, p Plan) *Gate {
	t.Helper()
	gate, err := NewGate(Options{Method: p.Method, PreserveSource: p.PreserveSource})
	if err != nil {
		t.Fatal(err)
	}
	return gate
}

// startRelay listens as the plan says. It is stopped at the end of the test.
func startRelay(t *testing.T, host *netlab.Host, p Plan) *relay {
	t.Helper()
	return startRelayAs(t, host, p, os.Geteuid())
}

func startRelayAs(t *testing.T, host *netlab.Host, p Plan, uid int) *relay {
	t.Helper()
	if err := asUser(uid, func() error { return nil }); err != nil {
		if os.Getenv("CI") == "" {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	r := &relay{
		host: host, uid: uid, gate: gateOf(t, p),
		arrivals: make(chan Arrival, 10000), refused: make(chan error, 10000),
	}
	r.connect.Store(int64(patience))
	for _, address := range p.Listen {
		err := host.Do(func() error {
			listener, err := r.gate.Listen(context.Background(), address)
			if err == nil {
				r.listeners = append(r.listeners, listener)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, listener := range r.listeners {
		r.wg.Go(func() { r.accept(listener) })
	}
	t.Cleanup(r.kill)
	return r
}

func (r *relay) accept(listener *net.TCPListener) {
	for {
		conn, err := listener.AcceptTCP()
		if err != nil {
			return
		}
		r.keep(conn)
		r.wg.Go(func() {
			if err := r.serve(conn); err != nil {
				r.refused <- err
			}
		})
	}
}

func (r *relay) keep(conn *net.TCPConn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns = append(r.conns, conn)
}

func (r *relay) serve(client *net.TCPConn) error {
	defer client.Close()
	arrival, err := r.gate.Arrive(client)
	if err != nil {
		return err
	}
	r.arrivals <- arrival
	var upstream *net.TCPConn
	err = r.host.Do(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.connect.Load()))
		defer cancel()
		return asUser(r.uid, func() error {
			upstream, err = r.gate.Dial(ctx, arrival, arrival.Destination)
			return err
		})
	})
	if err != nil {
		return err
	}
	defer upstream.Close()
	r.keep(upstream)
	var wg sync.WaitGroup
	wg.Go(func() { pump(upstream, client) })
	wg.Go(func() { pump(client, upstream) })
	wg.Wait()
	return nil
}

func pump(to, from *net.TCPConn) {
	_, _ = io.Copy(to, from)
	_ = to.CloseWrite()
}

// stopListening closes the listeners and lets connections go on, as a drain
// does.
func (r *relay) stopListening() {
	for _, listener := range r.listeners {
		_ = listener.Close()
	}
}

// kill ends it as a crash does: all sockets close at once.
func (r *relay) kill() {
	r.stopListening()
	r.mu.Lock()
	for _, conn := range r.conns {
		_ = conn.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
}

// echo is a server that says whom it sees and then repeats what it is told,
// until it is told to quit.
func echo(t *testing.T, host *netlab.Host, address netip.AddrPort) *net.TCPListener {
	t.Helper()
	listener, err := host.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.AcceptTCP()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(time.Minute))
				fmt.Fprintf(conn, "%s\n", conn.RemoteAddr())
				repeat(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		wg.Wait()
	})
	return listener
}

const quit = "quit"

// repeat gives back what it gets, line by line, up to and including quit.
func repeat(conn io.ReadWriter) {
	reader := bufio.NewReader(conn)
	for {
		line, err := reader.ReadString('\n')
		if _, writeErr := io.WriteString(conn, line); err != nil || writeErr != nil || line == quit+"\n" {
			return
		}
	}
}

// visit is a client's connection to an echo server.
type visit struct {
	*net.TCPConn
	reader *bufio.Reader
	local  netip.AddrPort
	// seen is whom the server sees.
	seen netip.AddrPort
}

const patience = 15 * time.Second

func call(host *netlab.Host, from, to netip.AddrPort) (*visit, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := host.Dial(ctx, from, to)
	if err != nil {
		return nil, err
	}
	return greeted(conn)
}

// greeted reads whom the server sees.
func greeted(conn *net.TCPConn) (*visit, error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	v := &visit{TCPConn: conn, reader: bufio.NewReader(conn), local: conn.LocalAddr().(*net.TCPAddr).AddrPort()}
	line, err := v.reader.ReadString('\n')
	if err == nil {
		v.seen, err = netip.ParseAddrPort(strings.TrimSpace(line))
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return v, nil
}

// mustCall also proves that bytes pass both ways, and closes at the test's end.
func mustCall(t *testing.T, host *netlab.Host, from, to netip.AddrPort) *visit {
	t.Helper()
	v, err := call(host, from, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	if err := v.say("hello"); err != nil {
		t.Fatal(err)
	}
	return v
}

// say proves that the connection carries bytes, both ways.
func (v *visit) say(text string) error {
	if err := v.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(v, text+"\n"); err != nil {
		return err
	}
	line, err := v.reader.ReadString('\n')
	if err == nil && line != text+"\n" {
		err = fmt.Errorf("said %q, heard %q", text, line)
	}
	return err
}

// wasIntercepted tells a relayed connection from a direct one: the upstream leg
// never has the client leg's port.
func (v *visit) wasIntercepted() bool { return v.seen != v.local }

// serverCloses has the server, and so the relay, close first: the client leg is
// then in TIME_WAIT on the gateway. The client's own socket ends at once.
func (v *visit) serverCloses() error {
	if err := v.say(quit); err != nil {
		return err
	}
	if _, err := v.reader.ReadByte(); err != io.EOF {
		return fmt.Errorf("after %s: %v, want the end", quit, err)
	}
	return v.Close()
}

func at(address netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(address, port) }

var anyPort netip.AddrPort
