package service

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// With this variable the test binary is the program that inherits: it says what
// it got. LISTEN_PID can only be known once the process runs.
const heir = "POSTERN_TEST_HEIR"

func TestMain(m *testing.M) {
	if os.Getenv(heir) == "" {
		goleak.VerifyTestMain(m) // exits
	}
	if os.Getenv(heir) == "me" {
		os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	}
	listeners, err := Inherited()
	if err != nil {
		fmt.Println("error:", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	for _, l := range listeners {
		fmt.Println(l.Name, l.Addr())
		c, err := l.Accept()
		if err != nil {
			fmt.Println("accept:", err)
			continue
		}
		fmt.Fprintf(c, "from %s\n", l.Name)
		c.Close()
	}
	fmt.Printf("left: %q\n", os.Getenv("LISTEN_FDS")+os.Getenv("LISTEN_FDNAMES"))
}

type filer interface{ File() (*os.File, error) }

// inherit runs the heir with sockets and gives what it says.
func inherit(t *testing.T, whose, names string, sockets ...filer) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	// Under the race detector a process waits a second before it exits.
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", heir+"="+whose, "LISTEN_FDS="+strconv.Itoa(len(sockets)), "LISTEN_FDNAMES="+names, "LISTEN_PID=1")
	for _, s := range sockets {
		f, err := s.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func listenTCP(t *testing.T, address string) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

// connect opens a connection that waits in the socket for the heir.
func connect(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestSocketsAreInheritedInOrderWithTheirNames(t *testing.T) {
	a, b := listenTCP(t, "127.0.0.1:0"), listenTCP(t, "127.0.0.2:0")
	waiting := []net.Conn{connect(t, a), connect(t, b)}
	got := inherit(t, "me", "four:", a, b)
	want := fmt.Sprintf("four %s\nLISTEN_FD_4 %s\nleft: \"\"\n", a.Addr(), b.Addr())
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for i, name := range []string{"four", "LISTEN_FD_4"} {
		buf := make([]byte, 64)
		n, err := waiting[i].Read(buf)
		if err != nil || string(buf[:n]) != "from "+name+"\n" {
			t.Errorf("%q, %v", buf[:n], err)
		}
	}
}

func TestNothingIsInheritedThatWasMeantForAnother(t *testing.T) {
	if got := inherit(t, "another's", "four", listenTCP(t, "127.0.0.1:0")); got != "left: \"\"\n" {
		t.Errorf("%s", got)
	}
	if got := inherit(t, "me", ""); got != "left: \"\"\n" {
		t.Errorf("%s", got)
	}
}

func TestWhatIsNoListeningTCPSocketIsAnErrorAndAllAreClosed(t *testing.T) {
	l := listenTCP(t, "127.0.0.1:0")
	connection := connect(t, l).(*net.TCPConn)
	unixListener, err := net.ListenUnix("unix", &net.UnixAddr{Name: t.TempDir() + "/socket", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer unixListener.Close()
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	got := inherit(t, "me", "tcp:connection:unix:udp", l, connection, unixListener, udp)
	for _, part := range []string{
		"inherited socket 1 (connection): a socket that does not listen found, expected Accept=no",
		"inherited socket 2 (unix): a socket of unix found, expected TCP",
		"inherited socket 3 (udp): ",
		"left: \"\"",
	} {
		if !strings.Contains(got, part) {
			t.Errorf("%s\nsays nothing of %s", got, part)
		}
	}
	if strings.Contains(got, "tcp 127") || strings.Contains(got, "socket 0") {
		t.Errorf("%s\nand goes on", got)
	}
}
