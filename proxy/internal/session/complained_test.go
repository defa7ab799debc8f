package session

import (
	"crypto/tls"
	"testing"

	"postern/enforce"
)

// It is how Postfix refuses a certificate: it sends no alert.
func TestAClientThatQuitsAsSoonAsTLSIsAgreedOnMayNotAcceptTheCertificate(t *testing.T) {
	for _, tc := range []struct {
		said, failure string
		complained    int
	}{
		{"QUIT\n", "the client quit when TLS was agreed on: it may not accept the certificate", 1},
		{"EHLO client.example\nQUIT\n", "", 0},
		{"RCPT TO:<a@x.example>\nQUIT\n", "", 0},
	} {
		t.Run(tc.said, func(t *testing.T) {
			complained := 0
			b := newBench(t, options{edit: func(s *Snapshot) { s.Complained = func(enforce.Connection) { complained++ } }})
			up := b.greeted(true)
			b.client.say("STARTTLS\n")
			b.client.hears("220 2.0.0 …")
			if err := b.client.startTLS(&tls.Config{InsecureSkipVerify: true}); err != nil {
				t.Fatal(err)
			}
			b.client.say(tc.said)
			up.hears("QUIT")
			up.say("221 bye\n")
			wantFields(t, b.record(), map[string]string{"verdict": "allow", "reason": "", "client_tls.state": "ok",
				"client_tls.failure": tc.failure, "end": "quit"})
			if complained != tc.complained {
				t.Errorf("told of %d times", complained)
			}
		})
	}
}
