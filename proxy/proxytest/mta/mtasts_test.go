package mta_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/dnslab"
	"postern/proxy/proxytest/mta"
)

// policyHost is where mta-sts.partner.example is.
const policyHost = "203.0.113.200"

// webServers serve a directory over HTTPS, given a certificate and its key.
var webServers = []struct {
	name  string
	serve func(s *site, cert, key string) *helper
}{
	{"http.server", func(s *site, cert, key string) *helper {
		script, err := filepath.Abs("testdata/https_server.py")
		must(s.t, err)
		return listening(s, regexp.MustCompile(`^listening`), systemPython(), script, policyHost, cert, key, s.dir)
	}},
	{"openssl s_server", func(s *site, cert, key string) *helper {
		return listening(s, regexp.MustCompile(`^ACCEPT`), "openssl", "s_server", "-WWW", "-accept", policyHost+":443",
			"-cert", cert, "-cert_chain", cert, "-key", key)
	}},
}

// A policy that was fetched holds on when nobody can be asked for it any more,
// and a restart does not lose it.
func TestAPolicyHoldsWhenItsHostIsGoneAndPosternHasRestarted(t *testing.T) {
	t.Parallel()
	for _, web := range webServers {
		t.Run(web.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.system = s.roots()
			s.receive(mta.Options{})
			s.send(mta.Options{TLS: mta.May})
			s.publish(s.net.Gateway, dnslab.Zone{Name: partner, Records: append(published(""),
				`_mta-sts 1 TXT "v=STSv1; id=20260302;"`, "mta-sts 1 A "+policyHost)})
			must(t, s.net.Server.AddAddress("eth0", netip.MustParsePrefix(policyHost+"/24")))
			must(t, os.Mkdir(filepath.Join(s.dir, ".well-known"), 0o755))
			must(t, os.WriteFile(filepath.Join(s.dir, ".well-known", "mta-sts.txt"),
				[]byte("version: STSv1\r\nmode: enforce\r\nmx: "+receiverName+"\r\nmax_age: 604800\r\n"), 0o644))
			cert, key := s.certificate(s.pki, "web", proxytest.Leaf{Names: []string{"mta-sts." + partner}}, 0)
			host := web.serve(s, cert, key)
			p := s.guard("[verify]\ncache = \"" + filepath.Join(s.dir, "postern", "policies") + "\"\n")

			content := message(4000)
			s.submit(content, recipient)
			must(t, s.receiver.Forget(s.arrived(content, recipient)))
			if record := p.records(1)[0]; record.UpstreamTLS.MTASTS != "enforce" || record.Verdict != "allow" {
				t.Errorf("the record says %+v", record)
			}
			host.kill()

			// Somebody else answers in the server's place.
			must(t, s.receiver.Stop())
			cert, key = s.certificate(s.pki, "other", proxytest.Leaf{Names: []string{"mx.elsewhere.example"}}, 0)
			s.receive(mta.Options{Certificate: cert, Key: key})
			s.submit(content, recipient)
			s.deferred(recipient, `: 451 4\.7\.5 mx\.partner\.example: .* \(mta-sts-cert\) \[`)
			if record := p.records(2)[1]; record.UpstreamTLS.MTASTS != "enforce" || record.Reason != "mta-sts-cert" {
				t.Errorf("the record says %+v", record)
			}
			p.stop()
			p.start()
			must(t, s.sender.Flush())
			if record := p.records(3)[2]; record.UpstreamTLS.MTASTS != "enforce" || record.Reason != "mta-sts-cert" {
				t.Errorf("after a restart the record says %+v", record)
			}
			s.deferred(recipient, `\(mta-sts-cert\)`)
			must(t, s.receiver.Stop())
			s.receive(mta.Options{})
			must(t, s.sender.Flush())
			s.arrived(content, recipient)
		})
	}
}
