package main

import (
	"encoding/json"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"postern/proxy"
	"postern/proxy/proxytest/netlab"
)

// ofTheClock is the paragraph on the clock of whatever machine runs the tests.
var ofTheClock = regexp.MustCompile(`(?s)note: nothing keeps the clock.*?\n\n`)

// onShell runs a script on a host.
func onShell(t *testing.T, h *netlab.Host, script string) string {
	t.Helper()
	var said strings.Builder
	command := h.Command(t.Context(), "sh", "-ec", script)
	command.Stdout, command.Stderr = &said, &said
	if err := h.Run(command); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, said.String())
	}
	return said.String()
}

const everything = "nft -a list ruleset; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; ip -d link; sysctl -a --pattern '^net[.](ipv[46]|bridge)'"

func TestTheDoctorNamesWhatIsWrongAndChangesNothing(t *testing.T) {
	h := gateway(t)
	onShell(t, h, `sysctl -qw net.ipv4.ip_forward=0
ip route add default via 203.0.113.2; ip link set wan0 mtu 1400
iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT; iptables -P INPUT DROP
nft 'add table inet fire'; nft 'add chain inet fire input { type filter hook input priority 5; policy accept; }'
nft 'add rule inet fire input ip saddr 10.1.0.9 drop'`)
	path := write(t, `intercept = {interfaces = ["lan0"], ports = [25, 587]}`)
	if got := on(t, h, "intercept", "up", "--config", path); got.code != exitFine {
		t.Fatalf("%+v", got)
	}
	before := onShell(t, h, everything)
	got := on(t, h, "doctor", "--config", path)
	if got.code != exitFinding || got.stderr != "" {
		t.Fatalf("%+v", got)
	}
	text := strings.ReplaceAll(ofTheClock.ReplaceAllString(got.stdout, ""), path, "postern.toml")
	golden(t, "doctor/ill", text)
	if after := onShell(t, h, everything); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}

	got = on(t, h, "doctor", "--format", "json", "--config", path)
	var d diagnosis
	if err := json.Unmarshal([]byte(got.stdout), &d); err != nil || got.code != exitFinding {
		t.Fatalf("%v, %+v", err, got)
	}
	if d.Fine || len(d.Checked) != len(proxy.Checks()) || len(d.Findings) < 5 || d.Findings[0].Severity != "problem" || d.Findings[0].Check != "forwarding" {
		t.Errorf("%+v", d)
	}
	for _, f := range d.Findings { // paste all that can be pasted here
		for _, command := range f.Mend {
			if word, _, _ := strings.Cut(command, " "); word == "sysctl" || word == "nft" || word == "iptables" {
				onShell(t, h, command)
			}
		}
	}
	golden(t, "doctor/mended", strings.ReplaceAll(ofTheClock.ReplaceAllString(on(t, h, "doctor", "--config", path).stdout, ""), path, "postern.toml"))
}

func TestTheDoctorFindsNothingWrongWithASoundGateway(t *testing.T) {
	h := gateway(t)
	path := write(t, `intercept.interfaces = ["lan0"]`)
	if got := on(t, h, "intercept", "up", "--config", path); got.code != exitFine {
		t.Fatalf("%+v", got)
	}
	listenAsPostern(t, h)
	got := on(t, h, "doctor", "--config", path)
	if got.code != exitFine || !strings.HasSuffix(got.stdout, "nothing is wrong: 16 things were looked at\n") || strings.Contains(got.stdout, "problem") {
		t.Errorf("%+v", got)
	}
}

// listenAsPostern has this very program hold the addresses.
func listenAsPostern(t *testing.T, h *netlab.Host) {
	t.Helper()
	for _, address := range []string{"127.0.0.1:2525", "[::1]:2525"} {
		l, err := h.Listen(netip.MustParseAddrPort(address))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
	}
}

func TestTheDoctorSaysWhatItMayNotSee(t *testing.T) {
	path := write(t, `intercept.interfaces = ["lan0"]`)
	got := withoutCapability(func() said { return postern(t, "doctor", "--config", path) })
	for _, want := range []string{"unknown: rules could not be looked at: intercept: missing privilege: ", "unknown: input chains could not", "      sudo postern doctor --config " + path + "\n", "problem: there is no interface lan0\n"} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("no %q in\n%s%s", want, got.stdout, got.stderr)
		}
	}
	if got.code != exitFinding {
		t.Errorf("exit %d", got.code)
	}
}

func TestTheDoctorLooksAtNothingThatIsConfiguredWrongly(t *testing.T) {
	if got := postern(t, "doctor", "--config", write(t, `intercept.interfaces = []`)); got.code != exitUsage || !strings.Contains(got.stderr, "intercept.interfaces") {
		t.Errorf("%+v", got)
	}
}

func TestTheDoctorSpeaksOfCertificatesWithoutStartingWithThem(t *testing.T) {
	h := gateway(t)
	path := write(t, `
intercept.interfaces = ["lan0"]
[[tls.certificate]]
name = "edge"
cert = "/nonexistent/cert.pem"
key = "/nonexistent/key.pem"
[tls.trust]
ca = "/nonexistent/roots.pem"
`)
	got := on(t, h, "doctor", "--config", path)
	for _, want := range []string{`problem: the certificate "edge" cannot be used: `, "/nonexistent/cert.pem", "/nonexistent/key.pem", "problem: tls.trust.ca: open /nonexistent/roots.pem"} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("no %q in\n%s", want, got.stdout)
		}
	}
}

// The command of a finding is worth nothing if the machine of the tests lacks the
// program.
func TestTheProgramsOfTheDoctorsCommandsAreHere(t *testing.T) {
	for _, name := range []string{"nft", "iptables", "ip6tables", "sysctl", "ip"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Errorf("%v (Debian: apt-get install nftables iptables procps iproute2)", err)
		}
	}
}
