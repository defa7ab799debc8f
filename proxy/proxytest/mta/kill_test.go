package mta_test

import (
	"fmt"
	"net/netip"
	"regexp"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/mta"
)

// slow limits what the gateway sends to the receiver, so that a message is under
// way for long enough to do something in its middle: 10 MB take a second.
func (s *site) slow() {
	s.t.Helper()
	must(s.t, s.net.Gateway.Do(func() error {
		outside, err := netlink.LinkByName("wan0")
		if err != nil {
			return err
		}
		return netlink.QdiscAdd(&netlink.Tbf{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: outside.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
			Rate:       10 << 20,  // bytes a second
			Buffer:     256 << 10, // may go at once: more than a segment before it is cut up
			Limit:      4 << 20,   // may wait
		})
	}))
}

// meter closes reached when so many bytes were written to it.
type meter struct {
	left    atomic.Int64
	reached chan struct{}
}

func (m *meter) Write(p []byte) (int, error) {
	if before := m.left.Add(-int64(len(p))) + int64(len(p)); before > 0 && before <= int64(len(p)) {
		close(m.reached)
	}
	return len(p), nil
}

func TestAMessageWhosePosternWasKilledArrivesOnceAndWhole(t *testing.T) {
	for _, level := range []mta.Level{mta.None, mta.Encrypt} {
		t.Run(string(level), func(t *testing.T) {
			s := newSite(t)
			s.receive(mta.Options{})
			s.send(mta.Options{TLS: level})
			p := s.guard("")
			s.slow()
			middle := &meter{reached: make(chan struct{})}
			middle.left.Store(large / 4)
			outside, err := s.net.Gateway.Capture("wan0", middle)
			must(t, err)
			s.t.Cleanup(func() { _, _ = outside.Stop() }) // only its pace was of interest
			content := message(large)
			s.submit(content, recipient)
			select {
			case <-middle.reached:
			case <-within(t, patience).Done():
				t.Fatal("the message never got under way")
			}
			p.kill()

			if _, err := s.sender.WaitQueue(within(t, patience), mta.Deferred); err != nil {
				t.Fatal(err)
			}
			_, err = s.receiver.WaitLog(within(t, patience), lostInContent)
			must(t, err)
			s.nothingStored()

			// While nobody listens connections are reset (when_down = "block"), and
			// the message stays where it is.
			must(t, s.sender.Flush())
			queue, err := s.sender.WaitQueue(within(t, patience), func(queue []mta.Queued) bool {
				return mta.Deferred(queue) && regexp.MustCompile(`Connection refused`).MatchString(queue[0].Recipients[0].Reason)
			})
			if err != nil {
				t.Fatalf("%v: %+v", err, queue)
			}

			p.start()
			must(t, s.sender.Flush())
			s.arrived(content, recipient)
			record := p.records(1)[0]
			record.agreesWith(s)
		})
	}
}

func TestAMessageWhoseSenderBreaksOffIsNeverEnded(t *testing.T) {
	for _, starttls := range []bool{false, true} {
		t.Run(fmt.Sprintf("with TLS %t", starttls), func(t *testing.T) {
			s := newSite(t)
			s.receive(mta.Options{})
			p := s.guard("")
			conn, err := s.net.Client.Dial(within(t, patience), netip.AddrPort{}, netip.AddrPortFrom(s.server, 25))
			must(t, err)
			client := proxytest.NewClient(conn, patience)
			_, err = client.ReadReply()
			must(t, err)
			_, err = client.Hello("EHLO", senderName)
			must(t, err)
			if starttls {
				_, err = client.StartTLS(s.trusting())
				must(t, err)
				_, err = client.Hello("EHLO", senderName)
				must(t, err)
			}
			replies, err := client.Pipeline("MAIL FROM:<"+senderUser+">", "RCPT TO:<"+recipient+">", "DATA")
			if err != nil || replies[2].Code != 354 {
				t.Fatalf("%v: %v", replies, err)
			}
			// Cut behind a line end, where a dot would end it.
			_, err = client.Write(message(1 << 20))
			must(t, err)
			must(t, client.Close())
			_, err = s.receiver.WaitLog(within(t, patience), lostInContent)
			must(t, err)
			s.nothingStored()
			if tx := p.records(1)[0].Transactions; len(tx) != 1 || tx[0].Accepted != 1 || tx[0].Reply != "" {
				t.Errorf("the record says %+v", tx)
			}
		})
	}
}

// lostInContent is what smtpd logs when a connection ends within a message.
var lostInContent = regexp.MustCompile(`lost connection after DATA \(\d+ bytes\)`)

// nothingStored wants a receiver that has taken nothing.
func (s *site) nothingStored() {
	s.t.Helper()
	if queue, err := s.receiver.Queue(); err != nil || len(queue) > 0 {
		s.t.Errorf("the receiver keeps %+v (%v)", queue, err)
	}
	if messages, err := s.receiver.Messages(); err != nil || len(messages) > 0 {
		s.t.Errorf("the receiver took %d truncated messages (%v)", len(messages), err)
	}
}
