package mta_test

import (
	"bytes"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/mta"
	"postern/proxy/proxytest/netlab"
)

// versionFlags are s_client's names of the versions.
var versionFlags = map[string]string{
	"TLSv1": "-tls1", "TLSv1.1": "-tls1_1", "TLSv1.2": "-tls1_2", "TLSv1.3": "-tls1_3",
}

// sClient prepares OpenSSL's client, allowing what it no longer does by itself.
func (s *site) sClient(from *netlab.Host, args ...string) *exec.Cmd {
	s.t.Helper()
	fixed := []string{"s_client", "-starttls", "smtp", "-connect", netip.AddrPortFrom(s.server, 25).String(),
		"-name", senderName, "-brief", "-CAfile", s.roots(), "-cipher", "ALL:@SECLEVEL=0"}
	return from.Command(within(s.t, patience), "openssl", append(fixed, args...)...)
}

// mustSpeak makes sure that the receiver shakes hands at a version, for a server
// that fails for another reason would prove nothing. The gateway asks, whose own
// connections nobody takes over.
func (s *site) mustSpeak(protocol string) {
	s.t.Helper()
	out, err := output(s.sClient(s.net.Gateway, versionFlags[protocol]), s.net.Gateway.Run)
	if err != nil || !strings.Contains(out, "Protocol version: "+protocol+"\n") {
		s.t.Fatalf("the receiver does not speak %s: %v: %s", protocol, err, out)
	}
}

func TestOpenSSLAsClientIsServedFromTLS12(t *testing.T) {
	for _, version := range []string{"TLSv1.2", "TLSv1.3"} {
		t.Run(version, func(t *testing.T) {
			s := newSite(t)
			s.receive(mta.Options{})
			p := s.guard("")
			inside, outside := s.capture("lan0"), s.capture("wan0")
			conn, complaints := s.openSSL(versionFlags[version], "-verify_return_error", "-verify_hostname", receiverName)
			client := proxytest.NewClient(conn, patience)
			// What comes first is within TLS.
			if reply, err := client.Hello("EHLO", senderName); err != nil || !reply.OK() {
				t.Fatalf("%v: %v: %s", reply, err, complaints())
			}
			content := message(100000)
			outcome, err := client.Send(proxytest.Mail{From: senderUser, FromParams: "BODY=8BITMIME", To: []string{recipient}, Content: content, Pipelined: true})
			if err != nil || !outcome.Accepted() {
				t.Fatalf("%v: %+v", err, outcome)
			}
			if reply, err := client.Quit(); err != nil || reply.Code != 221 {
				t.Errorf("quit: %v: %v", reply, err)
			}
			said := complaints()
			s.stored(content, recipient)
			inside.wants(false)
			outside.wants(false)
			record := p.records(1)[0]
			agrees(t, "upstream leg", record.UpstreamTLS, s.receiver, s.client)
			names, err := cipherNames()
			must(t, err)
			suite := after(said, "Ciphersuite: ")
			if record.ClientTLS.Version != strings.Replace(version, "TLSv", "TLS ", 1) || record.ClientTLS.Cipher != names[suite] ||
				after(said, "Protocol version: ") != version || after(said, "Verification: ") != "OK" {
				t.Errorf("the record says %+v, OpenSSL %q", record.ClientTLS, said)
			}
		})
	}
}

func TestOpenSSLAsClientBelowTheFloorGetsAnAlertAndNoMore(t *testing.T) {
	names := map[string]string{"TLSv1": "TLS 1.0", "TLSv1.1": "TLS 1.1"}
	for _, version := range slices.Sorted(maps.Keys(names)) {
		t.Run(version, func(t *testing.T) {
			s := newSite(t)
			// Without Postern the two would do it.
			s.receive(mta.Options{Parameters: lax(">=TLSv1", "ALL")})
			s.mustSpeak(version)
			p := s.guard("")
			inside, outside := s.capture("lan0"), s.capture("wan0")
			out, err := output(s.sClient(s.net.Client, versionFlags[version]), s.net.Client.Run)
			if err == nil || !strings.Contains(out, "alert protocol version") {
				t.Errorf("%v: %s", err, out)
			}
			record := p.records(1)[0]
			if record.ClientTLS.State != "failed" || record.Reason != "client-tls-too-low" || len(record.Transactions) != 0 ||
				!slices.Equal(record.ClientTLS.OfferedVersions, []string{names[version]}) {
				t.Errorf("the record says %+v", record)
			}
			outside.wants(false)
			last := lastWords(t, inside.streams())
			// RFC 5246 §6.2: an alert (21) of two bytes, fatal (2), protocol_version (70).
			if len(last) != 7 || last[0] != 21 || last[5] != 2 || last[6] != 70 {
				t.Errorf("behind its 220 Postern sent %q", last)
			}
		})
	}
}

// lastWords is what the server's side sent behind the 220 to STARTTLS.
func lastWords(t *testing.T, streams []netlab.Stream) []byte {
	t.Helper()
	for _, stream := range streams {
		if stream.Flow.From.Port() != 25 {
			continue
		}
		ready := bytes.LastIndex(stream.Data, []byte("\r\n220 "))
		if ready < 0 {
			continue
		}
		if end := bytes.Index(stream.Data[ready+2:], []byte("\r\n")); end >= 0 {
			return stream.Data[ready+2+end+2:]
		}
	}
	t.Fatal("no 220 to STARTTLS was captured")
	return nil
}

// openSSL runs s_client and returns its other end: what is written goes through
// its TLS. The function waits for its end and returns what it had to say.
func (s *site) openSSL(args ...string) (net.Conn, func() string) {
	s.t.Helper()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	must(s.t, err)
	theirs, ours := os.NewFile(uintptr(pair[0]), "theirs"), os.NewFile(uintptr(pair[1]), "ours")
	conn, err := net.FileConn(ours)
	must(s.t, err)
	must(s.t, ours.Close())
	// -ign_eof also takes the meaning off lines that begin with Q or R.
	command := s.sClient(s.net.Client, append(args, "-ign_eof")...)
	var complaints bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = theirs, theirs, &complaints
	must(s.t, s.net.Client.Start(command))
	must(s.t, theirs.Close())
	ended := make(chan struct{})
	go func() {
		_ = command.Wait() // what it says is what counts
		close(ended)
	}()
	return conn, func() string {
		_ = conn.Close() // closed by Quit mostly
		<-ended
		return complaints.String()
	}
}

// after returns the rest of the line behind a word.
func after(text, word string) string {
	_, rest, _ := strings.Cut(text, word)
	line, _, _ := strings.Cut(rest, "\n")
	return line
}
