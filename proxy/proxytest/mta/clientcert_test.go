package mta_test

import (
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/mta"
)

// fingerprint is how Postfix writes that of a certificate in a file.
func fingerprint(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	block, _ := pem.Decode(text)
	return strings.ReplaceAll(fmt.Sprintf("% X", sha256.Sum256(block.Bytes)), " ", ":")
}

// The upstream is one that takes mail of one client certificate alone, as a
// hosted relay is.
func TestAPostfixThatRelaysByClientCertificateGetsThatOfTheRule(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ demand, without string }{
		{"smtpd_tls_ask_ccert", `450 4\.3\.2 .*: Recipient address rejected`},
		{"smtpd_tls_req_ccert", `421 4\.7\.1 mx\.partner\.example Error: No client certificate presented`},
	} {
		t.Run(c.demand, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			cert, key := s.certificate(s.pki, "hybrid", proxytest.Leaf{Names: []string{"hybrid.hospital.example"}, Client: true}, nobody(t))
			relays := filepath.Join(s.dir, "relay_clientcerts")
			must(t, os.WriteFile(relays, []byte(fingerprint(t, cert)+" hybrid\n"), 0o644))
			s.receive(mta.Options{Parameters: map[string]string{
				"smtpd_tls_security_level": "encrypt", c.demand: "yes", "smtpd_tls_CAfile": s.roots(), "smtpd_tls_fingerprint_digest": "sha256",
				"relay_clientcerts": "texthash:" + relays, "smtpd_relay_restrictions": "permit_tls_clientcerts, defer",
			}})
			s.send(mta.Options{TLS: mta.May})
			own := fmt.Sprintf("[[tls.certificate]]\nname = \"hybrid\"\ncert = %q\nkey = %q\n", cert, key)
			p := s.guard(own + forced)
			content := message(4000)
			s.submit(content, recipient)
			s.deferred(recipient, c.without)
			p.reload(own + forced + "client_certificate = \"hybrid\"\n")
			must(t, s.sender.Flush())
			s.arrived(content, recipient)
			record := p.records(2)[1]
			record.agreesWith(s)
			all, err := s.receiver.Handshakes()
			must(t, err)
			if last := all[len(all)-1]; last.Trust != "Trusted" {
				t.Errorf("the receiver logged %+v", all)
			}
		})
	}
}

func TestASendersCertificateIsDemandedByName(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, has, reason string }{
		{"the right one", "branch.hospital.example", ""},
		{"another", "elsewhere.example", "client-cert-mismatch"},
		{"none", "", "client-cert-missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.receive(mta.Options{})
			o := mta.Options{TLS: mta.May}
			if c.has != "" {
				cert, key := s.certificate(s.pki, "client", proxytest.Leaf{Names: []string{c.has}, Client: true}, 0)
				o.Parameters = map[string]string{"smtp_tls_chain_files": key + ", " + cert}
			}
			s.send(o)
			p := s.guard("[[rule]]\nname = \"branch\"\nfrom_networks = [\"10.1.0.0/24\"]\nclient_tls = \"verified\"\nclient_names = [\"branch.hospital.example\"]\n")
			content := message(4000)
			s.submit(content, recipient)
			if c.reason == "" {
				s.arrived(content, recipient)
			} else {
				s.deferred(recipient, `: 451 4\.7\.5 mx\.partner\.example: .* \(`+c.reason+`\) \[`)
			}
			record := p.records(1)[0]
			record.agreesWith(s)
			shown := record.ClientTLS.Certificate
			if record.Reason != c.reason || record.ClientTLS.Verified != (c.has != "") {
				t.Errorf("the record says %+v", record)
			}
			if c.has != "" && (!slices.Equal(shown.Names, []string{c.has}) || !slices.Equal(shown.Chain, []string{"CN=Trusted Intermediate,O=proxytest"})) {
				t.Errorf("the record says of the certificate %+v", shown)
			}
		})
	}
}
