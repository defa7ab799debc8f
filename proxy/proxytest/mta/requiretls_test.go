package mta_test

import (
	"crypto/tls"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postern/proxy/proxytest"
)

// REQUIRETLS (RFC 8689) is in no mail server that these tests have; smtplib says
// what it is told to.
func TestRequireTLSIsKeptAllTheWayOrRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name            string
		plain, without  bool // the server: without TLS, without REQUIRETLS
		unknown         bool // its authority is not known
		clear           bool // the client: without TLS
		offered, passes bool
	}{
		{name: "both legs are TLS and the server verifies", offered: true, passes: true},
		{name: "the server is in clear", plain: true, clear: true},
		{name: "the server does not offer it", without: true},
		{name: "the server does not verify", unknown: true},
		{name: "the client is in clear", clear: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			config := proxytest.ServerConfig{Name: receiverName, Capabilities: []string{"PIPELINING", "8BITMIME", "REQUIRETLS"}}
			if !c.plain {
				pki := s.pki
				if c.unknown {
					pki = s.others
				}
				config.TLS = serverTLS(t, pki, receiverName)
				config.CapabilitiesTLS, config.Capabilities = config.Capabilities, []string{"PIPELINING", "8BITMIME"}
				if c.without {
					config.CapabilitiesTLS = config.Capabilities
				}
			}
			listener, err := s.net.Server.Listen(netip.AddrPortFrom(s.server, 25))
			must(t, err)
			server := proxytest.Serve(listener, config)
			t.Cleanup(func() { _ = server.Close() })
			s.guard("")
			args := []string{"testdata/smtplib_requiretls.py", s.server.String(), receiverName, s.roots()}
			if c.clear {
				args = append(args[:3], "")
			}
			command := s.net.Client.Command(within(t, patience), systemPython(), args...)
			command.Dir, err = filepath.Abs(".")
			must(t, err)
			said, err := output(command, s.net.Client.Run)
			if err != nil {
				t.Fatalf("%v: %s", err, said)
			}
			lines := strings.Split(strings.TrimSpace(said), "\n")
			if offered := lines[0] == "offered"; offered != c.offered {
				t.Errorf("it was offered: %t, want %t", offered, c.offered)
			}
			messages := server.Messages()
			if c.passes {
				if lines[1] != "250" || len(messages) != 1 || messages[0].From != "" || !slices.Contains(strings.Fields(messages[0].FromParams), "REQUIRETLS") || !messages[0].TLS {
					t.Errorf("it was told %q; the server has %+v", said, messages)
				}
			} else if !strings.HasPrefix(lines[1], "550 5.7.30 ") || !strings.Contains(lines[1], "(requiretls-not-possible) [") || len(messages) > 0 {
				t.Errorf("it was told %q; the server has %+v", said, messages)
			}
		})
	}
}

// serverTLS is the TLS of a test server with this name.
func serverTLS(t *testing.T, pki *proxytest.PKI, name string) *tls.Config {
	t.Helper()
	certificate, err := pki.Issue(proxytest.Leaf{Names: []string{name}})
	must(t, err)
	return &tls.Config{Certificates: []tls.Certificate{certificate}}
}
