package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"postern/cmd/internal/config"
	"postern/proxy/proxytest/netlab"
)

// paired writes a certificate and its key below a root, where people have them.
func paired(t *testing.T, root, cert, key, name string, from, until time.Time) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: from, NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// begun runs init on a host, and check on what it wrote.
func begun(t *testing.T, h *netlab.Host, in initiation) (text, words string, check said) {
	t.Helper()
	if in.root == "" {
		in.root = t.TempDir()
	}
	in.output = filepath.Join(t.TempDir(), "postern.toml")
	var out, complaint bytes.Buffer
	err := h.Do(func() error { return in.run(context.Background(), &out, &complaint) })
	if err != nil || complaint.String() != "" {
		t.Fatalf("%v\n%s%s", err, out.String(), complaint.String())
	}
	written, err := os.ReadFile(in.output)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(in.output); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %s", info.Mode())
	}
	// Lines are as long as the paths of this run have them.
	plain := strings.NewReplacer(in.output, "postern.toml", in.root, "", "\n                ", " ")
	return plain.Replace(string(written)), plain.Replace(out.String()), on(t, h, "check", "--config", in.output)
}

func TestInitWritesWhatCheckFindsSound(t *testing.T) {
	h := gateway(t)
	onShell(t, h, `ip route add default via 203.0.113.2; ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0; ip link set docker0 up
iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT; iptables -A INPUT -i lo -j ACCEPT; iptables -P INPUT DROP; sysctl -qw net.ipv6.conf.all.forwarding=0`)
	root := t.TempDir()
	until := time.Date(2099, 5, 4, 0, 0, 0, 0, time.UTC)
	paired(t, root, "etc/postern/tls/mx.pem", "etc/postern/tls/mx.key", "mx.example.net", time.Unix(0, 0), until)
	paired(t, root, "etc/letsencrypt/live/old/fullchain.pem", "etc/letsencrypt/live/old/privkey.pem", "old.example.net", time.Unix(0, 0), time.Unix(1e9, 0))
	paired(t, root, "etc/ssl/private/lonely.crt", "etc/elsewhere/lonely.key", "lonely.example.net", time.Unix(0, 0), until)
	text, words, check := begun(t, h, initiation{root: root})
	golden(t, "init/gateway.toml", text)
	golden(t, "init/gateway.words", words)
	if _, err := config.Parse("suggestions", []byte(uncomment(text))); err != nil {
		t.Errorf("with all that is suggested: %v", err)
	}
	if check.code != exitFine || check.stderr != "" {
		t.Errorf("%+v", check)
	}
}

func TestInitKnowsTheMachineThatItIsOn(t *testing.T) {
	for _, c := range []struct {
		name, script string
		make         func() (*netlab.Network, error)
		in           initiation
		file, words  []string // that have to be there
	}{
		{"a bridge", "ip route add default via 10.1.0.9", netlab.NewBridged, initiation{},
			[]string{`interfaces = ["br0"]`, `#   "br0", outside (default route), a bridge, 10.1.0.0/24, 2001:db8:1::/64`, "# A bridge: what passes it"}, []string{"connections that come in on br0\n"}},
		{"one way in and out", "ip route add default via 203.0.113.2; ip addr flush dev lan0", netlab.NewRouted, initiation{},
			[]string{`interfaces = ["wan0"]`, "# The only way in and out"}, nil},
		{"no default route", "true", netlab.NewRouted, initiation{}, []string{`interfaces = ["lan0", "wan0"]`, "# There is no default route"}, nil},
		{"an interface that is given", "true", netlab.NewRouted, initiation{interfaces: []string{"wan0", "later0"}}, []string{`interfaces = ["wan0", "later0"]`, "# As given by --interface."}, nil},
		{"names that are no words", `ip link add 'x"],#' type veth peer name p0; ip link set 'x"],#' up; ip addr add 192.0.2.1/24 dev 'x"],#'`, netlab.NewRouted, initiation{},
			[]string{`interfaces = ["lan0", "wan0", "x\"],#"]`}, nil},
		{"a router of neither family", "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0", netlab.NewRouted, initiation{}, nil,
			[]string{"  forwarding    IPv4 off, IPv6 off\n", "  sysctl -w net.ipv4.ip_forward=1\n  sysctl -w net.ipv6.conf.all.forwarding=1\n"}},
		{"clients that verify", "true", netlab.NewRouted, initiation{}, []string{"# DANE or MTA-STS, and Exchange that talks to Exchange", "\n#bypass = "}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, err := c.make()
			if err != nil {
				t.Fatal(err)
			}
			defer n.Close()
			onShell(t, n.Gateway, c.script)
			text, words, check := begun(t, n.Gateway, c.in)
			for _, want := range c.file {
				if !strings.Contains(text, want) {
					t.Errorf("no %q in\n%s", want, text)
				}
			}
			for _, want := range c.words {
				if !strings.Contains(words, want) {
					t.Errorf("no %q in\n%s", want, words)
				}
			}
			if check.code != exitFine {
				t.Errorf("%+v", check)
			}
		})
	}
}

func TestInitSeesWhoListens(t *testing.T) {
	h := gateway(t)
	onShell(t, h, "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0")
	for _, port := range []string{"25", "2525", "2526"} {
		command := h.Command(t.Context(), "openssl", "s_server", "-nocert", "-www", "-accept", "127.0.0.1:"+port)
		if err := h.Start(command); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = command.Wait() })
		t.Cleanup(func() { _ = command.Process.Kill() })
		for address := netip.MustParseAddrPort("127.0.0.1:" + port); ; {
			conn, err := h.Dial(t.Context(), netip.AddrPort{}, address)
			if err == nil {
				_ = conn.Close()
				break
			}
		}
	}
	text, words, check := begun(t, h, initiation{})
	for _, want := range []string{"\naddresses = [\"127.0.0.1:2527\", \"[::1]:2527\"]\n", `of this machine listens "openssl"`, "\n#interfaces = [\"lo\"]\n#method = \"redirect\"\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if check.code != exitFine || !strings.Contains(words, "  port 25       openssl listens here") || strings.Contains(words, "sysctl") {
		t.Errorf("%s\n%+v", words, check)
	}
}

func TestInitLeavesAFileAloneUnlessItIsTold(t *testing.T) {
	h := gateway(t)
	shipped, err := os.ReadFile("../../packaging/postern.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, text, says string }{
		{"of the package", string(shipped), "is the file that the package installs, without an interface yet: \"postern init --force\" replaces it"},
		{"of somebody", `intercept.interfaces = ["lan0"]`, "is there and somebody has written it: it is left alone"},
		{"of the package, begun", string(shipped) + "\nmode = \"observe\"\n", "somebody has written it"},
		{"empty", "", "somebody has written it"},
	} {
		path := write(t, c.text)
		got := on(t, h, "init", "--config", path)
		present, err := os.ReadFile(path)
		if err != nil || got.code != exitFinding || got.stdout != "" || !strings.Contains(got.stderr, c.says) || string(present) != c.text {
			t.Errorf("%s: %v %+v\n%s", c.name, err, got, present)
		}
		if err := os.Chown(path, 0, 0); err != nil {
			t.Fatal(err)
		}
		got = on(t, h, "init", "--force", "--output", path)
		old, oldErr := os.ReadFile(path + ".old")
		present, err = os.ReadFile(path)
		if err != nil || oldErr != nil || got.code != exitFine || string(old) != c.text || !strings.Contains(string(present), `interfaces = ["lan0", "wan0"]`) {
			t.Errorf("%s: %v %v %+v\n%s", c.name, err, oldErr, got, present)
		}
		entries, err := os.ReadDir(filepath.Dir(path))
		if err != nil || len(entries) != 2 {
			t.Errorf("%s: %v %v is left", c.name, err, entries)
		}
	}
}

func TestInitNamesItsFileAsAShellTakesIt(t *testing.T) {
	h := gateway(t)
	path := filepath.Join(t.TempDir(), "a name;id.toml")
	got := on(t, h, "init", "--output", path)
	if got.code != exitFine || !strings.Contains(got.stdout, "\n  postern check --config '"+path+"'\n") {
		t.Errorf("%+v", got)
	}
	if got := on(t, h, "doctor", "--config", path); !strings.Contains(got.stdout, "postern intercept up --config '"+path+"'\n") {
		t.Errorf("%+v", got)
	}
}

// What cannot be named is left out, and the rest is written.
func TestInitLeavesOutWhatAConfigurationCannotName(t *testing.T) {
	h := gateway(t)
	for i, name := range []string{"a@b", "z\x01q"} {
		err := h.Do(func() error {
			link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, Flags: net.FlagUp}, PeerName: fmt.Sprint("peer", i)}
			if err := netlink.LinkAdd(link); err != nil {
				return err
			}
			address := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, byte(i), 1}), 24)
			return netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: address.Addr().AsSlice(), Mask: net.CIDRMask(24, 32)}})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	root := t.TempDir()
	now := time.Now()
	paired(t, root, "etc/postern/tls/a\x07.pem", "etc/postern/tls/a\x07.key", "mx.example", now.Add(-time.Hour), now.Add(time.Hour))
	text, _, check := begun(t, h, initiation{root: root})
	if check.code != exitFine || !strings.Contains(text, `interfaces = ["lan0", "wan0"]`) || strings.Contains(text, "a@b") || strings.Contains(text, "mx.example") {
		t.Errorf("%+v\n%s", check, text)
	}
}

func TestInitReplacesNothingButAFile(t *testing.T) {
	h := gateway(t)
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, t.TempDir()} {
		for _, flags := range [][]string{{"--output", path}, {"--force", "--output", path}} {
			got := on(t, h, append([]string{"init"}, flags...)...)
			if got.code != exitFinding || !strings.Contains(got.stderr, path+" is no file") {
				t.Errorf("%q: %+v", flags, got)
			}
		}
	}
	if info, err := os.Stat(pipe); err != nil || info.Mode().IsRegular() {
		t.Errorf("%v, %v", info, err)
	}
}

// What the service could read before it can read after.
func TestInitGivesTheFileToWhomeverReadsIt(t *testing.T) {
	const service = "daemon"
	who, err := user.Lookup(service)
	if err != nil {
		t.Fatal(err)
	}
	group, err := strconv.Atoi(who.Gid)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "group")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Chown(file, -1, group) != nil {
		t.Log("an ordinary user gives no file away")
		return
	}
	for _, c := range []struct {
		name       string
		mode       os.FileMode
		gid, wants int
	}{
		{"of everybody", 0o644, 0, group},
		{"of a group", 0o640, group + 1, group + 1},
		{"of root alone", 0o600, 0, 0},
	} {
		path := write(t, "")
		if err := errors.Join(os.Chown(path, 0, c.gid), os.Chmod(path, c.mode)); err != nil {
			t.Fatal(err)
		}
		in := initiation{output: path, force: true, user: service}
		if err := in.write([]byte("text")); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if found := info.Sys().(*syscall.Stat_t); int(found.Gid) != c.wants || found.Uid != 0 || info.Mode() != 0o640 {
			t.Errorf("%s: group %d, user %d, mode %s", c.name, found.Gid, found.Uid, info.Mode())
		}
	}
}

func TestInitToStandardOutputWritesNoFile(t *testing.T) {
	h := gateway(t)
	got := on(t, h, "init", "--output", "-")
	if got.code != exitFine || !strings.HasPrefix(got.stdout, "# The configuration of Postern") || !strings.HasPrefix(got.stderr, "found on this machine:\n") || !strings.Contains(got.stderr, "nothing was written.") {
		t.Errorf("%+v", got)
	}
	if again := on(t, h, "check", "--config", write(t, got.stdout)); again.code != exitFine {
		t.Errorf("%+v", again)
	}
}

func TestInitSaysWhatItCannotDo(t *testing.T) {
	alone, err := netlab.NewHost("alone")
	if err != nil {
		t.Fatal(err)
	}
	defer alone.Close()
	got := on(t, alone, "init", "--output", filepath.Join(t.TempDir(), "x.toml"))
	if got.code != exitFinding || !strings.Contains(got.stderr, "name one with --interface") {
		t.Errorf("%+v", got)
	}
	got = on(t, alone, "init", "--interface", "eth0", "--output", filepath.Join(t.TempDir(), "none", "x.toml"))
	if got.code != exitFinding || !strings.Contains(got.stderr, "no such file or directory") {
		t.Errorf("%+v", got)
	}
}
