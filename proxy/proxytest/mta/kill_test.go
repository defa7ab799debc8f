package mta_test

import (
	"regexp"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"

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
			_, err = s.receiver.WaitLog(within(t, patience), regexp.MustCompile(`lost connection after DATA \(\d+ bytes\)`))
			must(t, err)
			if queue, err := s.receiver.Queue(); err != nil || len(queue) > 0 {
				t.Errorf("the receiver keeps %+v (%v)", queue, err)
			}
			if messages, err := s.receiver.Messages(); err != nil || len(messages) > 0 {
				t.Errorf("the receiver took %d truncated messages (%v)", len(messages), err)
			}

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
