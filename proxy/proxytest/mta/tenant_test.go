package mta_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/dnslab"
	"postern/proxy/proxytest/mta"
)

// A hoster's Postfix shows its own certificate to who does not ask for another.
func TestAHostedDomainIsAskedForByItsOwnNameOnASecondConnection(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	const tenant = "mx.tenant.example"
	cert, key := s.certificate(s.pki, "hoster", proxytest.Leaf{Names: []string{receiverName}}, 0)
	hostedCert, hostedKey := s.certificate(s.pki, "tenant", proxytest.Leaf{Names: []string{tenant}}, 0)
	hosted := filepath.Join(s.dir, "sni")
	must(t, os.WriteFile(hosted, []byte(tenant+" "+hostedKey+" "+hostedCert+"\n"), 0o644))
	s.receive(mta.Options{Certificate: cert, Key: key, Parameters: map[string]string{"tls_server_sni_maps": "texthash:" + hosted}})
	s.send(mta.Options{TLS: mta.May})
	s.publish(s.net.Gateway, dnslab.Zone{Name: strict, Records: []string{"@ MX 10 " + tenant + "."}},
		dnslab.Zone{Name: "tenant.example", Records: []string{"mx A " + s.server.String()}})
	p := s.guard("[[rule]]\nname = \"tenant\"\nto_domains = [\"" + strict + "\"]\ntls = \"forced\"\nverify = \"name\"\nnames = [\"" + tenant + "\"]\n")
	content := message(large)
	to := "office@" + strict
	s.submit(content, to)
	s.arrived(content, to)
	record := p.records(1)[0]
	record.agreesWith(s)
	if record.UpstreamTLS.SNI != tenant || len(record.UpstreamTLS.Certificate.Names) != 1 || record.UpstreamTLS.Certificate.Names[0] != tenant ||
		record.Verdict != "allow" || len(record.Transactions) != 1 || record.Transactions[0].Accepted != 1 {
		t.Errorf("the record says %+v", record)
	}
	lines, err := s.receiver.Log()
	must(t, err)
	all := strings.Join(lines, "\n")
	if made := strings.Count(all, ": connect from "); made != 2 {
		t.Errorf("%d connections were made, want 2:\n%s", made, all)
	}
	if strings.Count(all, "TLS SNI "+receiverName+" from unknown["+s.client.String()+"] not matched, using default chain") != 1 {
		t.Errorf("the first was not made under the server's own name:\n%s", all)
	}
	if begun := strings.Count(all, "client=unknown["+s.client.String()+"]"); begun != 1 {
		t.Errorf("%d messages were begun:\n%s", begun, all)
	}
}
