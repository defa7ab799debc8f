package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/enforce/mtasts"
	"postern/proxy/proxytest"
	"postern/proxy/proxytest/redislab"
)

func TestTheWayToAServerCanBeTLSThatIsVerified(t *testing.T) {
	t.Parallel()
	pki, err := proxytest.NewPKI("gw")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	root, err := pki.WriteRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	// The server's address is known when it listens: a port for TLS that was free.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	leaf, err := pki.Issue(proxytest.Leaf{Names: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := proxytest.WriteCertificate(dir, "server", leaf)
	if err != nil {
		t.Fatal(err)
	}
	s := redislab.Start(t, "--bind", "127.0.0.1", "--port", "0", "--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key,
		"--tls-ca-cert-file", root, "--tls-auth-clients", "no")
	a, b := joins(t, "rediss://127.0.0.1:"+port+"?ca="+root, 0), joins(t, "unix://"+s.Socket, 0)
	a.sees(server25, 1)
	soon(t, "b knows", func() bool { return b.knows(server25) })
	for address, want := range map[string]string{
		"rediss://127.0.0.1:" + port:                 "certificate",
		"rediss://localhost:" + port + "?ca=" + root: "localhost",
		"redis://127.0.0.1:" + port:                  "",
	} {
		at, err := ParseAddress(address)
		if err != nil {
			t.Fatal(err)
		}
		if err := Probe(t.Context(), at); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", at, err)
		}
	}
	if got := fmt.Sprint(a.heard()); got != "[]" {
		t.Error(got)
	}
	// A file of roots that has none is a fault of the configuration.
	empty := filepath.Join(dir, "empty.pem")
	if err := os.WriteFile(empty, []byte("none\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	at, _ := ParseAddress("rediss://gw?ca=" + empty + "&password_file=" + empty)
	if err := at.Check(); err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Errorf("%v", err)
	}
}

// alone is a policy cache that can look nothing up, and has what others tell.
func alone(t *testing.T, s *redislab.Server) *mtasts.Cache {
	t.Helper()
	at, err := ParseAddress("unix://" + s.Socket)
	if err != nil {
		t.Fatal(err)
	}
	link := New(Options{Address: at, Report: func(err error) { t.Error(err) }})
	nothing := errors.New("nobody is asked")
	c, err := mtasts.New(mtasts.Options{Keeper: link, TXT: func(context.Context, string) ([]string, error) { return nil, nothing },
		Dial: func(context.Context, string, string) (net.Conn, error) { return nil, nothing }})
	if err != nil {
		t.Fatal(err)
	}
	link.Start()
	t.Cleanup(func() { c.Close(); _ = link.Close() })
	return c
}

func TestAPolicyOnTheServerIsKnownToAGatewayThatStarts(t *testing.T) {
	t.Parallel()
	s := redislab.Start(t)
	now := time.Now().UTC()
	policy := fmt.Sprintf(`{"domain":"contoso.com","id":"1","mode":"enforce","mx":["mx.contoso.com"],"max_age":86400,"fetched":%q,"expires":%q,"asked":%q}`,
		now.Format(time.RFC3339Nano), now.Add(24*time.Hour).Format(time.RFC3339Nano), now.Format(time.RFC3339Nano))
	s.Do("SET " + quoted("policies", "contoso.com") + " " + fmt.Sprintf("%q", policy))
	a := alone(t, s)
	if p, err := a.Policy(t.Context(), "contoso.com"); err != nil || p.State != mtasts.Found || p.Mode != mtasts.ModeEnforce {
		t.Fatalf("%v %+v", err, p)
	}
	s.Do("FLUSHALL") // and gives it to a server that lost it
	soon(t, "the server has it again", func() bool { return s.Do("EXISTS "+quoted("policies", "contoso.com")) == ":1" })
	if p, err := alone(t, s).Policy(t.Context(), "contoso.com"); err != nil || p.ID != "1" {
		t.Errorf("%v %+v", err, p)
	}
	if got := s.Do("TTL " + quoted("policies", "contoso.com")); got < ":86000" || len(got) != 6 {
		t.Errorf("it is kept for %s", got)
	}
}
