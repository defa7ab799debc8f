package main

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/enforce"
	"postern/enforce/cluster"
	"postern/enforce/memory"
	"postern/proxy/proxytest/redislab"
)

// remembering gives a configuration and the file that it names, with two servers,
// two domains and a client that is held in it.
func remembering(t *testing.T) (config, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "memory.db")
	s, err := memory.Open(memory.Options{Path: file, Remember: 30 * 24 * time.Hour, Report: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	var h memory.Holds
	s.Keep(&h)
	now := time.Now()
	partner, other := netip.MustParseAddrPort("203.0.113.7:25"), netip.MustParseAddrPort("[2001:db8::7]:25")
	client := netip.MustParseAddr("10.1.0.9")
	s.Learn(partner, []string{"contoso.com"}, memory.Observation{Client: client, Version: tls.VersionTLS13, Issuer: "CN=R11,O=\x1b[31mLet's Encrypt",
		SPKI: [32]byte{1}, Verified: true, VerifiedDomains: true, At: now.Add(-time.Hour)})
	s.Learn(other, []string{"xn--bcher-kva.example", "a\x1b[31m"}, memory.Observation{Client: client, Version: tls.VersionTLS12, SPKI: [32]byte{2}, At: now.Add(-time.Hour)})
	s.Missed(partner, client, nil, now)
	h.Begin(enforce.Connection{Client: client, Upstream: netip.MustParseAddr("203.0.113.9")}, tls.VersionTLS10, now)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return write(t, fmt.Sprintf("intercept.interfaces = [\"lan0\"]\nmemory.store = \"bolt://%s\"\n", file)), file
}

func TestMemoryIsListedAndShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the clock stands at 2000-01-01 00:00 UTC
		path, _ := remembering(t)
		for name, args := range map[string][]string{
			"list": {"list"}, "address": {"show", "203.0.113.7"}, "port": {"show", "203.0.113.7:25"}, "network": {"show", "2001:db8::/32"},
			"domain": {"show", "Contoso.com."}, "idn": {"show", "bücher.example"}, "client": {"show", "10.1.0.9"},
		} {
			for _, format := range []string{"table", "json"} {
				got := postern(t, append(append([]string{"memory"}, args...), "--format", format, "--config", path)...)
				if got.code != exitFine || got.stderr != "" || strings.Contains(got.stdout, "\x1b") {
					t.Errorf("%s: %+v", name, got)
				}
				golden(t, "memory/"+name+map[string]string{"table": ".txt", "json": ".json"}[format], got.stdout)
			}
		}
	})
}

func TestWhatIsNotKnownIsAFinding(t *testing.T) {
	path, file := remembering(t)
	for _, args := range [][]string{{"show", "203.0.113.8"}, {"show", "203.0.113.7:465"}, {"show", "fabrikam.example"}, {"forget", "198.51.100.0/24"}} {
		got := postern(t, append(append([]string{"memory"}, args...), "--config", path)...)
		if got.code != exitFinding || !strings.HasPrefix(got.stdout, "Nothing ") || got.stderr != "" {
			t.Errorf("%q: %+v", args, got)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"list"}, {"show", "203.0.113.7"}, {"forget", "203.0.113.7"}} {
		got := postern(t, append(append([]string{"memory"}, args...), "--config", path)...)
		if got.code != exitFinding || !strings.HasPrefix(got.stdout, "Nothing ") || got.stderr != "" {
			t.Errorf("%q: %+v", args, got)
		}
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("a file was made")
	}
}

func TestAFileThatIsDamagedIsSaidAndLeftAlone(t *testing.T) {
	path, file := remembering(t)
	if err := os.Truncate(file, 4096); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"list"}, {"forget", "203.0.113.7"}} {
		got := postern(t, append(append([]string{"memory"}, args...), "--config", path)...)
		if got.code != exitFinding || !strings.Contains(got.stderr, "memory "+file+": damaged") {
			t.Errorf("%q: %+v", args, got)
		}
	}
	if info, err := os.Stat(file); err != nil || info.Size() != 4096 {
		t.Errorf("%v %v", info, err)
	}
}

func TestMemoryForgets(t *testing.T) {
	path, file := remembering(t)
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	got := postern(t, "memory", "forget", "203.0.113.7", "--config", path)
	if got.code != exitFine || got.stdout != "203.0.113.7 is forgotten (1 entry). A daemon that runs forgets it within 3s.\n" {
		t.Errorf("%+v", got)
	}
	got = postern(t, "memory", "forget", "10.1.0.0/16", "--format", "json", "--config", path)
	if got.code != exitFine || got.stdout != "{\n  \"subject\": \"10.1.0.0/16\",\n  \"forgotten\": 1\n}\n" {
		t.Errorf("%+v", got)
	}
	if got := postern(t, "memory", "show", "203.0.113.7", "--config", path); got.code != exitFinding {
		t.Errorf("%+v", got)
	}
	if after, err := os.Stat(file); err != nil || after.Mode() != before.Mode() || !os.SameFile(before, after) {
		t.Errorf("%v %v", after, err)
	}
}

func TestMemoryTellsAMistakeInWritingFromTheRest(t *testing.T) {
	path, _ := remembering(t)
	for _, args := range [][]string{{"show"}, {"show", "a b"}, {"forget", ""}, {"forget", "203.0.113.0/33"}, {"forget", "someone@contoso.com"},
		{"list", "contoso.com"}, {"list", "--format", "xml"}, {"list", "--config", "/nonexistent"}} {
		got := postern(t, append([]string{"memory"}, append([]string{"--config", path}, args...)...)...)
		if got.code != exitUsage || got.stdout != "" {
			t.Errorf("%q: %+v", args, got)
		}
	}
	none := write(t, "intercept.interfaces = [\"lan0\"]\nmemory.store = \"\"\n")
	if got := postern(t, "memory", "list", "--config", none); got.code != exitFinding || !strings.Contains(got.stderr, "kept in a file") {
		t.Errorf("%+v", got)
	}
}

func TestMemoryOnASharedServerIsListedShownAndForgotten(t *testing.T) {
	server := redislab.Start(t, "--requirepass", "sesame")
	path := write(t, fmt.Sprintf("intercept.interfaces = [\"lan0\"]\nmemory.store = \"redis://:sesame@%s/1\"\n", server.Address))
	address, err := cluster.ParseAddress("redis://:sesame@" + server.Address + "/1")
	if err != nil {
		t.Fatal(err)
	}
	link := cluster.New(cluster.Options{Address: address})
	s, err := memory.Open(memory.Options{Remember: 30 * 24 * time.Hour, Keeper: link})
	if err != nil {
		t.Fatal(err)
	}
	link.Start()
	s.Learn(netip.MustParseAddrPort("203.0.113.7:25"), []string{"contoso.com"}, memory.Observation{Client: netip.MustParseAddr("10.1.0.9"),
		Version: tls.VersionTLS13, SPKI: [32]byte{1}, Verified: true, VerifiedDomains: true, At: time.Now()})
	if err := link.Close(); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"memory", "list"}, exitFine, "203.0.113.7:25"},
		{[]string{"memory", "show", "contoso.com"}, exitFine, "verified"},
		{[]string{"memory", "forget", "contoso.com"}, exitFine, "contoso.com is forgotten (1 entry)"},
		{[]string{"memory", "show", "contoso.com"}, exitFinding, "Nothing is known"},
		{[]string{"memory", "forget", "contoso.com"}, exitFinding, "Nothing was known"},
		{[]string{"memory", "list"}, exitFine, "203.0.113.7:25"},
	} {
		got := postern(t, append(step.args, "--config", path)...)
		if got.code != step.code || !strings.Contains(got.stdout, step.want) || got.stderr != "" {
			t.Errorf("%q: %+v", step.args, got)
		}
	}
	if got := postern(t, "check", "--config", path); !strings.Contains(got.stdout, "redis://"+server.Address+"/1") || strings.Contains(got.stdout+got.stderr, "sesame") {
		t.Errorf("%+v", got)
	}
	if got := postern(t, "doctor", "--config", path); strings.Contains(got.stdout, "shared memory") || strings.Contains(got.stdout, "gateways share") || strings.Contains(got.stdout+got.stderr, "sesame") {
		t.Errorf("%+v", got)
	}
	server.Kill()
	for _, args := range [][]string{{"memory", "list"}, {"memory", "forget", "contoso.com"}} {
		if got := postern(t, append(args, "--config", path)...); got.code != exitFinding || !strings.Contains(got.stderr, "refused") || strings.Contains(got.stderr, "sesame") {
			t.Errorf("%+v", got)
		}
	}
	if got := postern(t, "doctor", "--config", path); !strings.Contains(got.stdout, "gateways share") || strings.Contains(got.stdout+got.stderr, "sesame") {
		t.Errorf("%+v", got)
	}
}

func TestCheckReadsTheFilesOfASharedServer(t *testing.T) {
	path := write(t, "intercept.interfaces = [\"lan0\"]\n[memory]\nstore = \"rediss://gw?ca=/nowhere/ca.pem&password_file=/nowhere/password\"\n")
	got := postern(t, "check", "--config", path)
	if got.code != exitUsage || !strings.Contains(got.stderr, ":3: memory.store: ") || !strings.Contains(got.stderr, "/nowhere/password") || !strings.Contains(got.stderr, "/nowhere/ca.pem") {
		t.Errorf("%+v", got)
	}
}
