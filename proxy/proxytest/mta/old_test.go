package mta_test

import (
	"testing"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/mta"
)

func TestOldServersAboveTheFloorGetTheirMail(t *testing.T) {
	const forwardSecret = forced + "forward_secrecy = true\n"
	for _, test := range []struct {
		name, protocols, ciphers string
		rsa                      bool
		version, cipher          string
		forwardSecrecy           bool
	}{
		{"TLS 1.2 alone", "<=TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256", false, "TLS 1.2", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", true},
		{"ECDHE with CBC", "<=TLSv1.2", "ECDHE-RSA-AES256-SHA", true, "TLS 1.2", "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", true},
		{"RSA key exchange with GCM", "<=TLSv1.2", "AES256-GCM-SHA384", true, "TLS 1.2", "TLS_RSA_WITH_AES_256_GCM_SHA384", false},
		{"RSA key exchange with CBC", "<=TLSv1.2", "AES128-SHA", true, "TLS 1.2", "TLS_RSA_WITH_AES_128_CBC_SHA", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSite(t)
			cert, key := s.certificate(s.pki, "old", proxytest.Leaf{Names: []string{receiverName}, RSA: test.rsa}, 0)
			s.receive(mta.Options{Certificate: cert, Key: key, Parameters: lax(test.protocols, test.ciphers)})
			s.send(mta.Options{TLS: mta.Encrypt})
			p := s.guard(forwardSecret)
			outside := s.capture("wan0")
			content := message(4000)
			s.submit(content, recipient)
			sessions := 1
			if !test.forwardSecrecy {
				// Such suites are not even offered where the rule asks for more.
				s.deferred(recipient, `: 421 4\.7\.5 mx\.partner\.example: .* \(tls-[a-z-]+\) \[`)
				refused := p.records(1)[0]
				refused.agreesWith(s)
				if refused.Verdict != "defer" || refused.UpstreamTLS.State != "failed" {
					t.Errorf("the record says %+v", refused)
				}
				p.reload(forced)
				must(t, s.sender.Flush())
				sessions++
			}
			s.arrived(content, recipient)
			outside.wants(false)
			record := p.records(sessions)[sessions-1]
			record.agreesWith(s)
			if up := record.UpstreamTLS; up.Version != test.version || up.Cipher != test.cipher || up.ForwardSecrecy != test.forwardSecrecy {
				t.Errorf("the record says %+v", up)
			}
		})
	}
}
