package session

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"slices"
	"sync"
	"testing"
	"time"

	"postern/enforce"
)

// hosted is a directory in which tenant.example asks for mx.tenant.example.
func hosted() *directory {
	return &directory{find: named(map[string]string{"tenant.example": "mx.tenant.example"}), hosts: []string{"mx.tenant.example"}}
}

// verifying has chains verify whose leaf has that name.
func verifying(name string) func(*Snapshot) {
	return func(s *Snapshot) {
		s.Verify = func(_ string, chain []*x509.Certificate, _ x509.ExtKeyUsage, _ time.Time) (enforce.ChainResult, []*x509.Certificate) {
			return enforce.ChainResult{Verified: slices.Contains(chain[0].DNSNames, name), Reason: enforce.CertNotTrusted}, chain
		}
	}
}

func TestWhatWasDemandedOfTheFirstLegIsDemandedOfItsReplacement(t *testing.T) {
	t.Run("by the connection's rule", func(t *testing.T) {
		rule := enforce.Rule{Name: "r", TLS: enforce.Forced, Verify: enforce.VerifyName, Names: []string{"mx.example.net"}, Auto: true}
		b := newBench(t, options{edit: withPartners(hosted()), rules: []enforce.Rule{rule}})
		first := b.greeted(true, "PIPELINING")
		b.client.say("MAIL FROM:<a@x.example>\nRCPT TO:<b@tenant.example>\n")
		first.hears("MAIL FROM:<a@x.example>")
		first.say("250 ok\n")
		var asked string
		second := b.again(&asked, "PIPELINING")
		second.hears("MAIL FROM:<a@x.example>")
		second.say("250 ok\n")
		second.hearsEnd()
		b.client.hears("250 ok", "451 4.7.5 mx.example.net: tenant.example: the certificate does not match (dane-mismatch) …")
	})
	t.Run("by the sender's REQUIRETLS", func(t *testing.T) {
		b := newBench(t, options{edit: withPartners(hosted(), verifying("mx.example.net"))})
		first := b.greeted(true, "PIPELINING", "REQUIRETLS")
		b.encrypted()
		b.client.say("MAIL FROM:<a@x.example> REQUIRETLS\nRCPT TO:<b@tenant.example>\n")
		first.hears("MAIL FROM:<a@x.example> REQUIRETLS")
		first.say("250 ok\n")
		b.client.hears("250 ok")
		// The certificate names no host of the domain, which REQUIRETLS asks for too
		// (RFC 8689 §4.2.1): no other connection is made for that.
		b.client.hears("550 5.7.30 …")
	})
}

func TestALegThatTheClientKnowsSomethingOfIsNotReplaced(t *testing.T) {
	mint := func(s *Snapshot) {
		s.Mint = func(*x509.Certificate, bool) (*tls.Certificate, error) { return testCertificate("minted.example"), nil }
	}
	for _, tc := range []struct {
		name  string
		edit  func(*Snapshot)
		in    func(*bench, *peer)
		stays bool
	}{
		{"nothing", func(*Snapshot) {}, func(*bench, *peer) {}, false},
		{"the certificate minted in its name", mint, func(*bench, *peer) {}, true},
		{"that it authenticated there", func(*Snapshot) {}, func(b *bench, up *peer) {
			b.client.say("AUTH PLAIN AGEAYg==\n")
			up.hears("AUTH PLAIN AGEAYg==")
			up.say("235 welcome\n")
			b.client.hears("235 welcome")
		}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, options{edit: withPartners(hosted(), tc.edit)})
			first := b.greeted(true, "PIPELINING", "AUTH PLAIN")
			b.encrypted()
			tc.in(b, first)
			b.client.say("MAIL FROM:<a@x.example>\nRCPT TO:<b@tenant.example>\n")
			first.hears("MAIL FROM:<a@x.example>")
			first.say("250 ok\n")
			b.client.hears("250 ok")
			if tc.stays {
				b.client.hears("451 4.7.5 …")
				return
			}
			b.server() // it is dialled again
		})
	}
}

func TestALegIsNotReplacedWithinAMessageOrAnUncertainEnvelope(t *testing.T) {
	for _, tc := range []struct {
		name string
		tx   transaction
		open bool // it is not known what envelope the upstream has
		want bool
	}{
		{"a bare MAIL", transaction{answered: true}, false, true},
		{"not answered yet", transaction{}, false, false},
		{"refused", transaction{answered: true, refused: true}, false, false},
		{"with a recipient", transaction{answered: true, live: 1}, false, false},
		{"with a chunk", transaction{answered: true, chunked: true}, false, false},
		{"behind a chunk that was refused", transaction{answered: true}, true, false},
	} {
		s := &Session{tx: &tc.tx, uncertain: tc.open}
		if got := s.bare(&tc.tx); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

func TestSessionsUnderTwoNamesAreNotResumedForEachOther(t *testing.T) {
	var mu sync.Mutex
	var keys []string
	resume := func(s *Snapshot) {
		s.Resume = func(key string) tls.ClientSessionCache {
			mu.Lock()
			defer mu.Unlock()
			keys = append(keys, key)
			return nil
		}
	}
	b := newBench(t, options{edit: withPartners(hosted(), resume)})
	first := b.greeted(true)
	b.client.say("MAIL FROM:<a@x.example>\n")
	first.hears("MAIL FROM:<a@x.example>")
	first.say("250 ok\n")
	b.client.hears("250 ok")
	b.client.say("RCPT TO:<b@tenant.example>\n")
	var asked string
	b.again(&asked)
	mu.Lock()
	defer mu.Unlock()
	if len(keys) != 2 || keys[0] == keys[1] {
		t.Errorf("kept under %q", keys)
	}
}

func TestWhatIsMintedLooksNoBetterThanWhatTheUpstreamShowed(t *testing.T) {
	for _, tc := range []struct {
		name     string
		noVerify bool
		revoked  *enforce.RevocationResult
		trusted  bool
	}{
		{"it verifies, and nobody asks whether it was revoked", false, nil, true},
		{"it does not verify", true, nil, false},
		{"it was not revoked", false, &enforce.RevocationResult{State: enforce.RevocationGood}, true},
		{"it was revoked", false, &enforce.RevocationResult{State: enforce.Revoked}, false},
		{"it is not known whether it was", false, &enforce.RevocationResult{}, false},
		{"there is nobody to ask", false, &enforce.RevocationResult{NobodyToAsk: true}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			trusted := make(chan bool, 1)
			b := newBench(t, options{noVerify: tc.noVerify, edit: func(s *Snapshot) {
				s.Mint = func(_ *x509.Certificate, is bool) (*tls.Certificate, error) {
					trusted <- is
					return testCertificate("minted.example"), nil
				}
				if tc.revoked != nil {
					s.Revoked = func(context.Context, []*x509.Certificate, []byte, bool) enforce.RevocationResult { return *tc.revoked }
				}
			}})
			b.greeted(true)
			b.starts(nil)
			if got := <-trusted; got != tc.trusted {
				t.Errorf("made to look trusted: %v", got)
			}
		})
	}
}

func TestALegThatFellShortTeachesNothing(t *testing.T) {
	m := &memoryOf{}
	rule := enforce.Rule{Name: "r", TLS: enforce.Forced, Verify: enforce.VerifyName, Names: []string{"mx.other.example"}, OnViolation: enforce.OnViolationLog}
	b := newBench(t, options{rules: []enforce.Rule{rule}, edit: func(s *Snapshot) { s.Memory = m }})
	b.greeted(true)
	b.client.conn.Close()
	b.record()
	if len(m.learnt) > 0 {
		t.Errorf("learnt %+v", m.learnt)
	}
}
