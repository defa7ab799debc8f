package session

import (
	"crypto/tls"
	"errors"
	"testing"
)

func TestObservingPassesThroughWhereItWouldStandInTheWay(t *testing.T) {
	b := newBench(t, options{edit: func(s *Snapshot) { s.Observe = true }})
	up := upToHandshake(b)
	up.say("220 go\n")
	up.acceptTLS(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10})
	again := b.server()
	again.say("220 mx.example.net ESMTP\n")
	again.hears("EHLO client.example")
	again.say("250-mx.example.net\n250-XCLIENT\n250 STARTTLS\n")
	b.client.hears("250-mx.example.net", "250-XCLIENT", "250 STARTTLS")
	b.client.say("STARTTLS\n")
	again.hears("STARTTLS")
	again.say("220 go\n")
	b.client.hears("220 go")
	done := make(chan error, 1)
	go func() {
		done <- again.acceptTLS(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10})
	}()
	if err := errors.Join(b.client.startTLS(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10}), <-done); err != nil {
		t.Fatal(err)
	}
	b.client.say("QUIT\n")
	again.hears("QUIT")
	again.conn.Close()
	b.client.hearsEnd()
	wantFields(t, b.record(), map[string]string{"mode": "observe", "verdict": "defer", "reason": "tls-version-too-low", "end": "passed through"})
}

func TestObservingPassesThroughAClientBelowTheFloor(t *testing.T) {
	b := newBench(t, options{edit: func(s *Snapshot) { s.Observe = true }})
	b.greeted(true)
	b.client.say("STARTTLS\n")
	b.client.hears("220 2.0.0 …")
	done := make(chan error, 1)
	go func() {
		done <- b.client.startTLS(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10})
	}()
	again := b.server()
	again.say("220 mx.example.net ESMTP\n")
	again.hears("EHLO client.example")
	again.say("250-mx.example.net\n250 STARTTLS\n")
	again.hears("STARTTLS")
	again.say("220 go\n")
	if err := errors.Join(again.acceptTLS(&tls.Config{MinVersion: tls.VersionTLS10}), <-done); err != nil {
		t.Fatal(err)
	}
	b.client.say("EHLO inside\n")
	again.hears("EHLO inside")
	again.conn.Close()
	b.client.raw.Close()
	wantFields(t, b.record(), map[string]string{"mode": "observe", "reason": "client-tls-too-low", "end": "passed through"})
}
