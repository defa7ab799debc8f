package session

import (
	"crypto/tls"
	"testing"
)

// It is how Postfix refuses a certificate: it sends no alert.
func TestAClientThatQuitsAsSoonAsTLSIsAgreedOnMayNotAcceptTheCertificate(t *testing.T) {
	for _, tc := range []struct{ said, reason, failure string }{
		{"QUIT\n", "client-refused-certificate", "the client quit when TLS was agreed on: it may not accept the certificate"},
		{"EHLO client.example\nQUIT\n", "", ""},
		{"RCPT TO:<a@x.example>\nQUIT\n", "", ""},
	} {
		t.Run(tc.said, func(t *testing.T) {
			b := newBench(t, options{})
			up := b.greeted(true)
			b.client.say("STARTTLS\n")
			b.client.hears("220 2.0.0 …")
			if err := b.client.startTLS(&tls.Config{InsecureSkipVerify: true}); err != nil {
				t.Fatal(err)
			}
			b.client.say(tc.said)
			up.hears("QUIT")
			up.say("221 bye\n")
			wantFields(t, b.record(), map[string]string{"verdict": "allow", "reason": tc.reason, "client_tls.state": "ok",
				"client_tls.failure": tc.failure, "end": "quit"})
		})
	}
}
