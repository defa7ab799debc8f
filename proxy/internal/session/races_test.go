package session

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// The drain limit passes when the end of the message has been read from the
// client and not yet sent on.
func TestAnAbortedMessageIsNotEnded(t *testing.T) {
	for range 60 {
		t.Run("", func(t *testing.T) {
			var hook atomic.Pointer[func(p []byte)]
			b := newBench(t, options{wrap: func(c net.Conn) net.Conn {
				return &hooked{TCPConn: c.(*net.TCPConn), read: func(p []byte) {
					if f := hook.Load(); f != nil {
						(*f)(p)
					}
				}}
			}})
			up := b.greeted(true)
			inData(b, up)
			f := func(p []byte) {
				if bytes.Contains(p, []byte(".\r\n")) {
					b.session.Abort()
				}
			}
			hook.Store(&f)
			b.client.say("x\n.\n")
			went, _ := io.ReadAll(up.r)
			heard, _ := io.ReadAll(b.client.r)
			if bytes.HasSuffix(went, []byte("\r\n.\r\n")) {
				t.Errorf("aborted before its end, the message went up whole: %q; the client heard %q", went, heard)
			}
		})
	}
}

// The upstream has accepted the message and gone; what the client says next finds
// that out before the reply is read.
func TestAWriteThatFailsDoesNotLoseTheReplyBeforeIt(t *testing.T) {
	for range 60 {
		t.Run("", func(t *testing.T) {
			var far atomic.Pointer[peer]
			var b *bench
			servers := make(chan *peer, 1)
			b = newBench(t, options{dial: func(context.Context, netip.AddrPort) (net.Conn, error) {
				near, f := tcpPair(t)
				p := newPeer(t, "server", f)
				servers <- p
				return &hooked{TCPConn: near.(*net.TCPConn), write: func(said []byte) {
					if up := far.Load(); up != nil {
						io.WriteString(up.conn, "250 2.0.0 queued\r\n")
						up.raw.(*net.TCPConn).SetLinger(0)
						up.raw.Close()
					}
				}}, nil
			}})
			up := <-servers
			b.servers <- up
			b.greeted(false)
			inData(b, up)
			b.client.say("x\n.\n")
			up.octets("x\r\n.\r\n")
			far.Store(up)
			b.client.say("NOOP\n")
			heard, _ := io.ReadAll(b.client.r)
			if !strings.HasPrefix(string(heard), "250 2.0.0 queued") {
				t.Errorf("the client hears %q, the upstream accepted the message", heard)
			}
		})
	}
}

// A piece that did not go up is followed by nothing.
func TestContentHasNoHole(t *testing.T) {
	for range 10 {
		t.Run("", func(t *testing.T) {
			var armed atomic.Bool
			var b *bench
			servers := make(chan *peer, 1)
			b = newBench(t, options{edit: func(s *Snapshot) { s.Timeouts.Command, s.Timeouts.Final = time.Second, 300*time.Millisecond }, dial: func(context.Context, netip.AddrPort) (net.Conn, error) {
				near, f := tcpPair(t)
				near.(*net.TCPConn).SetWriteBuffer(4 << 10)
				f.(*net.TCPConn).SetReadBuffer(4 << 10)
				servers <- newPeer(t, "server", f)
				return &hooked{TCPConn: near.(*net.TCPConn), write: func([]byte) {
					if armed.Load() {
						armed.Store(false)
						time.AfterFunc(30*time.Millisecond, b.session.Abort)
					}
				}}, nil
			}})
			up := <-servers
			b.servers <- up
			b.greeted(false)
			inData(b, up)
			armed.Store(true)
			want := strings.Repeat(strings.Repeat("y", 70)+"\r\n", 850) + ".\r\n"
			b.client.raws(want)
			time.Sleep(35 * time.Millisecond)
			went, _ := io.ReadAll(up.r)
			if !strings.HasPrefix(want, string(went)) {
				t.Errorf("%d octets went up, of %d, and are not how the message begins; ended %v", len(went), len(want), bytes.HasSuffix(went, []byte("\r\n.\r\n")))
			}
		})
	}
}
