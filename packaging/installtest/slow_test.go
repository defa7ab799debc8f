//go:build install

package installtest

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// slow has a server without TLS in the place of the first, which answers the end of
// a message that late, and tells when it has got it.
func (s *site) slow(wait time.Duration) (got <-chan struct{}) {
	s.t.Helper()
	ends := make(chan struct{}, 100)
	_ = s.servers[s.net.Server4].Close()
	l, err := s.net.Server.Listen(netip.AddrPortFrom(s.net.Server4, 25))
	must(s.t, err)
	s.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func(c net.Conn) {
				defer c.Close()
				fmt.Fprintf(c, "220 slow\r\n")
				r := bufio.NewReader(c)
				data := false
				for {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					line = strings.TrimSpace(line)
					switch {
					case data && line != ".":
					case data:
						data = false
						ends <- struct{}{}
						time.Sleep(wait)
						fmt.Fprintf(c, "250 taken\r\n")
					case strings.EqualFold(line, "DATA"):
						data = true
						fmt.Fprintf(c, "354 go\r\n")
					case strings.EqualFold(line, "QUIT"):
						fmt.Fprintf(c, "221 bye\r\n")
						return
					default:
						fmt.Fprintf(c, "250 ok\r\n")
					}
				}
			}(c)
		}
	}()
	return ends
}

// begin sends a message whole; the channel gives the reply to its end.
func (s *site) begin() <-chan string {
	s.t.Helper()
	c, err := s.net.Client.Dial(context.Background(), netip.AddrPort{}, netip.AddrPortFrom(s.net.Server4, 25))
	must(s.t, err)
	r := bufio.NewReader(c)
	say := func(x string) string {
		if x != "" {
			fmt.Fprintf(c, "%s\r\n", x)
		}
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Minute))
		for {
			l, err := r.ReadString('\n')
			if err != nil {
				return err.Error()
			}
			if len(l) > 3 && l[3] == ' ' {
				return strings.TrimSpace(l)
			}
		}
	}
	for _, x := range []string{"", "EHLO a.example", "MAIL FROM:<a@b.example>", "RCPT TO:<c@mx.test>", "DATA"} {
		if reply := say(x); reply[0] != '2' && reply[0] != '3' {
			s.t.Fatalf("%s: %s", x, reply)
		}
	}
	end := make(chan string, 1)
	go func() {
		end <- say("content\r\n.")
		_ = c.Close()
	}()
	return end
}

// The sender of a message that is complete hears the answer, and sends it no more:
// the interception carries it as long as the service waits for it.
func TestAMessageThatIsCompleteOutlivesTheStopOfTheTarget(t *testing.T) {
	s := newSite(t, "bookworm")
	older, _ := packages(t, "deb")
	s.install(older)
	s.configure("pass", "")
	s.start()
	s.guarded()
	got := s.slow(80 * time.Second) // longer than TIME_WAIT
	end := s.begin()
	<-got
	s.run("systemctl", "stop", "--no-block", "postern.target")
	s.eventually("it takes no more", patience, func() bool {
		out, _ := s.try("postern", "intercept", "show") // not in force: exits 1
		return strings.Contains(out, "the last connections are still carried")
	})
	if f := s.send(s.net.Server6, 0, "passes"); !f.accepted || !f.direct {
		t.Errorf("another: %+v", f)
	}
	select {
	case reply := <-end:
		if reply != "250 taken" {
			t.Errorf("the answer is %s", reply)
		}
	case <-time.After(2 * time.Minute):
		t.Error("there is no answer")
	}
}

// While the service waits for it others are told at once to try elsewhere, and are
// not kept waiting in a socket that nobody serves.
func TestWhileAStopWaitsNewConnectionsAreResetUnderBlock(t *testing.T) {
	s := newSite(t, "bookworm")
	s.installOlder()
	s.configure("block", "")
	s.start()
	s.guarded()
	got := s.slow(20 * time.Second)
	end := s.begin()
	<-got
	s.run("systemctl", "stop", "--no-block", "postern.target")
	s.eventually("new connections are refused", patience, func() bool {
		s.dialing = time.Second
		return s.send(s.net.Server6, 0, "refused").refused
	})
	select {
	case reply := <-end:
		if reply != "250 taken" {
			t.Errorf("the answer is %s", reply)
		}
	case <-time.After(time.Minute):
		t.Error("there is no answer")
	}
}
