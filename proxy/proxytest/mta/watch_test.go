package mta_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/mta"
)

const watchingRule = `
[[rule]]
name = "end-to-end"
from_networks = ["10.1.0.0/16"]
inspect = "watch"
tls = "forced"
owner = "it-sec"
expires = 2099-12-31
`

// otherRoots are those of an authority that the sender trusts and Postern does not
// know: what they vouch for can only have come from the receiver itself.
func (s *site) otherRoots() (roots, cert, key string) {
	s.t.Helper()
	dir := filepath.Join(s.dir, "others")
	must(s.t, os.Mkdir(dir, 0o755))
	_, err := s.others.WriteRoot(dir)
	must(s.t, err)
	roots = filepath.Join(dir, "root.pem")
	must(s.t, os.Chmod(roots, 0o644))
	cert, key = s.certificate(s.others, "receiver", proxytest.Leaf{Names: []string{receiverName}}, 0)
	return roots, cert, key
}

// This is what watching is for: the sender verifies the receiver itself.
func TestAPostfixThatVerifiesReachesTheServersOwnCertificateThroughAWatchingRule(t *testing.T) {
	for name, protocols := range map[string]string{"TLS 1.2": "TLSv1.2", "TLS 1.3": "TLSv1.3"} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			roots, cert, key := s.otherRoots()
			s.receive(mta.Options{Certificate: cert, Key: key})
			s.send(mta.Options{TLS: mta.Verify, Roots: roots, Names: []string{receiverName}, Parameters: map[string]string{"smtp_tls_mandatory_protocols": protocols}})
			p := s.guard(watchingRule)
			outside := s.capture("wan0")
			content := message(20000)
			s.submit(content, recipient)
			s.arrived(content, recipient)
			record := p.records(1)[0]
			record.agreesWithTLS(s)
			if record.ClientTLS.State != "watched" || record.UpstreamTLS.State != "watched" || record.UpstreamTLS.Version != name || record.Verdict != "allow" || record.Rule != "end-to-end" {
				t.Errorf("the record says %+v", record)
			}
			outside.wants(false)
		})
	}
}

// agreesWithTLS holds both legs, which are one TLS, against both logs.
func (c conversation) agreesWithTLS(s *site) {
	s.t.Helper()
	agrees(s.t, "client leg", c.ClientTLS, s.sender, s.server)
	agrees(s.t, "upstream leg", c.UpstreamTLS, s.receiver, s.client)
}

// The same Postfix does not get through where its TLS ends at Postern.
func TestAPostfixThatVerifiesRefusesTheCertificateOfARuleThatTerminates(t *testing.T) {
	s := newSite(t)
	roots, cert, key := s.otherRoots()
	s.receive(mta.Options{Certificate: cert, Key: key})
	s.send(mta.Options{TLS: mta.Verify, Roots: roots, Names: []string{receiverName}})
	s.guard(strings.Replace(watchingRule, `inspect = "watch"`, "", 1))
	s.submit(message(1000), recipient)
	s.deferred(recipient, `Server certificate not (verified|trusted)`)
}

func TestOpenSSLBelowTheFloorIsCutWhereItIsWatched(t *testing.T) {
	s := newSite(t)
	s.receive(mta.Options{Parameters: map[string]string{"smtpd_tls_protocols": ">=TLSv1", "smtpd_tls_ciphers": "medium", "tls_medium_cipherlist": "ALL:@SECLEVEL=0"}})
	s.mustSpeak("TLSv1.1")
	p := s.guard(watchingRule)
	out, err := output(s.sClient(s.net.Client, versionFlags["TLSv1.1"]), s.net.Client.Run)
	if err == nil || strings.Contains(out, "Protocol version: ") {
		t.Errorf("the handshake succeeds: %s", out)
	}
	if r := p.records(1)[0]; r.Reason != "client-tls-too-low" || r.ClientTLS.State != "failed" {
		t.Errorf("the record says %+v", r)
	}
}

func TestAPostfixInClearIsUpgradedByAWatchingRule(t *testing.T) {
	s := newSite(t)
	s.receive(mta.Options{})
	s.send(mta.Options{})
	p := s.guard(watchingRule)
	outside := s.capture("wan0")
	content := message(20000)
	s.submit(content, recipient)
	s.arrived(content, recipient)
	outside.wants(false)
	if r := p.records(1)[0]; r.ClientTLS.State != "none" || r.UpstreamTLS.State != "ok" || r.TLS != "encrypt:TLSv1.3" {
		t.Errorf("the record says %+v", r)
	}
}
