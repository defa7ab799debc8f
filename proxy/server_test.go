package proxy_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"postern/enforce"
	"postern/proxy"
	"postern/proxy/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAFrontDeliversWithTLSOnBothLegs(t *testing.T) {
	f := newFront(t, "modern", nil)
	for _, d := range []proxytest.Delivery{
		{Mails: []proxytest.Mail{mail("in clear\r\n"), mail("second\r\n")}},
		{HELO: true, Mails: []proxytest.Mail{mail("by HELO\r\n")}},
		{STARTTLS: proxytest.AlwaysTLS, TLS: &tls.Config{RootCAs: f.pki.Pool(), ServerName: "edge.test"},
			Mails: []proxytest.Mail{{From: "", To: []string{"b@mx.test"}, Content: bytes.Repeat([]byte("0123456789abcde\x00\n"), 1<<16), Chunk: 70000}}},
	} {
		if r := proxytest.Deliver(f.dial(), d); !r.Accepted(d) {
			t.Errorf("%v\n%v", r.Err, r.Transcript)
		}
	}
	f.shutdown()
	for _, m := range f.to.Messages() {
		if !m.TLS {
			t.Errorf("message from %s reached the upstream in clear", m.From)
		}
	}
	if n := len(f.to.Messages()); n != 4 {
		t.Errorf("%d messages arrived", n)
	}
	all := f.log.sessions(t)
	if len(all) != 3 {
		t.Fatalf("%d records", len(all))
	}
	resumed := 0
	for _, r := range all {
		if up := r["upstream_tls"].(map[string]any); up["verified"] != true {
			t.Errorf("a session, resumed %v, is not verified: %v", up["resumed"], up["verify_error"])
		} else if up["resumed"] == true {
			resumed++
		}
	}
	if resumed == 0 {
		t.Error("no upstream session was resumed")
	}
}

func TestASessionTooManyIsTold421AndRecorded(t *testing.T) {
	for name, edit := range map[string]func(*proxy.Config){
		"in all":          func(c *proxy.Config) { c.Limits.Sessions = 2 },
		"from one source": func(c *proxy.Config) { c.Limits.SessionsPerSource = 2 },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFront(t, "modern", edit)
			one, two := f.client(), f.client()
			third := proxytest.NewClient(f.dial(), 10*time.Second)
			defer third.Close()
			if reply, err := third.ReadReply(); err != nil || reply.Code != 421 || !strings.Contains(reply.String(), "4.3.2") || !strings.Contains(reply.String(), "(overload)") {
				t.Errorf("%v, %v", reply, err)
			}
			one.Close()
			two.Close()
			f.shutdown()
			var reasons []string
			for _, r := range f.log.sessions(t) {
				reasons = append(reasons, fmt.Sprint(r["verdict"], " ", r["reason"]))
			}
			if got := strings.Join(reasons, ", "); strings.Count(got, "defer overload") != 1 || len(reasons) != 3 {
				t.Errorf("records: %s", got)
			}
		})
	}
}

func TestAReloadIsWholeOrNotAtAllAndRunningSessionsKeepWhatTheyBeganWith(t *testing.T) {
	f := newFront(t, "self-signed", nil)
	before := f.client()
	strict := f.config
	strict.Rules = []enforce.Rule{{Name: "all", TLS: enforce.Forced, Verify: enforce.VerifyCA, OnViolation: enforce.OnViolationReject}}

	broken := strict
	broken.TLS.Certificates = []proxy.Certificate{{Name: "edge", Cert: filepath.Join(t.TempDir(), "none.pem"), Key: "/none"}}
	if err := f.server.Reload(broken, f.log.logger()); err == nil || !strings.Contains(err.Error(), "tls.certificate[0]") {
		t.Fatalf("a configuration without its files: %v", err)
	}
	moved := strict
	moved.Listen.Addresses = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")}
	if err := f.server.Reload(moved, f.log.logger()); err == nil || !strings.Contains(err.Error(), "listen.addresses") {
		t.Fatalf("other sockets: %v", err)
	}
	if f.server.Generation() != 1 {
		t.Fatal("a reload that failed changed something")
	}
	f.client().Close() // still as before

	if err := f.server.Reload(strict, f.log.logger()); err != nil {
		t.Fatal(err)
	}
	after := proxytest.NewClient(f.dial(), 10*time.Second)
	defer after.Close()
	after.ReadReply()
	if reply, err := after.Hello("EHLO", "client.test"); err != nil || reply.Code != 554 {
		t.Errorf("under the new rules: %v, %v", reply, err)
	}
	if outcome, err := before.Send(mail("x\r\n")); err != nil || !outcome.Accepted() {
		t.Errorf("the session from before: %+v, %v", outcome, err)
	}
}

func TestAcceptingSurvivesAShortageOfDescriptors(t *testing.T) {
	f := newFront(t, "modern", nil)
	f.client().Close()
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	waiting := f.socketsBelow(was)
	time.AfterFunc(300*time.Millisecond, func() { syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was) })
	for _, conn := range waiting {
		c := proxytest.NewClient(conn, 20*time.Second)
		if reply, err := c.ReadReply(); err != nil || reply.Code != 220 {
			t.Errorf("%v, %v", reply, err)
		}
		c.Close()
	}
	f.log.mu.Lock()
	defer f.log.mu.Unlock()
	if !strings.Contains(f.log.b.String(), "accept failed") {
		t.Error("there was no shortage, the test shows nothing")
	}
}

// socketsBelow opens connections and then takes away the descriptors that
// accepting them would need.
func (f *front) socketsBelow(was syscall.Rlimit) (conns []net.Conn) {
	f.t.Helper()
	block := was
	block.Cur = 3
	// The limit bounds new descriptors by number, so those that are open stay.
	var dialled sync.WaitGroup
	all := make(chan net.Conn, 4)
	fds := make([]int, 4)
	for i := range fds {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			f.t.Fatal(err)
		}
		fds[i] = fd
	}
	to := netip.MustParseAddrPort(f.address)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &block); err != nil {
		f.t.Fatal(err)
	}
	for _, fd := range fds {
		if err := syscall.Connect(fd, &syscall.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
			f.t.Fatal(err)
		}
	}
	time.Sleep(50 * time.Millisecond) // the shortage has to be met, which nothing but the log tells
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		f.t.Fatal(err)
	}
	for _, fd := range fds {
		dialled.Go(func() {
			file := os.NewFile(uintptr(fd), "socket")
			defer file.Close()
			if c, err := net.FileConn(file); err == nil {
				all <- c
			}
		})
	}
	dialled.Wait()
	close(all)
	for c := range all {
		conns = append(conns, c)
	}
	return conns
}

func TestADrainLetsAMessageFinishAndRefusesNewConnections(t *testing.T) {
	f := newFront(t, "modern", nil)
	idle, busy := f.client(), f.client()
	for _, line := range []string{"MAIL FROM:<a@client.test>", "RCPT TO:<b@mx.test>", "DATA"} {
		if reply, err := busy.Command(line); err != nil || reply.Code >= 400 {
			t.Fatalf("%s: %v, %v", line, reply, err)
		}
	}
	done := make(chan struct{})
	go func() { defer close(done); f.shutdown() }()
	if reply, err := idle.ReadReply(); err != nil || reply.Code != 421 {
		t.Errorf("the idle one hears %v, %v", reply, err)
	}
	if conn, err := net.Dial("tcp", f.address); err == nil {
		conn.Close()
		t.Error("a connection is still accepted")
	}
	busy.Write([]byte("half "))
	busy.Write([]byte("and whole\r\n.\r\n"))
	if reply, err := busy.ReadReply(); err != nil || reply.Code != 250 {
		t.Errorf("the message: %v, %v", reply, err)
	}
	if reply, err := busy.ReadReply(); err != nil || reply.Code != 421 {
		t.Errorf("behind it: %v, %v", reply, err)
	}
	<-done
	if m := f.to.Messages(); len(m) != 1 || string(m[0].Content) != "half and whole\r\n" {
		t.Errorf("%+v", m)
	}
}

func TestTheDrainLimitEndsAStalledMessageAndNotAFinishedOne(t *testing.T) {
	f := newFront(t, "modern", func(c *proxy.Config) { c.Timeouts.Drain = 200 * time.Millisecond })
	release := make(chan struct{})
	stalled := f.client()
	for _, line := range []string{"MAIL FROM:<a@client.test>", "RCPT TO:<b@mx.test>", "DATA"} {
		if reply, err := stalled.Command(line); err != nil || reply.Code >= 400 {
			t.Fatalf("%s: %v, %v", line, reply, err)
		}
	}
	stalled.Write([]byte("half"))
	go func() { defer close(release); f.shutdown() }()
	if reply, err := stalled.ReadReply(); err != nil || reply.Code != 421 {
		t.Errorf("%v, %v", reply, err)
	}
	<-release
	if n := len(f.to.Messages()); n != 0 {
		t.Errorf("%d messages from half of one", n)
	}
}

func TestTheWatchdogsCheckPasses(t *testing.T) {
	f := newFront(t, "modern", nil)
	f.client().Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := f.server.Check(ctx); err != nil {
		t.Error(err)
	}
}
