package mta_test

import (
	"strings"
	"testing"

	"postern/proxy/proxytest/mta"
)

// An old Postfix that finds TLS too new for it comes back in clear when the mail
// has waited a while. Held, it is told why and keeps it; mended, it delivers.
func TestAnOldPostfixThatComesBackInClearIsHeld(t *testing.T) {
	const holding = "[tls]\nhold_for = [\"10.1.0.0/16\"]\n"
	s := newSite(t)
	s.receive(mta.Options{})
	old := map[string]string{
		"smtp_tls_protocols": "<=TLSv1.1", "smtp_tls_ciphers": "medium", "tls_medium_cipherlist": "ALL:@SECLEVEL=0",
		"minimal_backoff_time": "4s", // after which it does without TLS, counted in whole seconds
	}
	s.send(mta.Options{TLS: mta.May, Parameters: old})
	p := s.guard(holding)
	outside := s.capture("wan0")
	content := message(4000)
	s.submit(content, recipient)
	s.deferred(recipient, `Cannot start TLS: handshake failure`)
	if _, err := s.sender.WaitQueue(within(t, patience), func(queue []mta.Queued) bool {
		must(t, s.sender.Flush())
		return len(queue) == 1 && len(queue[0].Recipients) == 1 && strings.Contains(queue[0].Recipients[0].Reason, "451")
	}); err != nil {
		t.Error(err)
	}
	s.deferred(recipient, `: 451 4\.7\.5 mx\.partner\.example: your last TLS handshake with this server offered TLS 1\.1, which is below TLS 1\.2 \(client-tls-too-low\) \[`)
	records := p.records(len(p.lines("session"))) // it has tried as often as it was told to
	if first := records[0]; first.ClientTLS.State != "failed" || first.Reason != "client-tls-too-low" {
		t.Errorf("the handshake's record says %+v", first)
	}
	inClear := 0
	for _, r := range records {
		if r.ClientTLS.State == "none" {
			inClear++
		}
		if r.Reason != "client-tls-too-low" || r.Verdict != "defer" {
			t.Errorf("a record says %+v", r)
		}
	}
	if inClear == 0 {
		t.Error("it never came back in clear")
	}
	outside.wants(false)
	if err := s.sender.Stop(); err != nil {
		t.Fatal(err)
	}
	s.send(mta.Options{TLS: mta.May})
	s.submit(content, recipient)
	s.arrived(content, recipient)
}
