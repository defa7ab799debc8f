package mta

import (
	"reflect"
	"testing"
)

func TestTheQueueOfEximIsReadAMessageAndItsRecipients(t *testing.T) {
	const printed = " 0m   294 1xW9BB-00001L-1a <a@b.example>\n          x@d.example\n          y@d.example\n\n" +
		" 3d  4.2K 1xW9Ao-00001L-1G <> *** frozen ***\n          z@d.example\n\n"
	const tried = "2026-11-25 09:20:41.490 Received from a@b.example U=root P=local S=294\n" +
		"2026-11-25 09:20:41.502 H=127.0.0.9 [127.0.0.9]:25 Connection refused\n" +
		"2026-11-25 09:20:41.504 x@d.example R=out T=out defer (-44) H=d: SMTP error: 451 4.7.5 no\n" +
		"2026-11-25 09:20:42.049 x@d.example R=out T=out defer (111): Connection refused DT=0.000s\n"
	all := parseEximQueue([]byte(printed))
	all[0].explain([]byte(tried))
	want := []Queued{
		{"deferred", "1xW9BB-00001L-1a", 0, "a@b.example", []QueuedRecipient{
			{"x@d.example", "Connection refused DT=0.000s"}, {"y@d.example", ""}}},
		{"active", "1xW9Ao-00001L-1G", 0, "", []QueuedRecipient{{"z@d.example", ""}}},
	}
	if !reflect.DeepEqual(all, want) {
		t.Errorf("%+v", all)
	}
	if all := parseEximQueue([]byte("x\n")); all != nil {
		t.Errorf("%+v", all)
	}
}

func TestTheQueueOfOpenSMTPDIsReadARecipientALine(t *testing.T) {
	const printed = "fb90c85ed0507921|local|mta|auth|a@b.example|x@d.example|x@d.example|1|2|3|1|pending|12|Network error | once more\n" +
		"fb90c85ed0507922|local|mta|auth||y@d.example|y@d.example|1|2|0|0|inflight|1|\nnothing\n"
	want := []Queued{
		{"deferred", "fb90c85ed0507921", 0, "a@b.example", []QueuedRecipient{{"x@d.example", "Network error | once more"}}},
		{"active", "fb90c85ed0507922", 0, "", []QueuedRecipient{{"y@d.example", ""}}},
	}
	if all := parseSmtpdQueue([]byte(printed)); !reflect.DeepEqual(all, want) {
		t.Errorf("%+v", all)
	}
}

func TestTheQueueOfSendmailIsReadOffItsControlFiles(t *testing.T) {
	const file = "V8\nT1\nK2\nN1\nP30\nMDeferred: Connection refused by [203.0.113.2]\nFs8\n$_root@localhost\n" +
		"S<a@b.example>\nC:a@b.example\nrRFC822; x@d.example\nRPFD:<x@d.example>\nH?P?Return-Path: <?g>\nHSubject: R:y\n.\n"
	want := Queued{"deferred", "6AP9", 0, "a@b.example", []QueuedRecipient{
		{"x@d.example", "Deferred: Connection refused by [203.0.113.2]"}}}
	if one := parseSendmailQueued("6AP9", []byte(file)); !reflect.DeepEqual(one, want) {
		t.Errorf("%+v", one)
	}
	if one := parseSendmailQueued("6AP9", nil); one.Queue != "active" || one.Recipients != nil {
		t.Errorf("%+v", one)
	}
}
