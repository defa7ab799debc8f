package dnslab_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"postern/proxy/proxytest/dnslab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ask(t *testing.T, at netip.AddrPort, name string, kind uint16) *dns.Msg {
	t.Helper()
	query := new(dns.Msg)
	query.SetQuestion(name, kind)
	query.AuthenticatedData = true
	client := dns.Client{Timeout: 20 * time.Second}
	reply, _, err := client.Exchange(query, at.String())
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return reply
}

func start(t *testing.T) *dnslab.Lab {
	return dnslab.Start(t,
		dnslab.Zone{Name: "signed.test", Signed: true, Records: []string{"mx A 192.0.2.1", "away CNAME mx.plain.test."}},
		dnslab.Zone{Name: "plain.test", Records: []string{"mx 7 A 192.0.2.2"}},
		dnslab.Zone{Name: "bogus.test", Bogus: true, Records: []string{"mx A 192.0.2.3"}})
}

func TestTheResolverSecuresWhatIsSignedAndRefusesWhatIsBogus(t *testing.T) {
	t.Parallel()
	lab := start(t)
	for _, tc := range []struct {
		name    string
		rcode   int
		secure  bool
		answers int
	}{
		{"mx.signed.test.", dns.RcodeSuccess, true, 1},
		{"none.signed.test.", dns.RcodeNameError, true, 0},
		{"ns.signed.test.", dns.RcodeSuccess, true, 1},
		{"away.signed.test.", dns.RcodeSuccess, false, 2},
		{"mx.plain.test.", dns.RcodeSuccess, false, 1},
		{"none.plain.test.", dns.RcodeNameError, false, 0},
		{"mx.bogus.test.", dns.RcodeServerFailure, false, 0},
		{"mx.example.org.", dns.RcodeNameError, false, 0},
	} {
		reply := ask(t, lab.Resolver(), tc.name, dns.TypeA)
		if reply.Rcode != tc.rcode || reply.AuthenticatedData != tc.secure || len(reply.Answer) != tc.answers {
			t.Errorf("%s: %v", tc.name, reply)
		}
	}
	if reply := ask(t, lab.Server(), "mx.signed.test.", dns.TypeA); !reply.Authoritative || reply.RecursionAvailable {
		t.Error(reply)
	}
}

func TestAnUpdateIsSeenAtOnce(t *testing.T) {
	t.Parallel()
	lab := start(t)
	for i, address := range []string{"198.51.100.1", "198.51.100.2"} {
		ask(t, lab.Resolver(), "mx.signed.test.", dns.TypeA)
		if i == 0 && ask(t, lab.Resolver(), "new.signed.test.", dns.TypeA).Rcode != dns.RcodeNameError {
			t.Error("it is there before it is")
		}
		lab.Update("signed.test", "mx A "+address, "new A "+address)
		for _, name := range []string{"mx.signed.test.", "new.signed.test."} {
			reply := ask(t, lab.Resolver(), name, dns.TypeA)
			if len(reply.Answer) != 1 || !strings.HasSuffix(reply.Answer[0].String(), address) || !reply.AuthenticatedData {
				t.Error(reply)
			}
		}
	}
}

func TestADeadZonesServerAnswersNothing(t *testing.T) {
	t.Parallel()
	lab := dnslab.Start(t, dnslab.Zone{Name: "dead.test", Signed: true, Dead: true}, dnslab.Zone{Name: "plain.test"})
	query := new(dns.Msg)
	query.SetQuestion("mx.dead.test.", dns.TypeA)
	client := dns.Client{Timeout: 300 * time.Millisecond}
	var timeout net.Error
	if reply, _, err := client.Exchange(query, lab.Resolver().String()); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("%v, %v", reply, err)
	}
}

func TestWhoIsStoppedListensNoMore(t *testing.T) {
	t.Parallel()
	lab := start(t)
	lab.StopResolver()
	if conn, err := net.Dial("tcp", lab.Resolver().String()); err == nil {
		conn.Close()
		t.Error("the resolver listens")
	}
	lab.StopResolver()
	lab.Update("signed.test", "mx A 198.51.100.1")
	lab.Stop()
	lab.Stop()
	if conn, err := net.Dial("tcp", lab.Server().String()); err == nil {
		conn.Close()
		t.Error("the server listens")
	}
}

// A place like a host of a network lab.
type place struct{ started []string }

func (p *place) Do(f func() error) error { return f() }

func (p *place) Start(command *exec.Cmd) error {
	p.started = append(p.started, command.Path)
	command.SysProcAttr = nil
	return command.Start()
}

func TestTheResolverListensWhereItIsTold(t *testing.T) {
	t.Parallel()
	free, err := new(net.ListenConfig).Listen(context.Background(), "tcp4", "127.0.0.99:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(free.Addr().String())
	free.Close()
	var p place
	lab := dnslab.Options{Listen: at, Place: &p}.Start(t, dnslab.Zone{Name: "signed.test", Signed: true})
	if reply := ask(t, at, "ns.signed.test.", dns.TypeA); lab.Resolver() != at || !reply.AuthenticatedData {
		t.Error(lab.Resolver(), reply)
	}
	if len(p.started) != 2 || p.started[0] != "/usr/sbin/knotd" || filepath.Base(p.started[1]) != "unbound" {
		t.Error(p.started)
	}
}

func TestNothingIsLeftOfALab(t *testing.T) {
	own, err := os.MkdirTemp("", "left") // short, as a socket's name has to be
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(own)
	t.Setenv("TMPDIR", own)
	t.Run("lab", func(t *testing.T) {
		start(t)
		if there, _ := os.ReadDir(own); len(there) != 1 {
			t.Error("it is not where this test looks")
		}
	})
	if left, _ := os.ReadDir(own); len(left) > 0 {
		t.Error(left)
	}
}
