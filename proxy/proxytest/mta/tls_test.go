package mta_test

import (
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"postern/proxy/proxytest/mta"
)

// cipherNames has the IANA name of each suite that OpenSSL knows by its own.
var cipherNames = sync.OnceValues(func() (map[string]string, error) {
	out, err := exec.Command("openssl", "ciphers", "-stdname", "ALL:@SECLEVEL=0").Output()
	names := map[string]string{}
	for line := range strings.Lines(string(out)) {
		// "TLS_RSA_WITH_AES_128_GCM_SHA256 - AES128-GCM-SHA256 TLSv1.2 …"
		if fields := strings.Fields(line); len(fields) > 2 {
			names[fields[2]] = fields[0]
		}
	}
	return names, err
})

// agrees holds a leg of the record against the handshakes that the mail server
// at its end logged with the other end: the last one, if the leg has TLS, else
// none at all.
func agrees(t *testing.T, what string, leg legTLS, p *mta.Postfix, other netip.Addr) {
	t.Helper()
	all, err := p.Handshakes()
	must(t, err)
	var logged []mta.Handshake
	for _, h := range all {
		if h.Peer == other {
			logged = append(logged, h)
		}
	}
	if leg.State != "ok" && leg.State != "watched" {
		if len(logged) > 0 {
			t.Errorf("%s: the record says TLS is %q, Postfix logged %+v", what, leg.State, logged)
		}
		return
	}
	if len(logged) == 0 {
		t.Fatalf("%s: the record says %s, Postfix logged no handshake", what, leg.Version)
	}
	names, err := cipherNames()
	must(t, err)
	last := logged[len(logged)-1]
	if version := strings.Replace(last.Version, "TLSv", "TLS ", 1); version != leg.Version || names[last.Cipher] != leg.Cipher {
		t.Errorf("%s: the record says %s %s, Postfix logged %s %s (%s)",
			what, leg.Version, leg.Cipher, last.Version, last.Cipher, names[last.Cipher])
	}
}

// agreesWith holds both legs against both servers' logs.
func (c conversation) agreesWith(s *site) {
	s.t.Helper()
	agrees(s.t, "client leg", c.ClientTLS, s.sender, s.server)
	agrees(s.t, "upstream leg", c.UpstreamTLS, s.receiver, s.client)
	if want := s.client.String(); c.Client.Address != want || c.Client.Helo != senderName {
		s.t.Errorf("the record has client %+v, want %s %s", c.Client, want, senderName)
	}
	if want := s.server.String(); c.Upstream.Address != want || c.Upstream.Port != 25 || !strings.Contains(c.Upstream.Banner, receiverName) {
		s.t.Errorf("the record has upstream %+v, want %s %s", c.Upstream, want, receiverName)
	}
}
