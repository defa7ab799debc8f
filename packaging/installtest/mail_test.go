//go:build install

package installtest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/netlab"
)

const smtp = 25

// site is a machine between a client and a server.
type site struct {
	t       *testing.T
	net     *netlab.Network
	pki     *proxytest.PKI
	servers map[netip.Addr]*proxytest.Server
	dialing time.Duration // the limit of it

	intercept string // of the configuration
	*machine
}

// patience is for what takes no more than a few seconds.
const patience = 30 * time.Second

// newSite gives a site whose machine is on, with packages and configuration to
// come.
func newSite(t *testing.T, release string) *site {
	t.Helper()
	s := &site{t: t, dialing: time.Minute, intercept: `interfaces = ["lan0"]`, machine: newMachine(t, release)}
	s.makePKI()
	s.connect()
	s.boot(s.net.Gateway)
	return s
}

func (s *site) makePKI() {
	s.t.Helper()
	var err error
	s.pki, err = proxytest.NewPKI("hospital")
	must(s.t, err)
}

// connect lays a new network, as a machine finds it that starts. The one before
// is gone.
func (s *site) connect() {
	s.t.Helper()
	var err error
	s.net, err = netlab.NewRouted()
	must(s.t, err)
	network := s.net
	s.t.Cleanup(func() { must(s.t, network.Close()) })
	s.serve()
}

// serve has a mail server at each of the server's addresses.
func (s *site) serve() {
	s.t.Helper()
	certificate, err := s.pki.Issue(proxytest.Leaf{Names: []string{"mx.test"}})
	must(s.t, err)
	s.servers = map[netip.Addr]*proxytest.Server{}
	for _, address := range []netip.Addr{s.net.Server4, s.net.Server6} {
		listener, err := s.net.Server.Listen(netip.AddrPortFrom(address, smtp))
		must(s.t, err)
		server := proxytest.Serve(listener, proxytest.ServerConfig{
			TLS: &tls.Config{Certificates: []tls.Certificate{certificate}}, Discard: true})
		s.servers[address] = server
		s.t.Cleanup(func() { _ = server.Close() })
	}
}

// client is the address from which one sends to a server.
func (s *site) client(to netip.Addr) netip.Addr {
	if to.Is4() {
		return s.net.Client4
	}
	return s.net.Client6
}

// configure writes a configuration that goes, and what is added to it.
func (s *site) configure(whenDown, more string) {
	s.t.Helper()
	dir := filepath.Join(s.disk, "etc/postern/tls")
	if _, err := os.Stat(filepath.Join(dir, "cert.pem")); err != nil {
		certificate, err := s.pki.Issue(proxytest.Leaf{Names: []string{"edge.hospital.example"}})
		must(s.t, err)
		_, _, err = proxytest.WriteCertificate(dir, "edge", certificate)
		must(s.t, err)
		s.machine.run("sh", "-c", "cd /etc/postern/tls && mv edge.pem cert.pem && mv edge.key key.pem && chown root:postern *.pem && chmod 0640 *.pem")
	}
	s.write("/etc/postern/postern.toml", fmt.Sprintf(`[intercept]
%s
when_down = %q
[log]
format = "journal"
[[tls.certificate]]
name = "edge"
cert = "/etc/postern/tls/cert.pem"
key = "/etc/postern/tls/key.pem"
%s`, s.intercept, whenDown, more), 0o640)
}

// fate is what became of one attempt to send a message.
type fate struct {
	accepted bool
	refused  bool // the connection was
	direct   bool // it did not come by Postern
	report   proxytest.Report
	err      error
}

// send sends one message in clear, from the given port or any.
func (s *site) send(to netip.Addr, port uint16, content string) fate {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), s.dialing)
	defer cancel()
	from := netip.AddrPort{}
	if port != 0 {
		from = netip.AddrPortFrom(s.client(to), port)
	}
	conn, err := s.net.Client.Dial(ctx, from, netip.AddrPortFrom(to, smtp))
	if err != nil {
		return fate{refused: errors.Is(err, unix.ECONNREFUSED), err: err}
	}
	d := proxytest.Delivery{Timeout: time.Minute, Mails: []proxytest.Mail{{
		From: "anna@hospital.example", To: []string{"ben@mx.test"}, Content: []byte(content + "\r\n")}}}
	report := proxytest.Deliver(conn, d)
	// The server has TLS, and the client has none: with Postern the message comes
	// in TLS and STARTTLS is offered to the client all the same.
	messages := s.servers[to].Messages()
	direct := report.Accepted(d) && len(messages) > 0 && !messages[len(messages)-1].TLS
	return fate{accepted: report.Accepted(d), direct: direct, report: report, err: report.Err}
}

// guarded wants a message to arrive by Postern, in each family.
func (s *site) guarded() {
	s.t.Helper()
	for to := range s.servers {
		if f := s.send(to, 0, "guarded"); !f.accepted || f.direct {
			s.t.Errorf("to %s: %+v", to, f)
		}
	}
}

// blocked wants connections to be reset, also from ports that were in use.
func (s *site) blocked() {
	s.t.Helper()
	for to := range s.servers {
		for _, port := range append(reused, 0) {
			if f := s.send(to, port, "blocked"); !f.refused {
				s.t.Errorf("from port %d to %s: not refused: %+v", port, to, f)
			}
		}
	}
}

// open wants messages to arrive without Postern, also from ports that were in use.
func (s *site) open() {
	s.t.Helper()
	for to := range s.servers {
		for _, port := range append(reused, 0) {
			if f := s.send(to, port, "open"); !f.accepted || !f.direct {
				s.t.Errorf("from port %d to %s: %+v", port, to, f)
			}
		}
	}
}

// reused are ports that a client uses by Postern, and again.
var reused = []uint16{40000, 40001, 40002}

// use leaves the ports in use on the machine: of a client that waits for Postern to
// close first, Postern has the socket in TIME_WAIT.
func (s *site) use() {
	s.t.Helper()
	for to := range s.servers {
		for _, port := range reused {
			if err := s.visit(netip.AddrPortFrom(s.client(to), port), to); err != nil {
				s.t.Errorf("from port %d to %s: %v", port, to, err)
			}
		}
	}
	left := s.run("ss", "-Htan", "state", "time-wait")
	for to := range s.servers {
		for _, port := range reused {
			if client := netip.AddrPortFrom(s.client(to), port).String(); !strings.Contains(left, client) {
				s.t.Errorf("%s is not in TIME_WAIT on the machine:\n%s", client, left)
			}
		}
	}
}

// visit says no more than QUIT, and is the last to close.
func (s *site) visit(from netip.AddrPort, to netip.Addr) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.dialing)
	defer cancel()
	conn, err := s.net.Client.Dial(ctx, from, netip.AddrPortFrom(to, smtp))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	banner := make([]byte, 512)
	if _, err := conn.Read(banner); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("QUIT\r\n")); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, conn)
	return err
}

// A load sends messages all the while, and again what was deferred.
type load struct {
	site *site
	stop chan struct{}
	wait sync.WaitGroup

	takesAll bool

	mu       sync.Mutex
	sent     int // messages that were accepted in the end
	deferred int // attempts that were not
	refused  []string
}

func (s *site) load(senders int) *load {
	l := &load{site: s, stop: make(chan struct{})}
	for i := range senders {
		to := s.net.Server4
		if i%2 == 1 {
			to = s.net.Server6
		}
		l.wait.Go(func() { l.send(i, to) })
	}
	return l
}

// tries is a load that takes what comes, for a network that is not there yet: only
// that no message comes in clear is wanted of it.
func (s *site) tries() *load {
	l := &load{site: s, stop: make(chan struct{}), takesAll: true}
	for to := range s.servers {
		l.wait.Go(func() { l.send(0, to) })
	}
	return l
}

func (l *load) send(sender int, to netip.Addr) {
	for n := 0; ; n++ {
		for {
			f := l.site.send(to, 0, fmt.Sprintf("load %d %d", sender, n))
			l.mu.Lock()
			switch {
			case f.refused:
				l.refused = append(l.refused, f.err.Error())
			case f.accepted:
				l.sent++
			default:
				l.deferred++
			}
			l.mu.Unlock()
			if f.accepted || l.takesAll {
				break
			}
		}
		select {
		case <-l.stop:
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// end waits until every message was accepted and wants each to have arrived, in
// TLS, and no connection to have been refused.
func (l *load) end() {
	t := l.site.t
	t.Helper()
	close(l.stop)
	l.wait.Wait()
	if len(l.refused) > 0 && !l.takesAll {
		t.Errorf("%d connections were refused: %s", len(l.refused), l.refused[0])
	}
	if l.sent == 0 {
		t.Error("nothing was sent")
	}
	arrived, clear := 0, 0
	for _, server := range l.site.servers {
		for _, m := range server.Messages() {
			arrived++
			if !m.TLS {
				clear++
			}
		}
	}
	if arrived < l.sent || clear > 0 {
		t.Errorf("%d accepted, %d arrived, %d of them in clear", l.sent, arrived, clear)
	}
	t.Logf("%d messages accepted, %d attempts deferred, %d connections refused", l.sent, l.deferred, len(l.refused))
}
