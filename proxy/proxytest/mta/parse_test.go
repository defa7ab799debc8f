package mta

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestHandshakesAreReadOffTheLog(t *testing.T) {
	const head = "Nov 24 04:03:40 mx postfix/"
	for _, test := range []struct {
		line string
		want Handshake
		ok   bool
	}{
		{"smtpd[7]: Anonymous TLS connection established from unknown[10.1.0.2]: TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits) key-exchange X25519",
			Handshake{true, netip.MustParseAddr("10.1.0.2"), "Anonymous", "TLSv1.3", "TLS_AES_256_GCM_SHA384"}, true},
		{"smtp[10]: Verified TLS connection established to 2001:db8:2::2[2001:db8:2::2]:25: TLSv1.2 with cipher AES128-SHA (128/128 bits)",
			Handshake{false, netip.MustParseAddr("2001:db8:2::2"), "Verified", "TLSv1.2", "AES128-SHA"}, true},
		{"smtp[10]: Untrusted TLS connection reused to a[192.0.2.1]:25: TLSv1.2 with cipher AES128-SHA (128/128 bits)", Handshake{}, false},
		{"smtp[10]: Untrusted TLS connection established to a[192.0.2]:25: TLSv1.2 with cipher AES128-SHA (128/128 bits)", Handshake{}, false},
		{"smtpd[7]: connect from unknown[10.1.0.2]", Handshake{}, false},
		{"smtpd[7]: SSL_accept error from unknown[10.1.0.2]: -1", Handshake{}, false},
		{"", Handshake{}, false},
	} {
		if got, ok := parseHandshake(head + test.line); ok != test.ok || got != test.want {
			t.Errorf("%q: %+v, %t", test.line, got, ok)
		}
	}
}

func TestTheQueueIsReadAMessageAnObject(t *testing.T) {
	const two = `{"queue_name": "deferred", "queue_id": "5933C984942", "arrival_time": 1763957020, "message_size": 4259, "forced_expire": false, "sender": "a@b.example", "recipients": [{"address": "c@d.example", "delay_reason": "host x said: 451 4.7.5 no"}]}
{"queue_name": "maildrop", "queue_id": "A", "message_size": 1, "sender": "", "recipients": [{"address": "e@f.example"}]}
`
	want := []Queued{
		{"deferred", "5933C984942", 4259, "a@b.example", []QueuedRecipient{{"c@d.example", "host x said: 451 4.7.5 no"}}},
		{"maildrop", "A", 1, "", []QueuedRecipient{{"e@f.example", ""}}},
	}
	got, err := parseQueue([]byte(two))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v (%v)", got, err)
	}
	if !Deferred(want[:1]) || Deferred(want) || Deferred(nil) || !Empty(nil) || Empty(want) {
		t.Error("deferred is what is put off and nothing beside it; empty is nothing")
	}
	if got, err := parseQueue(nil); err != nil || got != nil {
		t.Errorf("nothing: %+v (%v)", got, err)
	}
	if _, err := parseQueue([]byte(two[:40])); err == nil {
		t.Error("half an object went unnoticed")
	}
}

func TestTheEnvelopeIsReadOffTheLinesOnTop(t *testing.T) {
	const stored = "Return-Path: <a@b.example>\nX-Original-To: x@d.example\nDelivered-To: c@d.example\n" +
		"Received: from out (unknown [10.1.0.2])\n\t(using TLSv1.3)\n\tby mx\nDelivered-To: not@this.example\nReceived: by out\nTo: z\n\nReceived: in the body\n"
	m := parseMessage([]byte(stored))
	if m.From != "a@b.example" || m.To != "c@d.example" || string(m.Raw) != stored {
		t.Errorf("%+v", m)
	}
	want := []string{"from out (unknown [10.1.0.2]) (using TLSv1.3) by mx", "by out"}
	if got := m.Header("received"); !reflect.DeepEqual(got, want) {
		t.Errorf("%q", got)
	}
}

func FuzzAnyMessageHasAHeaderOrNone(f *testing.F) {
	f.Fuzz(func(t *testing.T, raw string) {
		m := parseMessage([]byte(raw))
		for _, value := range m.Header("Received") {
			if strings.Contains(value, "\n") {
				t.Errorf("%q runs over a line", value)
			}
		}
	})
}
