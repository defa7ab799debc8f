package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// mayImport is the table of who may import whom: of this module by its path below
// the module's, of others by module. The standard library is free but for the
// entry in mayNotUse. A package that is not in the table is not in the house.
var mayImport = map[string][]string{
	"smtpwire":          {},
	"smtpwire/tlshello": {"golang.org/x/crypto"},
	"smtpwire/wiretest": {"smtpwire"},

	"enforce":          {},
	"enforce/kept":     {},
	"enforce/cluster":  {"enforce/kept", "github.com/redis/go-redis/v9"},
	"enforce/memory":   {"enforce", "enforce/kept", "go.etcd.io/bbolt"},
	"enforce/dane":     {"enforce", "enforce/resolver"},
	"enforce/resolver": {"github.com/miekg/dns", "golang.org/x/sync"},

	"enforce/revocation": {"golang.org/x/crypto", "golang.org/x/sync"},
	"enforce/mtasts":     {"enforce", "enforce/kept"},

	"enforce/published": {"enforce", "enforce/dane", "enforce/mtasts", "enforce/resolver"},

	"proxy": {"enforce", "enforce/cluster", "enforce/kept", "enforce/memory", "enforce/mtasts", "enforce/published", "enforce/resolver", "enforce/revocation", "smtpwire", "proxy/internal/doctor", "proxy/internal/intercept", "proxy/internal/keyring", "proxy/internal/parking", "proxy/internal/record",
		"proxy/internal/session", "go.uber.org/zap"},
	"proxy/internal/doctor":    {"proxy/internal/intercept", "golang.org/x/sys", "github.com/miekg/dns", "github.com/vishvananda/netlink"},
	"proxy/internal/netfilter": {"golang.org/x/sys", "github.com/mdlayher/netlink"},
	"proxy/internal/intercept": {"proxy/internal/netfilter", "golang.org/x/sys", "github.com/google/nftables", "github.com/vishvananda/netlink", "github.com/mdlayher/netlink"},
	"proxy/internal/keyring":   {"enforce"},
	"proxy/internal/parking":   {"golang.org/x/sys"},
	"proxy/internal/leg":       {"smtpwire", "smtpwire/tlshello"},
	"proxy/internal/record":    {"enforce", "smtpwire/tlshello", "go.uber.org/zap", "github.com/coreos/go-systemd/v22"},
	"proxy/internal/session": {"smtpwire", "smtpwire/tlshello", "enforce", "proxy/internal/leg", "proxy/internal/record",
		"go.uber.org/zap", "golang.org/x/net"},

	"proxy/proxytest":          {},
	"proxy/proxytest/dnslab":   {},
	"proxy/proxytest/mta":      {"proxy/proxytest/netlab"},
	"proxy/proxytest/redislab": {},
	"proxy/proxytest/netlab":   {"github.com/google/gopacket", "github.com/vishvananda/netlink", "golang.org/x/sys"},

	"cmd/internal/config":   {"proxy", "enforce", "enforce/cluster", "smtpwire", "github.com/BurntSushi/toml", "golang.org/x/net"},
	"cmd/internal/recorded": {"enforce", "smtpwire/tlshello"},
	"cmd/internal/probe": {"smtpwire", "smtpwire/tlshello", "enforce", "enforce/dane", "enforce/mtasts", "enforce/published", "enforce/resolver",
		"enforce/revocation", "golang.org/x/sync"},
	"cmd/internal/replay":  {"cmd/internal/recorded", "enforce"},
	"cmd/internal/service": {"github.com/coreos/go-systemd/v22", "golang.org/x/sys"},
	"cmd/postern": {"cmd/internal/config", "cmd/internal/probe", "cmd/internal/recorded", "cmd/internal/replay", "cmd/internal/service", "proxy", "enforce", "enforce/cluster", "enforce/kept", "enforce/memory", "enforce/published", "smtpwire", "smtpwire/tlshello",
		"github.com/spf13/cobra", "github.com/spf13/pflag", "go.uber.org/zap"},
	"cmd/postern-lab": {"smtpwire/wiretest", "proxy/proxytest", "proxy/proxytest/mta", "proxy/proxytest/netlab", "github.com/miekg/dns", "golang.org/x/sys"},

	"packaging":             {},
	"packaging/changelog":   {},
	"packaging/manual":      {"github.com/spf13/cobra", "github.com/spf13/pflag"},
	"packaging/installtest": {}, // but for its tests
}

// mayNotUse are packages of the standard library that would let a room do what is
// not its business.
var mayNotUse = map[string][]string{
	"smtpwire":              {"net", "os", "log", "time", "crypto/tls"},
	"smtpwire/tlshello":     {"net", "os", "log", "time", "crypto/tls"},
	"enforce":               {"net", "os", "log", "net/http", "io/fs"},
	"enforce/memory":        {"net", "os/exec", "log", "net/http"}, // os: it has a file
	"enforce/cluster":       {"os/exec", "log", "net/http"},        // os: files of a password and of roots
	"enforce/kept":          {"net", "os", "log", "net/http"},
	"enforce/revocation":    {"os", "log", "io/fs"},
	"enforce/dane":          {"os", "log", "net/http"},
	"enforce/resolver":      {"os", "log", "net/http"},
	"enforce/published":     {"os/exec", "log", "net/http"}, // os: it has a file
	"proxy":                 {"log", "os/exec"},
	"enforce/mtasts":        {"log", "os/exec"},
	"cmd/internal/recorded": {"net", "os", "log", "net/http", "io/fs"},
	"proxy/internal/session": {
		"os/exec", "log", "net/textproto", "net/smtp",
	},
	"proxy/internal/intercept": {"os/exec", "log"},
	"cmd/internal/probe":       {"os", "os/exec", "log", "net/smtp"}, // os: it writes nothing
	"cmd/postern":              {"os/exec", "log", "net/smtp"},
}

type listed struct {
	ImportPath string
	Imports    []string
}

func TestEachRoomImportsWhatItsPlaceAllows(t *testing.T) {
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, "postern/")
		allowed, known := mayImport[name]
		if !known {
			t.Errorf("%s is not in the table", name)
			continue
		}
		for _, i := range p.Imports {
			if why := forbidden(name, i, allowed); why != "" {
				t.Errorf("%s imports %s: %s", name, i, why)
			}
		}
	}
}

func TestTheTableOfImportsCanFail(t *testing.T) {
	for _, tc := range [][2]string{{"smtpwire", "postern/proxy"}, {"enforce", "net/http"}, {"smtpwire", "net"},
		{"proxy/internal/leg", "postern/enforce"}, {"enforce", "go.uber.org/zap"}} {
		if forbidden(tc[0], tc[1], mayImport[tc[0]]) == "" {
			t.Errorf("%s may import %s", tc[0], tc[1])
		}
	}
}

func forbidden(name, imported string, allowed []string) string {
	ours, isOurs := strings.CutPrefix(imported, "postern/")
	switch {
	case isOurs && slices.Contains(allowed, ours):
	case isOurs:
		return "not in the table"
	case slices.Contains(mayNotUse[name], imported):
		return "not its business"
	case strings.Contains(strings.Split(imported, "/")[0], "."):
		if !slices.ContainsFunc(allowed, func(module string) bool {
			return imported == module || strings.HasPrefix(imported, module+"/")
		}) {
			return "not in the table"
		}
	}
	return ""
}

func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "postern/...")
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, complaints.String())
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("only %d packages found", len(all))
	}
	return all
}
