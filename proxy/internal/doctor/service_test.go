package doctor

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"postern/proxy/internal/intercept"
	"postern/proxy/proxytest/netlab"
)

func TestInterceptionIsHeldAgainstTheConfiguration(t *testing.T) {
	n := network(t, netlab.NewRouted)
	p := tproxy()
	wants(t, examined(t, n.Gateway, p, "rules"), "problem: interception is not in force")
	wants(t, examined(t, n.Gateway, p, "listener"), "note: nothing listens on 127.0.0.1:2525 and [::1]:2525")
	up(t, n.Gateway, p)
	wants(t, examined(t, n.Gateway, p, "rules"))
	wants(t, examined(t, n.Gateway, p, "listener"), "problem: nothing listens on 127.0.0.1:2525 and [::1]:2525")
	p.Plan.Ports = []uint16{25, 587}
	wants(t, examined(t, n.Gateway, p, "rules"), "problem: interception is in force otherwise than configured: …")
	p = tproxy()
	p.Plan.Listen = p.Plan.Listen[:1]
	up(t, n.Gateway, p)
	wants(t, examined(t, n.Gateway, p, "rules"), "note: listen.addresses has no IPv6 address")
	p.Plan.WhenDown = intercept.Pass
	up(t, n.Gateway, p)
	wants(t, examined(t, n.Gateway, p, "rules"), "problem: listen.addresses has no IPv6 address")
	wants(t, examined(t, n.Gateway, Patient{Plan: intercept.Plan{Method: intercept.None}}, "rules"), "problem: interception is in force, and…")
	shell(t, n.Gateway, "nft flush chain inet postern prerouting; nft delete chain inet postern prerouting")
	wants(t, examined(t, n.Gateway, p, "rules"), "problem: the nftables table inet postern has no chain prerouting, so it was not made by intercept up")
}

func TestAnInputChainIsNamedWithTheCommandThatMendsIt(t *testing.T) {
	n := network(t, netlab.NewRouted)
	p := tproxy()
	shell(t, n.Gateway, `nft -f - <<'END'
table inet filter {
	chain input { type filter hook input priority 0; policy drop; ct state established accept; }
}
END
iptables -A INPUT -i lan0 -m limit --limit 5/second -j ACCEPT; iptables -A INPUT -j DROP; ip6tables -P INPUT DROP`)
	found := examined(t, n.Gateway, p, "input chains")
	wants(t, found, "problem: the input chain inet filter input drops new connections from lan0 (IPv4), …",
		"unknown: the input chain ip filter INPUT may drop new connections from lan0 (IPv4), …", "problem: the input chain ip6 filter INPUT drops …")
	for i, command := range []string{"nft 'insert rule inet filter input meta mark & 0x1000 == 0x1000 accept'", "iptables -I INPUT -m mark --mark 0x1000/0x1000 -j ACCEPT",
		"ip6tables -I INPUT -m mark --mark 0x1000/0x1000 -j ACCEPT"} {
		if !strings.HasPrefix(found[i].Mend[0], command+" # ") {
			t.Errorf("%q, expected %q", found[i].Mend, command)
		}
	}
	mend(t, n.Gateway, found)
	wants(t, examined(t, n.Gateway, p, "input chains"))
}

// occupy has another program than this one listen.
func occupy(t *testing.T, host *netlab.Host, address netip.AddrPort) {
	t.Helper()
	command := host.Command(within(t, long), "openssl", "s_server", "-nocert", "-www", "-accept", address.String())
	if err := host.Start(command); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	for deadline := time.Now().Add(long); ; {
		conn, err := host.Dial(within(t, time.Second), netip.AddrPort{}, address)
		if err == nil {
			_ = conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestAnotherProgramOnThePortIsNamed(t *testing.T) {
	n := network(t, netlab.NewRouted)
	p := tproxy()
	occupy(t, n.Gateway, p.Plan.Listen[0])
	found := examined(t, n.Gateway, p, "listener")
	wants(t, found, "problem: openssl (process …", "note: nothing listens on [::1]:2525")
	if !strings.HasSuffix(found[0].What, " listens on 127.0.0.1:2525, and Postern cannot listen on 127.0.0.1:2525") || !strings.HasPrefix(found[0].Mend[0], "systemctl status ") {
		t.Errorf("%+v", found[0])
	}
	wants(t, examined(t, n.Gateway, p, "capability"))
}

func TestASocketIsReadFromALineOfProc(t *testing.T) {
	host := func(address string) string {
		octets := netip.MustParseAddr(address).AsSlice()
		if littleEndian() {
			for at := 0; at < len(octets); at += 4 {
				octets[at], octets[at+1], octets[at+2], octets[at+3] = octets[at+3], octets[at+2], octets[at+1], octets[at]
			}
		}
		return strings.ToUpper(hex.EncodeToString(octets))
	}
	line := func(address, state string) string {
		return "   0: " + host(address) + ":09DD 00000000:0000 " + state + " 00000000:00000000 00:00000000 00000000     0        0 12345 1 0000000000000000 100 0 0 10 0"
	}
	for _, c := range []struct {
		line, want string
		takes      string
	}{
		{line("127.0.0.1", "0A"), "127.0.0.1:2525", "127.0.0.1:2525 0.0.0.0:2525"},
		{line("0.0.0.0", "0A"), "0.0.0.0:2525", "127.0.0.1:2525 0.0.0.0:2525"},
		{line("::1", "0A"), "[::1]:2525", "[::1]:2525 [::]:2525"},
		{line("::", "0A"), "[::]:2525", "[::1]:2525 [::]:2525"},
		{line("127.0.0.2", "0A"), "127.0.0.2:2525", "0.0.0.0:2525"},
		{line("127.0.0.1", "01"), "", ""},
		{"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode", "", ""},
		{"", "", ""},
		{"0: 7F:09DD 0:0 0A a b c d e f", "", ""},
	} {
		l, ok := listeningOf(c.line)
		if ok != (c.want != "") || ok && (l.address.String() != c.want || l.inode != "12345") {
			t.Errorf("%q: %+v, %t", c.line, l, ok)
		}
		for _, address := range []string{"127.0.0.1:2525", "[::1]:2525", "0.0.0.0:2525", "[::]:2525", "127.0.0.1:25"} {
			if takes := ok && l.takes(netip.MustParseAddrPort(address)); takes != slices.Contains(strings.Fields(c.takes), address) {
				t.Errorf("%s takes %s: %t", l.address, address, takes)
			}
		}
	}
}

func TestADaemonWithoutItsCapabilityIsSaid(t *testing.T) {
	for _, c := range []struct {
		name    string
		as      *syscall.SysProcAttr
		want    []string
		needsID bool
	}{
		{"with it", &syscall.SysProcAttr{}, nil, false},
		{"in a user namespace of its own", &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}}, []string{"has its privileges in a user namespace of its own"}, false},
		{"as nobody", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}, []string{"has no CAP_NET_RAW"}, true},
	} {
		command := exec.CommandContext(within(t, long), "sleep", "60")
		command.SysProcAttr = c.as
		if err := command.Start(); err != nil {
			if c.needsID && (errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EPERM)) {
				continue // a user namespace with one user
			}
			t.Fatalf("%s: %v", c.name, err)
		}
		found, err := able(processAt(fmt.Sprint("/proc/", command.Process.Pid)))
		if err != nil || len(found) != len(c.want) || len(found) > 0 && !strings.HasSuffix(found[0].What, c.want[0]) {
			t.Errorf("%s: %v, %+v", c.name, err, found)
		}
		_ = command.Process.Kill()
		_ = command.Wait()
	}
}

func TestCertificatesAreSpokenOfInTime(t *testing.T) {
	now := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		from, until time.Duration
		err         error
		want        []string
	}{
		{-time.Hour, 31 * 24 * time.Hour, nil, nil},
		{-time.Hour, 29 * 24 * time.Hour, nil, []string{`problem: the certificate "edge" expires on 2027-03-30`}},
		{-48 * time.Hour, -24 * time.Hour, nil, []string{`problem: the certificate "edge" expired on 2027-02-28`}},
		{24 * time.Hour, 1000 * time.Hour, nil, []string{`problem: the certificate "edge" is not valid before 2027-03-02`}},
		{0, 0, errors.New("no such file"), []string{`problem: the certificate "edge" cannot be used: no such file`}},
	} {
		e := &examination{Patient: Patient{Certificates: []Certificate{{Name: "edge", NotBefore: now.Add(c.from), NotAfter: now.Add(c.until), Err: c.err}}}, now: now, systemctl: noSystemd}
		wants(t, e.examine(context.Background(), []check{{"certificates", certificates}}), c.want...)
	}
}

func TestWhatTheServicesUserMayNotReadIsFoundOnTheWay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("the lab makes its user root")
	}
	who := account{name: "postern", group: "0", uid: 4711, gids: []uint32{0}}
	// The lab's own, which everybody may enter.
	parent, err := os.MkdirTemp("/run", "doctor")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(parent) })
	directory := filepath.Join(parent, "live")
	if err := errors.Join(os.Chmod(parent, 0o755), os.Mkdir(directory, 0o755)); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(directory, "key.pem")
	if err := os.WriteFile(key, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(filepath.Dir(directory), "link.pem")
	if err := os.Symlink(key, link); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		directory, key os.FileMode
		gid            uint32
		obstacle       string
	}{
		{0o755, 0o644, 7, ""}, {0o755, 0o640, 0, ""}, {0o755, 0o640, 7, key}, {0o755, 0o604, 0, key},
		{0o750, 0o644, 7, directory}, {0o750, 0o640, 0, ""}, {0o700, 0o644, 0, directory}, {0o701, 0o644, 7, ""},
	} {
		who.gids = []uint32{c.gid}
		if err := errors.Join(os.Chmod(directory, c.directory), os.Chmod(key, c.key)); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{key, link} {
			if obstacle, _, err := who.mayRead(path); err != nil || obstacle != c.obstacle {
				t.Errorf("%04o/%04o of group 0 to a member of %d: %q, %v; expected %q", c.directory, c.key, c.gid, obstacle, err, c.obstacle)
			}
		}
	}
	root := account{name: "root"}
	if obstacle, _, err := root.mayRead(filepath.Join(directory, "nothing")); obstacle != "" || err != nil {
		t.Errorf("root: %q, %v", obstacle, err)
	}
}

func TestAClockBeforeTheProgramWasBuiltIsWrong(t *testing.T) {
	e := &examination{Patient: Patient{Built: time.Now().Add(time.Hour)}, now: time.Now(), systemctl: noSystemd}
	wants(t, e.examine(context.Background(), []check{{"clock", clock}}), "problem: the clock says …")
}

// nameserver answers as a resolver does, with or without AD.
func nameserver(t *testing.T, host *netlab.Host, address string, code int, authentic bool) {
	t.Helper()
	var conn net.PacketConn
	err := host.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", net.JoinHostPort(address, "53"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		answer := new(dns.Msg).SetRcode(q, code)
		answer.AuthenticatedData = authentic && q.AuthenticatedData
		_ = w.WriteMsg(answer)
	})}
	started, ended := make(chan struct{}), make(chan error, 1)
	server.NotifyStartedFunc = func() { close(started) }
	go func() { ended <- server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() {
		_ = server.Shutdown()
		<-ended
	})
}

func TestAResolverThatDoesNotValidateIsNoted(t *testing.T) {
	n := network(t, netlab.NewRouted)
	nameserver(t, n.Gateway, "127.0.0.1", dns.RcodeSuccess, true)
	nameserver(t, n.Gateway, "127.0.0.2", dns.RcodeSuccess, false)
	nameserver(t, n.Gateway, "127.0.0.3", dns.RcodeServerFailure, false)
	nameserver(t, n.Server, n.Server4.String(), dns.RcodeSuccess, true)
	at := func(addresses ...string) (all []netip.AddrPort) {
		for _, a := range addresses {
			all = append(all, netip.AddrPortFrom(netip.MustParseAddr(a), 53))
		}
		return all
	}
	believes := func(a netip.AddrPort) bool { return a.Addr().IsLoopback() }
	for _, c := range []struct {
		servers  []netip.AddrPort
		demanded bool
		want     []string
	}{
		{at("127.0.0.1"), false, nil},
		{at("127.0.0.2", "127.0.0.1"), true, nil},
		{at("127.0.0.2"), false, []string{"note: the resolver 127.0.0.2 does not validate (no AD for a signed name)"}},
		{at("127.0.0.2"), true, []string{"problem: the resolver 127.0.0.2 does not validate (no AD for a signed name)"}},
		{at("127.0.0.3"), false, []string{"note: the resolver 127.0.0.3 gives no answer for a signed name: SERVFAIL"}},
		{at("127.0.0.4"), true, []string{"problem: the resolver 127.0.0.4 gives no answer for a signed name: connection refused"}},
		{at(n.Server4.String()), false, []string{"note: the resolver 203.0.113.2 validates, and is not believed: it is not on this machine"}},
		{nil, false, nil},
	} {
		p := tproxy()
		p.Resolver = Asked{Servers: c.servers, Believes: believes, Demanded: c.demanded}
		wants(t, examined(t, n.Gateway, p, "resolver"), c.want...)
	}
}

func TestAResolverThatSaysNothingIsNotWaitedForLong(t *testing.T) {
	n := network(t, netlab.NewRouted)
	p := tproxy()
	p.Resolver.Servers = []netip.AddrPort{netip.MustParseAddrPort("203.0.113.77:53")}
	began := time.Now()
	wants(t, examined(t, n.Gateway, p, "resolver"), "note: the resolver 203.0.113.77 gives no answer for a signed name: nothing came within 2s")
	if took := time.Since(began); took > 3*patience {
		t.Errorf("took %s", took)
	}
}

func TestUnitsAtTheStartLimitHaveAWayBack(t *testing.T) {
	const service, socket = "Id=postern.service\nLoadState=loaded\n", "\nId=postern.socket\nLoadState=loaded\n"
	for _, c := range []struct {
		said string
		want []string
	}{
		{"", nil},
		{"Id=postern.service\nLoadState=not-found\nActiveState=inactive\n", nil},
		{service + "ActiveState=active\nResult=success\nNRestarts=0\n" + socket + "ActiveState=active\nResult=success\n", nil},
		{service + "ActiveState=failed\nResult=exit-code\n" + socket + "ActiveState=failed\nResult=service-start-limit-hit\n", []string{"problem: postern.service failed so often that systemd starts it no more, and closed its socket"}},
		{service + "ActiveState=failed\nResult=exit-code\n" + socket + "ActiveState=active\nResult=success\n", []string{"problem: postern.service failed (exit-code)"}},
		{service + "ActiveState=active\nNRestarts=3\n", []string{"note: systemd has restarted postern.service 3 times"}},
		{"Id=postern-intercept.service\nActiveState=failed\nResult=exit-code\n", []string{"problem: postern-intercept.service failed (exit-code)"}},
		{"Id=postern.target\nActiveState=active\nUnitFileState=disabled\n", []string{"problem: postern.target is started, and not enabled"}},
		{"Id=postern.target\nActiveState=active\nUnitFileState=enabled\nNeedDaemonReload=yes\n", []string{"note: postern.target was changed since systemd read it"}},
	} {
		e := &examination{Patient: Patient{Plan: intercept.Plan{Method: intercept.None}}, now: time.Now(),
			systemctl: func(context.Context, ...string) ([]byte, error) { return []byte(c.said), nil }}
		found := e.examine(context.Background(), []check{{"units", units}})
		wants(t, found, c.want...)
		if strings.Contains(c.said, "start-limit") && found[0].Mend[1] != "systemctl reset-failed postern.service postern.socket && systemctl start postern.target" {
			t.Errorf("%q", found[0].Mend)
		}
	}
}
