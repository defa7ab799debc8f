package mta_test

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/mta"
)

// authority makes one that Postern mints from, and gives its part of the
// configuration and the file that those who trust it have.
func (s *site) authority() (config, roots string) {
	s.t.Helper()
	own, err := proxytest.NewPKI("Hospital")
	must(s.t, err)
	roots, key, err := own.Root.Write(s.dir, "minter")
	must(s.t, err)
	// Postern is nobody here, and the sender reads its roots as somebody else.
	must(s.t, errors.Join(os.Chmod(roots, 0o644), os.Chown(key, nobody(s.t), -1)))
	return fmt.Sprintf("[tls.authority]\ncert = %q\nkey = %q\n", roots, key), roots
}

// A sender that verifies trusts Postern's authority, and nobody else: whom it
// trusts thereby is whom Postern has verified, by the upstream's own name.
func TestASenderThatVerifiesAcceptsAMintedCertificateOnlyOfWhomPosternVerified(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		leaf proxytest.Leaf
		why  string // the sender does not accept it
	}{
		{"good", proxytest.Leaf{Names: []string{receiverName}}, ""},
		{"of another name", proxytest.Leaf{Names: []string{"mx.elsewhere.example"}}, "hostname mismatch"},
		{"expired", proxytest.Leaf{Names: []string{receiverName}, NotAfter: time.Now().Add(-time.Hour)}, "untrusted issuer"},
		{"self-signed", proxytest.Leaf{Names: []string{receiverName}, SelfSigned: true}, "untrusted issuer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			cert, key := s.certificate(s.pki, "shown", c.leaf, 0)
			s.receive(mta.Options{Certificate: cert, Key: key})
			config, roots := s.authority()
			// The name that it wants is also what it asks for by SNI.
			s.send(mta.Options{TLS: mta.Verify, Roots: roots, Names: []string{receiverName}, Parameters: map[string]string{"smtp_tls_servername": receiverName}})
			p := s.guard(config)
			content := message(4000)
			s.submit(content, recipient)
			if c.why == "" {
				s.arrived(content, recipient)
				wantTrust(t, s.sender, "Verified")
			} else {
				s.deferred(recipient, `Server certificate not (trusted|verified)`)
				s.nothingStored()
				wantTrust(t, s.sender, "Untrusted")
				_, err := s.sender.WaitLog(within(t, patience), regexp.MustCompile("certificate verification failed for .*: .*"+c.why))
				must(t, err)
			}
			record := p.records(1)[0]
			record.agreesWith(s)
			if record.ClientTLS.SNI != receiverName || strings.Contains(record.ClientTLS.Failure, "may not accept the certificate") != (c.why != "") {
				t.Errorf("the record says %+v", record)
			}
		})
	}
}
