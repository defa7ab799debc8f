package mta_test

import (
	"bytes"
	"net/netip"
	"testing"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/mta"
)

func TestALenientServerTakesLineEndsThatAreNone(t *testing.T) {
	for _, program := range mta.Programs() {
		if program.Name != "Postfix" && program.Name != "sendmail" {
			continue // the others have no setting for it
		}
		t.Run(program.Name, func(t *testing.T) {
			s := newSite(t)
			server := s.run(program, s.net.Server, mta.Options{Name: receiverName, Listen: []netip.Addr{s.net.Server4},
				Domains: []string{partner}, Lenient: true})
			conn, err := s.net.Client.Dial(within(t, patience), netip.AddrPort{}, netip.AddrPortFrom(s.server, 25))
			must(t, err)
			client := proxytest.NewClient(conn, patience)
			_, err = client.ReadReply()
			must(t, err)
			_, err = client.Hello("EHLO", senderName)
			must(t, err)
			replies, err := client.Pipeline("MAIL FROM:<"+senderUser+">", "RCPT TO:<"+recipient+">", "DATA")
			if err != nil || replies[2].Code != 354 {
				t.Fatalf("%v: %v", replies, err)
			}
			_, err = client.Write([]byte("Subject: bare\r\n\r\nbare\nnewlines\n.\n"))
			must(t, err)
			if reply, err := client.ReadReply(); err != nil || reply.Code != 250 {
				t.Fatalf("%v: %v", reply, err)
			}
			_, err = client.Quit()
			must(t, err)
			messages, err := server.WaitMessages(within(t, patience), 1)
			if err != nil || !bytes.HasSuffix(messages[0].Raw, []byte("\n\nbare\nnewlines\n")) {
				t.Errorf("%q (%v)", messages, err)
			}
		})
	}
}
