package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"postern/proxy/internal/intercept"
	"postern/proxy/proxytest/netlab"
)

// The machines that are examined are network namespaces.
func TestMain(m *testing.M) {
	code, err := netlab.Enter(netlab.Options{}, func() int {
		code := m.Run()
		if err := goleak.Find(); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func network(t *testing.T, make func() (*netlab.Network, error)) *netlab.Network {
	t.Helper()
	n, err := make()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

const long = 20 * time.Second

// shell runs a script on the host, as somebody would who pastes it.
func shell(t *testing.T, host *netlab.Host, script string) {
	t.Helper()
	var said strings.Builder
	command := host.Command(within(t, long), "sh", "-ec", script)
	command.Stdout, command.Stderr = &said, &said
	if err := host.Run(command); err != nil {
		t.Fatalf("%s: %v (Debian: apt-get install iproute2 procps nftables)\n%s", script, err, said.String())
	}
}

func tproxy() Patient {
	return Patient{Plan: intercept.Plan{
		Method: intercept.TProxy, Interfaces: []string{"lan0"}, Ports: []uint16{25}, WhenDown: intercept.Block,
		Listen:         []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:2525"), netip.MustParseAddrPort("[::1]:2525")},
		PreserveSource: true,
	}}
}

func up(t *testing.T, host *netlab.Host, p Patient) {
	t.Helper()
	if err := host.Do(func() error { _, err := p.Plan.Up(); return err }); err != nil {
		t.Fatal(err)
	}
}

// serve listens as the daemon would: this program is the one that is looked for.
func serve(t *testing.T, host *netlab.Host, p Patient) {
	t.Helper()
	for _, address := range p.Plan.Listen {
		l, err := host.Listen(address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
	}
}

// examined gives what one check says of a host.
func examined(t *testing.T, host *netlab.Host, p Patient, name string) []Finding {
	t.Helper()
	var found []Finding
	err := host.Do(func() error {
		e := &examination{Patient: p, now: time.Now(), systemctl: noSystemd}
		for _, c := range checks() {
			if c.name == name {
				found = e.examine(context.Background(), []check{c})
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func noSystemd(context.Context, ...string) ([]byte, error) { return nil, nil }

// wants the findings to be these, each a severity and a part of what is said.
func wants(t *testing.T, found []Finding, want ...string) {
	t.Helper()
	for i, f := range found {
		if f.What == "" || f.Why == "" || f.Check == "" {
			t.Errorf("something is not said: %+v", f)
		}
		line := string(f.Severity) + ": " + f.What
		if i >= len(want) || !saidAs(line, want[i]) {
			t.Errorf("found %q, expected %q", found, want)
			return
		}
	}
	if len(found) != len(want) {
		t.Errorf("found %q, expected %q", found, want)
	}
}

// saidAs compares, up to an ellipsis.
func saidAs(line, want string) bool {
	beginning, cut := strings.CutSuffix(want, "…")
	return line == want || cut && strings.HasPrefix(line, beginning)
}

// mend pastes the commands that a shell can take without the program itself.
func mend(t *testing.T, host *netlab.Host, found []Finding) {
	t.Helper()
	for _, f := range found {
		for _, command := range f.Mend {
			shell(t, host, command)
		}
	}
}

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}
