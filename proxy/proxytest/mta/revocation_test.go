package mta_test

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/mta"
)

// responderAddress is where the certificates say that OpenSSL's OCSP responder is.
var responderAddress = netip.MustParseAddrPort("203.0.113.2:8888")

// asked is a rule for the receiver that asks for revocation, softly or hard.
func asked(how string) string {
	return forced + "verify = \"ca\"\nrevocation = \"" + how + "\"\n"
}

// register is what "openssl ca" keeps of one certificate, and "openssl ocsp"
// answers from.
type register struct {
	*site
	root, key, cert string // files
	serial          string
	index           string
	responder       *helper
}

// newRegister issues a certificate by the root itself, about which alone there is
// then to ask, and gives it with its key.
func newRegister(s *site) (r *register, key string) {
	s.t.Helper()
	r = &register{site: s, index: filepath.Join(s.dir, "index.txt")}
	var err error
	r.root, r.key, err = s.pki.Root.Write(s.dir, "authority")
	must(s.t, err)
	direct := &proxytest.PKI{Root: s.pki.Root, Intermediate: s.pki.Root}
	r.cert, key = s.certificate(direct, "listed", proxytest.Leaf{Names: []string{receiverName}, OCSP: []string{"http://" + responderAddress.String() + "/"}}, 0)
	text, err := os.ReadFile(r.cert)
	must(s.t, err)
	block, _ := pem.Decode(text)
	leaf, err := x509.ParseCertificate(block.Bytes)
	must(s.t, err)
	r.serial = strings.ToUpper(leaf.SerialNumber.Text(16))
	if len(r.serial)%2 == 1 {
		r.serial = "0" + r.serial
	}
	r.write("V", "")
	return r, key
}

// write writes the index: a certificate is V(alid), or R(evoked) since.
func (r *register) write(status, since string) {
	r.t.Helper()
	fields := []string{status, "491231235959Z", since, r.serial, "unknown", "/CN=" + receiverName}
	must(r.t, os.WriteFile(r.index, []byte(strings.Join(fields, "\t")+"\n"), 0o600))
}

func (r *register) revoke() { r.write("R", time.Now().UTC().Add(-time.Minute).Format("060102150405Z")) }

func (r *register) args(more ...string) []string {
	return append([]string{"ocsp", "-index", r.index, "-CA", r.root, "-rsigner", r.root, "-rkey", r.key, "-nmin", "10"}, more...)
}

// respond starts the responder and waits until it listens.
func (r *register) respond() {
	r.t.Helper()
	r.responder = listening(r.site, regexp.MustCompile(`^ACCEPT `), "openssl", r.args("-port", fmt.Sprint(responderAddress.Port()))...)
}

func TestARevocationIsLearntOfOpenSSLsResponder(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	r, key := newRegister(s)
	s.receive(mta.Options{Certificate: r.cert, Key: key})
	s.send(mta.Options{TLS: mta.May})
	r.respond()
	p := s.guard(asked("hard"))
	content := message(4000)
	s.submit(content, recipient)
	must(t, s.receiver.Forget(s.arrived(content, recipient)))
	if record := p.records(1)[0]; record.UpstreamTLS.Revocation != "good" || record.TLS != "verify:TLSv1.3" {
		t.Errorf("the record says %+v", record)
	}

	// What was answered is kept, so that a fresh Postern has to hear of it; and
	// the responder answers the next question by the index it had read before.
	r.revoke()
	r.responder.kill()
	r.respond()
	p.kill()
	p.start()
	for i, how := range []string{"hard", "soft"} {
		p.reload(asked(how))
		if i == 0 {
			s.submit(content, recipient)
		} else {
			must(t, s.sender.Flush())
		}
		record := p.records(i + 2)[i+1]
		s.deferred(recipient, `421 4\.7\.5 mx\.partner\.example: .* \(cert-revoked\) \[`)
		if record.UpstreamTLS.Revocation != "revoked" || record.Reason != "cert-revoked" || record.Verdict != "defer" {
			t.Errorf("%s: the record says %+v", how, record)
		}
	}

	// It is good again, and nobody is there to say so.
	r.write("V", "")
	r.responder.kill()
	p.kill()
	p.reloadFresh(asked("hard"))
	must(t, s.sender.Flush())
	record := p.records(4)[3]
	s.deferred(recipient, `421 4\.7\.5 mx\.partner\.example: .* \(cert-missing-revocation\) \[`)
	if record.UpstreamTLS.Revocation != "unknown" || record.Reason != "cert-missing-revocation" {
		t.Errorf("the record says %+v", record)
	}
	p.reload(asked("soft"))
	must(t, s.sender.Flush())
	s.arrived(content, recipient)
	if record = p.records(5)[4]; record.UpstreamTLS.Revocation != "unknown" || record.Verdict != "allow" {
		t.Errorf("the record says %+v", record)
	}
}

// reloadFresh starts a Postern that has ended, with other rules.
func (p *postern) reloadFresh(rules string) {
	p.t.Helper()
	p.configure(rules)
	p.start()
}

// Of the mail servers here Exim alone staples. Nobody can be asked.
func TestAnAnswerThatEximStaplesIsEnough(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	r, key := newRegister(s)
	staple := filepath.Join(s.dir, "staple.der")
	out, err := exec.Command("openssl", r.args("-issuer", r.root, "-cert", r.cert, "-respout", staple)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	exims := slices.DeleteFunc(mta.Programs(), func(p mta.Program) bool { return p.Name != "Exim" })
	options := mta.Options{Name: receiverName, Listen: []netip.Addr{s.net.Server4}, Domains: []string{partner}, Certificate: r.cert, Key: key}
	exim := s.run(exims[0], s.net.Server, options)
	s.send(mta.Options{TLS: mta.May})
	p := s.guard(asked("hard"))
	s.submit(message(1000), recipient)
	record := p.records(1)[0]
	if record.UpstreamTLS.Revocation != "unknown" || record.Reason != "cert-missing-revocation" {
		t.Errorf("without an answer the record says %+v", record)
	}
	must(t, exim.Stop())

	options.Staple = staple
	exim = s.run(exims[0], s.net.Server, options)
	must(t, s.sender.Flush())
	if record = p.records(2)[1]; record.UpstreamTLS.Revocation != "good" || record.Verdict != "allow" {
		t.Errorf("with an answer the record says %+v", record)
	}
	if queue, err := s.sender.WaitQueue(within(t, patience), mta.Empty); err != nil {
		t.Errorf("%v: %+v", err, queue)
	}
	if messages, err := exim.WaitMessages(within(t, patience), 1); err != nil || len(messages) != 1 {
		t.Errorf("%d messages arrived (%v)", len(messages), err)
	}
}
