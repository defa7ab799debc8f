package mta_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"postern/proxy/proxytest/mta"
)

// probed is what of "postern probe --format json" is looked at here.
type probed struct {
	Fine  bool
	Hosts []struct {
		Addresses []struct {
			Versions, Groups []struct{ Name, Result string }
			Suites           map[string]any
			Session          struct{ Version, Cipher string }
			Chain            struct{ Verified bool }
			Verdict          struct{ Verdict, Reason string }
			Connections      int
		}
	}
}

// probe runs the program on the client's machine.
func (s *site) probe(at netip.Addr) probed {
	s.t.Helper()
	program, err := build()
	must(s.t, err)
	config := filepath.Join(s.dir, "probe.toml")
	must(s.t, os.WriteFile(config, []byte("intercept.interfaces = [\"lan0\"]\ntls.trust.ca = \""+s.roots()+"\"\n"+forced), 0o644))
	command := s.net.Client.Command(within(s.t, patience), program, "probe", at.String(), "--format", "json", "--config", config)
	out, _ := output(command, s.net.Client.Run)
	var p probed
	if err := json.Unmarshal([]byte(out), &p); err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
	return p
}

func TestWhatPostfixWasToldToAcceptIsWhatAProbeFinds(t *testing.T) {
	for _, c := range []struct {
		name, protocols, ciphers string
		versions, suites         []string
		verdict                  string
	}{
		{"modern", ">=TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305", []string{"TLS 1.2", "TLS 1.3"},
			[]string{"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"}, "allow"},
		{"old", "<=TLSv1.1", "ALL:@SECLEVEL=0", []string{"TLS 1.0", "TLS 1.1"}, nil, "defer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			s.receive(mta.Options{Parameters: lax(c.protocols, c.ciphers)})
			found := s.probe(s.net.Server4)
			a := found.Hosts[0].Addresses[0]
			var versions []string
			for _, v := range a.Versions {
				if v.Result == "accepted" {
					versions = append(versions, v.Name)
				}
			}
			var suites []string
			for _, one := range a.Suites["tls1.2"].([]any) {
				suites = append(suites, one.(string))
			}
			slices.Sort(suites)
			if !slices.Equal(versions, c.versions) || !slices.Equal(suites, c.suites) || !a.Chain.Verified || a.Verdict.Verdict != c.verdict || found.Fine != (c.verdict == "allow") {
				t.Errorf("%+v", a)
			}
			// Postfix logs each handshake that came to its end, and those alone.
			logged, err := s.receiver.Handshakes()
			must(t, err)
			seen := map[string]bool{}
			for _, h := range logged {
				seen[h.Version] = true
			}
			if len(logged) == 0 || len(logged) > a.Connections || c.verdict == "allow" && len(seen) != 2 {
				t.Errorf("%d connections, and Postfix logged %+v", a.Connections, logged)
			}
		})
	}
}
