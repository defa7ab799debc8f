package netlab

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket/pcapgo"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// userVariable makes a second run of the test binary enter a user namespace.
const userVariable = "NETLAB_TEST_USER_NAMESPACE"

func TestMain(m *testing.M) {
	options := Options{UserNamespace: os.Getenv(userVariable) != ""}
	code, err := Enter(options, func() int {
		if os.Getenv("NETLAB_TEST_EXIT") != "" {
			code, _ := strconv.Atoi(os.Getenv("NETLAB_TEST_EXIT"))
			return code
		}
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

func routed(t *testing.T) *Network {
	t.Helper()
	n, err := NewRouted()
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

// say sends the text from the client to a listener on the server and returns
// what arrived and from whom.
func say(t *testing.T, n *Network, from, to netip.AddrPort, text string) (string, netip.AddrPort) {
	t.Helper()
	listener, err := n.Server.Listen(to)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	type arrival struct {
		text string
		peer net.Addr
	}
	heard := make(chan arrival, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			heard <- arrival{text: err.Error()}
			return
		}
		defer conn.Close()
		all, _ := io.ReadAll(conn)
		heard <- arrival{string(all), conn.RemoteAddr()}
	}()
	conn, err := n.Client.Dial(within(t, 10*time.Second), from, to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	got := <-heard
	if got.peer == nil {
		t.Fatal(got.text)
	}
	return got.text, got.peer.(*net.TCPAddr).AddrPort()
}

func TestTheClientReachesTheServerThroughTheGateway(t *testing.T) {
	n := routed(t)
	for _, row := range []struct{ from, to netip.AddrPort }{
		{netip.AddrPortFrom(n.Client4, 40000), netip.AddrPortFrom(n.Server4, 25)},
		{netip.AddrPortFrom(n.Client6, 40000), netip.AddrPortFrom(n.Server6, 25)},
	} {
		text, peer := say(t, n, row.from, row.to, "hello")
		if text != "hello" || peer != row.from {
			t.Errorf("server heard %q from %s, want %q from %s", text, peer, "hello", row.from)
		}
	}
}

func TestFurtherAddressesOfTheServerAreReachedAtOnce(t *testing.T) {
	n := routed(t)
	more := []netip.Prefix{netip.MustParsePrefix("203.0.113.30/24"), netip.MustParsePrefix("2001:db8:2::30/64")}
	if err := n.Server.AddAddress("eth0", more...); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range more {
		if text, _ := say(t, n, netip.AddrPort{}, netip.AddrPortFrom(prefix.Addr(), 25), "x"); text != "x" {
			t.Errorf("%s heard %q", prefix, text)
		}
	}
}

func TestBridgedHostsSpeakWithoutTheGatewaysHelp(t *testing.T) {
	n, err := NewBridged()
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	for _, server := range []netip.Addr{n.Server4, n.Server6} {
		if text, _ := say(t, n, netip.AddrPort{}, netip.AddrPortFrom(server, 25), "x"); text != "x" {
			t.Errorf("%s heard %q", server, text)
		}
	}
}

func TestSysctlsBelongToOneHost(t *testing.T) {
	n := routed(t)
	if err := n.Gateway.Sysctl("net.ipv4.ip_local_port_range", "50000 50009"); err != nil {
		t.Fatal(err)
	}
	for host, want := range map[*Host]bool{n.Gateway: true, n.Client: false, n.Server: false} {
		err := host.Do(func() error {
			value, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
			if got := strings.Join(strings.Fields(string(value)), " ") == "50000 50009"; got != want {
				t.Errorf("host %s: port range %q", host.Name(), value)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	if err := n.Gateway.Sysctl("kernel.pid_max", "1000"); err == nil {
		t.Error("a sysctl of the whole machine was accepted")
	}
}

func TestDoReturnsTheThreadToWhereItWas(t *testing.T) {
	n := routed(t)
	before := here(t)
	inside := ""
	for range 100 {
		err := n.Client.Do(func() error {
			inside = here(t)
			return n.Server.Do(func() error {
				if here(t) == inside {
					t.Error("a nested Do stayed in the outer host")
				}
				return nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		if inside == before {
			t.Fatal("Do ran outside the host")
		}
		runtime.Gosched()
		if now := here(t); now != before {
			t.Fatalf("a thread came back in %s, want %s", now, before)
		}
	}
}

func here(t *testing.T) string {
	ns, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Error(err)
	}
	return ns
}

func TestDoReportsAFunctionThatEndsItsGoroutine(t *testing.T) {
	n := routed(t)
	err := n.Client.Do(func() error { runtime.Goexit(); return nil })
	if err == nil || !strings.Contains(err.Error(), "ended its goroutine") {
		t.Errorf("got %v", err)
	}
}

func TestProgramsRunInsideTheirHost(t *testing.T) {
	n := routed(t)
	command := n.Server.Command(within(t, 10*time.Second), "readlink", "/proc/self/ns/net")
	var out bytes.Buffer
	command.Stdout = &out
	if err := n.Server.Run(command); err != nil {
		t.Fatal(err)
	}
	want := ""
	if err := n.Server.Do(func() error { want = here(t); return nil }); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(out.String()); got != want {
		t.Errorf("the program ran in %s, the host is %s", got, want)
	}
}

func TestProgramsDieWithTheirHost(t *testing.T) {
	host, err := NewHost("short")
	if err != nil {
		t.Fatal(err)
	}
	command := host.Command(context.Background(), "sleep", "600")
	if err := host.Start(command); err != nil {
		t.Fatal(err)
	}
	if err := host.Close(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := command.Wait(); !errors.As(err, &exit) {
		t.Fatalf("got %v", err)
	}
	if status := exit.Sys().(syscall.WaitStatus); status.Signal() != unix.SIGKILL {
		t.Errorf("ended by %v", status)
	}
	if err := host.Start(host.Command(context.Background(), "true")); err == nil {
		t.Error("a closed host started a program")
	}
}

func TestACaptureHasEveryByteThatCrossed(t *testing.T) {
	n := routed(t)
	var file bytes.Buffer
	capture, err := n.Gateway.Capture("wan0", &file)
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("0123456789abcdef", 1<<14) // 256 KiB: many segments
	from, to := netip.AddrPortFrom(n.Client6, 41000), netip.AddrPortFrom(n.Server6, 25)
	if text, _ := say(t, n, from, to, long); text != long {
		t.Fatalf("server heard %d bytes", len(text))
	}
	packets, err := capture.Stop()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, stream := range Streams(packets) {
		if stream.Flow == (Flow{from, to}) {
			found = true
			if !stream.Complete || string(stream.Data) != long {
				t.Errorf("captured %d bytes, complete %v", len(stream.Data), stream.Complete)
			}
		}
	}
	if !found {
		t.Errorf("no stream %s > %s in %d packets", from, to, len(packets))
	}
	reader, err := pcapgo.NewReader(&file)
	if err != nil {
		t.Fatal(err)
	}
	for i := range packets {
		data, _, err := reader.ReadPacketData()
		if err != nil || !bytes.Equal(data, packets[i].Data) {
			t.Fatalf("packet %d of the pcap file differs: %v", i, err)
		}
	}
	if _, _, err := reader.ReadPacketData(); err != io.EOF {
		t.Errorf("the pcap file goes on: %v", err)
	}
}

func TestStreamsPutSegmentsBackInOrder(t *testing.T) {
	flow := Flow{netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:25")}
	for _, row := range []struct {
		name     string
		first    uint32
		pieces   []piece
		data     string
		complete bool
	}{
		{"nothing", 1, nil, "", true},
		{"in order", 1, []piece{{0, []byte("ab")}, {2, []byte("cd")}}, "abcd", true},
		{"out of order", 1, []piece{{2, []byte("cd")}, {0, []byte("ab")}}, "abcd", true},
		{"sent again", 1, []piece{{0, []byte("ab")}, {0, []byte("ab")}, {1, []byte("bc")}}, "abc", true},
		{"a gap", 1, []piece{{0, []byte("ab")}, {3, []byte("d")}}, "ab", false},
		{"older than the start", 1, []piece{{0, []byte("b")}, {-1, []byte("a")}}, "ab", true},
	} {
		a := &assembly{flow: flow, first: row.first, pieces: row.pieces}
		got := a.join()
		if string(got.Data) != row.data || got.Complete != row.complete {
			t.Errorf("%s: %q, complete %v", row.name, got.Data, got.Complete)
		}
	}
}

func TestTheLabHasItsOwnRunAndResolver(t *testing.T) {
	if err := SetResolver("nameserver 203.0.113.53\n"); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	} else if err == nil {
		text, err := os.ReadFile(resolverPath)
		if err != nil || string(text) != "nameserver 203.0.113.53\n" {
			t.Errorf("%s says %q, %v", resolverPath, text, err)
		}
	}
	var stat unix.Statfs_t
	if err := unix.Statfs("/run", &stat); err != nil || stat.Type != unix.TMPFS_MAGIC {
		t.Errorf("/run: type %x, %v", stat.Type, err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil || lo.Attrs().Flags&net.FlagUp == 0 {
		t.Errorf("lo is down: %v", err)
	}
}

func TestTCPSegmentRefusesWhatIsNotTCP(t *testing.T) {
	for _, frame := range [][]byte{nil, {1}, make([]byte, 14), make([]byte, 60)} {
		if _, _, ok := TCPSegment(frame); ok {
			t.Errorf("% x was taken for TCP", frame)
		}
	}
}
