package mta_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/mta"
)

// bodyOf is what follows the header, which programs write anew on the way.
func bodyOf(text []byte) []byte {
	_, body, _ := bytes.Cut(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")), []byte("\n\n"))
	return body
}

func TestEachProgramSendsToEachOther(t *testing.T) {
	for _, to := range mta.Programs() {
		t.Run("to "+to.Name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			cert, key := s.certificate(s.pki, "receiver", proxytest.Leaf{Names: []string{receiverName}}, 0)
			receiver := s.run(to, s.net.Server, mta.Options{Name: receiverName, Listen: []netip.Addr{s.net.Server4, s.net.Server6},
				Domains: []string{partner, strict}, Certificate: cert, Key: key})
			for _, from := range mta.Programs() {
				for _, level := range []mta.Level{mta.None, mta.Encrypt} {
					t.Run(fmt.Sprintf("from %s with TLS %s", from.Name, level), func(t *testing.T) {
						s := *s // it fails and skips for itself
						s.t = t
						s.passes(from, level, receiver)
					})
				}
			}
		})
	}
}

// passes has a program send a message over IPv4 and another over IPv6.
func (s *site) passes(from mta.Program, level mta.Level, receiver mta.Server) {
	s.t.Helper()
	sender := s.run(from, s.net.Client, mta.Options{Name: senderName, TLS: level, Routes: map[string]netip.AddrPort{
		partner: netip.AddrPortFrom(s.net.Server4, 25), "*": netip.AddrPortFrom(s.net.Server6, 25)}})
	content := message(4000)
	to := []string{recipient, "archive@" + strict}
	for _, one := range to {
		must(s.t, sender.Submit(senderUser, []string{one}, content))
	}
	if queue, err := sender.WaitQueue(within(s.t, patience), mta.Empty); err != nil {
		s.t.Fatalf("%v: %+v", err, queue)
	}
	messages, err := receiver.WaitMessages(within(s.t, patience), len(to))
	must(s.t, err)
	var arrived []string
	for _, m := range messages {
		arrived = append(arrived, m.To)
		if m.From != senderUser || !bytes.Equal(bodyOf(m.Raw), bodyOf(content)) {
			s.t.Errorf("from %q arrived %q", m.From, m.Raw)
		}
		must(s.t, receiver.Forget(m))
	}
	if slices.Sort(arrived); !slices.Equal(arrived, []string{to[1], to[0]}) {
		s.t.Errorf("messages arrived for %q", arrived)
	}
}

func TestMailThatCannotLeaveStaysUntilItCan(t *testing.T) {
	for _, program := range mta.Programs() {
		t.Run(program.Name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			sender := s.run(program, s.net.Client, mta.Options{Name: senderName, Routes: map[string]netip.AddrPort{
				"*": netip.AddrPortFrom(s.net.Server4, 25)}})
			content := message(1000)
			must(t, sender.Submit(senderUser, []string{recipient}, content))
			queue, err := sender.WaitQueue(within(t, patience), mta.Deferred)
			if err != nil || len(queue) != 1 || queue[0].Sender != senderUser || queue[0].Recipients[0].Address != recipient ||
				queue[0].Recipients[0].Reason == "" {
				t.Fatalf("%+v (%v)", queue, err)
			}
			receiver := s.run(program, s.net.Server, mta.Options{Name: receiverName, Listen: []netip.Addr{s.net.Server4},
				Domains: []string{partner}})
			must(t, sender.Flush())
			if queue, err := sender.WaitQueue(within(t, patience), mta.Empty); err != nil {
				t.Fatalf("%v: %+v", err, queue)
			}
			messages, err := receiver.WaitMessages(within(t, patience), 1)
			if err != nil || len(messages) != 1 || messages[0].To != recipient {
				t.Errorf("%+v (%v)", messages, err)
			}
		})
	}
}
