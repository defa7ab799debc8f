package mta_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/mta"
	"postern/proxy/proxytest/netlab"
)

func TestMain(m *testing.M) {
	code, err := mta.Enter(netlab.Options{}, func() int {
		code := m.Run()
		if fuzzing := flag.Lookup("test.fuzz").Value.String() != ""; fuzzing {
			return code // the fuzzer's own goroutines may outlive it
		}
		if err := goleak.Find(); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if missing := (*mta.MissingError)(nil); errors.As(err, &missing) && os.Getenv("CI") == "" {
		code = 0 // as a test that skips; in CI what is missing fails
	}
	os.Exit(code)
}

// patience bounds each wait. It is far more than anything takes, for a test may
// run beside many others.
const patience = 60 * time.Second

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The names in the lab.
const (
	senderName   = "out.hospital.example"
	receiverName = "mx.partner.example"
	senderUser   = "doctor@hospital.example"
	partner      = "partner.example" // a domain of the receiver
	strict       = "strict.example"  // another
)

// site is a network with a mail server at each end, and authorities.
type site struct {
	t                *testing.T
	net              *netlab.Network
	pki, others      *proxytest.PKI // whom Postern trusts, and whom it does not
	dir              string         // readable by all
	system           string         // a file with what Postern finds as the system's roots
	client, server   netip.Addr     // as each sees the other: IPv4, unless it is said
	sender, receiver *mta.Postfix
}

// newSite makes a network without mail servers, whose gateway is a router.
func newSite(t *testing.T) *site {
	t.Helper()
	return newSiteOn(t, netlab.NewRouted)
}

func newSiteOn(t *testing.T, network func() (*netlab.Network, error)) *site {
	t.Helper()
	s := &site{t: t}
	var err error
	s.net, err = network()
	must(t, err)
	t.Cleanup(func() {
		if err := s.net.Close(); err != nil {
			t.Error(err)
		}
	})
	s.pki, err = proxytest.NewPKI("Trusted")
	must(t, err)
	s.others, err = proxytest.NewPKI("Unknown")
	must(t, err)
	s.dir, err = os.MkdirTemp("", "mta-test-")
	must(t, err)
	t.Cleanup(func() {
		if err := os.RemoveAll(s.dir); err != nil {
			t.Error(err)
		}
	})
	must(t, os.Chmod(s.dir, 0o755))
	s.client, s.server = s.net.Client4, s.net.Server4
	_, err = s.pki.WriteRoot(s.dir)
	must(t, err)
	must(t, os.Chmod(s.roots(), 0o644))
	return s
}

func (s *site) roots() string { return filepath.Join(s.dir, "root.pem") }

// certificate issues and writes one, with the key for owner alone.
func (s *site) certificate(from *proxytest.PKI, name string, leaf proxytest.Leaf, owner int) (cert, key string) {
	s.t.Helper()
	issued, err := from.Issue(leaf)
	must(s.t, err)
	cert, key, err = proxytest.WriteCertificate(s.dir, name, issued)
	must(s.t, err)
	must(s.t, errors.Join(os.Chown(cert, owner, owner), os.Chown(key, owner, owner)))
	return cert, key
}

// receive starts the receiver, with a certificate of the trusted authority
// unless the options bring one or none is wanted.
func (s *site) receive(o mta.Options) {
	s.t.Helper()
	o.Name = receiverName
	o.Listen = []netip.Addr{s.net.Server4, s.net.Server6}
	o.Domains = []string{partner, strict}
	if o.Certificate == "" {
		o.Certificate, o.Key = s.certificate(s.pki, "receiver", proxytest.Leaf{Names: []string{receiverName}}, 0)
	}
	s.receiver = s.start(s.net.Server, o)
}

// send starts the sender, which knows one way only.
func (s *site) send(o mta.Options) {
	s.t.Helper()
	o.Name = senderName
	o.Routes = map[string]netip.AddrPort{"*": netip.AddrPortFrom(s.server, 25)}
	s.sender = s.start(s.net.Client, o)
}

// start starts a Postfix. What the machine lacks for it is a failure in CI, and
// elsewhere a reason to skip.
func (s *site) start(host *netlab.Host, o mta.Options) *mta.Postfix {
	s.t.Helper()
	p, err := mta.StartPostfix(host, o)
	return tend(s, o.Name, p, err)
}

// run starts any of the programs, as start does.
func (s *site) run(program mta.Program, host *netlab.Host, o mta.Options) mta.Server {
	s.t.Helper()
	server, err := program.Start(host, o)
	return tend(s, o.Name, server, err)
}

// tend shows the log of a server when its test has failed, and stops it.
func tend[S mta.Server](s *site, name string, server S, err error) S {
	s.t.Helper()
	if missing := (*mta.MissingError)(nil); errors.As(err, &missing) && os.Getenv("CI") == "" {
		s.t.Skip(err)
	}
	must(s.t, err)
	s.t.Cleanup(func() {
		if s.t.Failed() {
			lines, err := server.Log()
			s.t.Logf("%s logged (%v):\n%s", name, err, strings.Join(lines, "\n"))
		}
		if err := server.Stop(); err != nil {
			s.t.Error(err)
		}
	})
	return server
}

// secret stands in every line of every message that these tests send.
const secret = "patient record 4711"

// message makes content that gets nothing added on its way but header fields on
// top, at least so many bytes long. Its lines end in CRLF and hold what mail
// programs like to spoil: dots in front, blanks behind, 8 bit.
func message(size int) []byte {
	var b bytes.Buffer
	b.WriteString("From: <" + senderUser + ">\r\nTo: <someone@" + partner + ">\r\n" +
		"Subject: " + secret + "\r\nDate: Mon, 02 Mar 2026 10:00:00 +0100\r\nMessage-Id: <4711@hospital.example>\r\n" +
		"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n")
	for i := 0; ; i++ {
		fmt.Fprintf(&b, ".%d %s\r\n..\r\n. \r\nGrüße, %s \r\n\r\nFrom %s\r\n.\x80\xff\t%x\r\n",
			i, secret, secret, secret, sha256.Sum256([]byte{byte(i), byte(i >> 8), byte(i >> 16)}))
		if b.Len() >= size {
			return b.Bytes()
		}
	}
}

// submit queues a message at the sender.
func (s *site) submit(content []byte, to ...string) {
	s.t.Helper()
	must(s.t, s.sender.Submit(senderUser, to, content))
}

// arrived waits until the sender has nothing left, and wants exactly one message
// for the recipient, in it the content byte for byte.
func (s *site) arrived(content []byte, to string) mta.Message {
	s.t.Helper()
	ctx := within(s.t, patience)
	if queue, err := s.sender.WaitQueue(ctx, mta.Empty); err != nil {
		s.t.Fatalf("%v: %+v", err, queue)
	}
	return s.stored(content, to)
}

// stored wants exactly one message in the receiver's mailbox.
func (s *site) stored(content []byte, to string) mta.Message {
	s.t.Helper()
	_, err := s.receiver.WaitMessages(within(s.t, patience), 1)
	must(s.t, err)
	// What it took but has not yet stored would come later.
	if queue, err := s.receiver.WaitQueue(within(s.t, patience), mta.Empty); err != nil {
		s.t.Fatalf("%v: %+v", err, queue)
	}
	messages, err := s.receiver.Messages()
	if err != nil || len(messages) != 1 {
		s.t.Fatalf("%d messages arrived, want 1 (%v)", len(messages), err)
	}
	m := messages[0]
	if m.To != to || m.From != senderUser {
		s.t.Errorf("the message came from %q to %q, want %q to %q", m.From, m.To, senderUser, to)
	}
	unchanged(s.t, m, content)
	return m
}

// unchanged wants the content below what Postfix put on top, byte for byte but
// for the line ends, which are LF in a maildir.
func unchanged(t *testing.T, m mta.Message, content []byte) {
	t.Helper()
	want := bytes.ReplaceAll(content, []byte("\r\n"), []byte("\n"))
	got := m.Raw[max(0, len(m.Raw)-len(want)):]
	if sha256.Sum256(got) != sha256.Sum256(want) {
		t.Errorf("the content changed on its way: %d bytes are stored, %d were sent", len(m.Raw), len(want))
	}
}

// captured is what crossed the gateway on one side, as TCP streams.
type captured struct {
	t       *testing.T
	side    string
	capture *netlab.Capture
}

func (s *site) capture(side string) captured {
	s.t.Helper()
	c, err := s.net.Gateway.Capture(side, nil)
	must(s.t, err)
	s.t.Cleanup(func() { _, _ = c.Stop() }) // what went wrong, streams says
	return captured{s.t, side, c}
}

func (c captured) streams() []netlab.Stream {
	c.t.Helper()
	packets, err := c.capture.Stop()
	must(c.t, err)
	streams := netlab.Streams(packets)
	for _, stream := range streams {
		if !stream.Complete {
			c.t.Fatalf("%s: bytes are missing in the stream %v", c.side, stream.Flow)
		}
	}
	return streams
}

// has wants to know whether the text crossed the wire as it is.
func (c captured) has(text string) bool {
	c.t.Helper()
	for _, stream := range c.streams() {
		if bytes.Contains(stream.Data, []byte(text)) {
			return true
		}
	}
	return false
}

// wants checks what crossed in clear. The dialogue before STARTTLS is always
// there, which shows that the capture sees what there is to see.
func (c captured) wants(mailInClear bool) {
	c.t.Helper()
	if !c.has("EHLO " + senderName) {
		c.t.Errorf("%s: not even the EHLO was captured", c.side)
	}
	for _, text := range []string{"MAIL FROM:", "RCPT TO:", secret} {
		if found := c.has(text); found != mailInClear {
			c.t.Errorf("%s: %q crossed in clear: %t, want %t", c.side, text, found, mailInClear)
		}
	}
}
