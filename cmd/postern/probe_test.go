package main

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"postern/cmd/internal/probe"
	"postern/proxy/proxytest"
	"postern/proxy/proxytest/dnslab"
)

// A partnership is a domain with hosts that are each something else, at port 25 of
// this network namespace, a DNS server that knows them, and what is trusted.
type partnership struct {
	root, resolver string
}

func newPartnership(t *testing.T) partnership {
	t.Helper()
	pki, err := proxytest.NewPKI("partner")
	if err != nil {
		t.Fatal(err)
	}
	root, err := pki.WriteRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	records := []string{"@ MX 10 a", "@ MX 20 b", "@ MX 30 c", "@ MX 40 d"}
	for i, s := range []struct {
		host, temper string
		crl          []string
	}{{"a", "modern", []string{"http://127.9.2.9:1/list.crl"}}, {"b", "tls10-alert", nil}, {"c", "no-starttls", nil}, {"d", "", nil}} {
		address := fmt.Sprintf("127.9.2.%d", i+1)
		records = append(records, s.host+" A "+address)
		if s.temper == "" {
			continue
		}
		temper, err := proxytest.TemperNamed(s.temper)
		if err != nil {
			t.Fatal(err)
		}
		name := s.host + ".partner.example"
		config, err := temper.Config(pki, name)
		if err != nil {
			t.Fatal(err)
		}
		config.Banner = name + " ESMTP \x1b[31m"
		if s.crl != nil {
			cert, err := pki.Issue(proxytest.Leaf{Names: []string{name}, CRL: s.crl, RSA: true})
			if err != nil {
				t.Fatal(err)
			}
			config.TLS.Certificates = []tls.Certificate{cert}
			sum := sha256.Sum256(cert.Leaf.RawSubjectPublicKeyInfo)
			records = append(records, "_25._tcp."+s.host+" TLSA 3 1 1 "+hex.EncodeToString(sum[:]))
		}
		l, err := net.Listen("tcp", address+":25")
		if err != nil {
			t.Fatal(err)
		}
		server := proxytest.Serve(l, config)
		t.Cleanup(func() { _ = server.Close() })
	}
	lab := dnslab.Start(t, dnslab.Zone{Name: "partner.example", Signed: true, Records: records})
	return partnership{root, lab.Resolver().String()}
}

func (p partnership) config(t *testing.T, more string) string {
	t.Helper()
	return write(t, fmt.Sprintf("intercept.interfaces = [\"lan0\"]\ntls.trust.ca = %q\nresolver.servers = [%q]\nverify.relays = []\n%s", p.root, p.resolver, more))
}

// stable puts something that is always the same in the place of what never is.
func stable(printed, path string) string {
	for _, r := range []struct{ is, becomes string }{
		{`[0-9a-f]{64}`, "HEX"}, {`\d{4}-\d\d-\d\dT[0-9:]+Z`, "TIME"}, {`\d{4}-\d\d-\d\d`, "DATE"}, {`"duration_ms": \d+`, `"duration_ms": 0`},
		{regexp.QuoteMeta(path), "FILE"},
	} {
		printed = regexp.MustCompile(r.is).ReplaceAllString(printed, r.becomes)
	}
	return printed
}

func TestADomainIsProbedForPeopleAndForPrograms(t *testing.T) {
	p := newPartnership(t)
	path := p.config(t, "[[rule]]\nname = \"partner\"\nto_domains = [\"partner.example\"]\ntls = \"forced\"\nverify = \"name\"\n"+
		"names = [\"*.partner.example\"]\non_violation = \"reject\"\n")
	for name, args := range map[string][]string{
		"domain": {"partner.example"},
		"host":   {"A.Partner.example", "--domain", "partner.example", "--client", "10.1.0.9"},
		"alone":  {"127.9.2.1"},
		"gone":   {"d.partner.example:25"},
	} {
		for _, format := range []string{"table", "json"} {
			got := postern(t, append(append([]string{"probe"}, args...), "--format", format, "--config", path)...)
			if want := map[string]int{"domain": exitFinding, "gone": exitFinding}[name]; got.code != want || got.stderr != "" {
				t.Errorf("%s: exit %d\n%s", name, got.code, got.stderr)
			}
			if strings.Contains(got.stdout, "\x1b") {
				t.Errorf("%s: a server speaks to the terminal\n%q", name, got.stdout)
			}
			if format == "json" {
				golden(t, "probe/"+name+".json", stable(got.stdout, path))
				continue
			}
			for line := range strings.Lines(strings.ReplaceAll(got.stdout, path, "FILE")) {
				if n := utf8.RuneCountInString(line); n > width+1 && !strings.Contains(line, "spki-sha256:") || n > 81 {
					t.Errorf("%s: a line too long for a terminal: %s", name, line)
				}
			}
			golden(t, "probe/"+name+".txt", stable(got.stdout, path))
		}
	}
}

func TestWithoutAConfigurationTheBuiltInRuleJudgesAndItSaysSo(t *testing.T) {
	if _, err := os.Stat(defaultConfig); err == nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is there, and a test needs a machine without", defaultConfig)
		}
		t.Skip("there is a configuration on this machine")
	}
	p := newPartnership(t)
	got := postern(t, "probe", "a.partner.example", "--host", "--resolver", p.resolver, "--format", "json")
	var report probe.Report
	if err := json.Unmarshal([]byte(got.stdout), &report); err != nil || got.code != exitFine || report.Config != "" || report.Mode != "enforce" {
		t.Fatalf("%v: %+v", err, got)
	}
	if v := report.Hosts[0].Addresses[0].Verdict; v.Rule != "default" || v.Verdict != "allow" {
		t.Errorf("%+v", v)
	}
	if got := postern(t, "probe", "127.9.2.3", "--resolver", p.resolver); got.code != exitFine || !strings.Contains(got.stdout, "judged by     the built-in rule and the defaults") {
		t.Errorf("%+v", got)
	}
	if got := postern(t, "probe", "127.9.2.3", "--config", "/nonexistent/postern.toml"); got.code != exitUsage || !strings.Contains(got.stderr, "no such file") {
		t.Errorf("%+v", got)
	}
}

func TestAProbeThatMakesNoSenseExits2AndSaysWhy(t *testing.T) {
	path := write(t, `intercept.interfaces = ["lan0"]`)
	for _, c := range []struct{ args, says string }{
		{"", "accepts 1 arg(s), received 0"},
		{"a.example b.example", "accepts 1 arg(s), received 2"},
		{"a..example", `"a..example" found, expected a domain`},
		{"a.example:smtp", `"a.example:smtp" found, expected a host and a port`},
		{"a.example:70000", `"a.example:70000" found, expected a host and a port`},
		{"a.example:25x", `"a.example:25x" found, expected a host and a port`},
		{"a.example --port 0", "port 0 found"},
		{"a.example --port 65536", "invalid argument"},
		{"a.example --domain b@c.example", "--domain"},
		{"a.example --client localhost", `--client "localhost" found, expected an address`},
		{"a.example --sender <a@b", `--sender "<a@b" found`},
		{"a.example --resolver dns.example", `--resolver "dns.example" found, expected an address`},
		{"a.example --timeout 0s", "--timeout 0s found"},
		{"a.example --helo \x1b", "--helo"},
		{"a.example --format xml", `--format "xml" found`},
	} {
		got := postern(t, append([]string{"probe", "--config", path}, strings.Fields(c.args)...)...)
		if got.code != exitUsage || got.stdout != "" || !strings.HasPrefix(got.stderr, "postern: ") || !strings.Contains(got.stderr, c.says) {
			t.Errorf("postern probe %s: exit %d\n%s%s", c.args, got.code, got.stdout, got.stderr)
		}
	}
	bad := write(t, "intercept.interfaces = [\"lan0\"]\ntls.trust.ca = \"/nonexistent/roots.pem\"\n")
	if got := postern(t, "probe", "a.example", "--config", bad); got.code != exitUsage || !strings.Contains(got.stderr, "postern.toml:2: tls.trust.ca") {
		t.Errorf("%+v", got)
	}
}
