package revocation

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"
)

func openssl(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return path
}

var accepts = regexp.MustCompile(`^ACCEPT \S*?:(\d+)(?: PID=\d+)?$`)

// listening starts an openssl that listens, and gives its address.
func listening(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(openssl(t), args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	drained := make(chan struct{})
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-drained
		_ = cmd.Wait()
	})
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			close(drained)
			t.Fatalf("openssl %v does not listen", args)
		}
		if port := accepts.FindStringSubmatch(strings.TrimSpace(line)); port != nil {
			go func() {
				_, _ = io.Copy(io.Discard, lines)
				close(drained)
			}()
			return "127.0.0.1:" + port[1]
		}
	}
}

// responder starts openssl's OCSP responder with what it knows, as openssl ca
// writes it: a status, and the certificate.
func responder(t *testing.T, issuer, signer *entity, index map[*entity]string, args ...string) string {
	t.Helper()
	var lines strings.Builder
	for e, status := range index {
		const at = "060102150405Z"
		revoked := ""
		if status == "R" {
			revoked = time.Now().Add(-time.Hour).UTC().Format(at) + ",keyCompromise"
		}
		fmt.Fprintf(&lines, "%s\t%s\t%s\t%04X\tunknown\t/CN=%s\n", status, e.NotAfter.UTC().Format(at), revoked, e.SerialNumber, e.Subject.CommonName)
	}
	path := filepath.Join(t.TempDir(), "index.txt")
	write(t, path, []byte(lines.String()))
	ca, _ := writePEM(t, "ca", issuer)
	cert, key := writePEM(t, "signer", signer)
	return listening(t, append([]string{"ocsp", "-port", "0", "-index", path, "-CA", ca, "-rsigner", cert, "-rkey", key, "-ignore_err"}, args...)...)
}

func TestWhatOpenSSLsResponderSaysIsUnderstood(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, index string
		args        []string
		delegate    func(*testing.T, pki) *entity
		want        State
		detail      string
	}{
		{"good", "V", []string{"-ndays", "2"}, nil, Good, ""},
		{"good, without an end", "V", nil, nil, Good, ""},
		{"good, signed without a certificate", "V", []string{"-nmin", "5", "-resp_no_certs"}, nil, Good, ""},
		{"revoked", "R", []string{"-ndays", "2"}, nil, Revoked, "key compromise"},
		{"not known", "", []string{"-ndays", "2"}, nil, Unknown, "the responder does not know the certificate"},
		{"a weak signature", "V", []string{"-ndays", "2", "-rmd", "sha1"}, nil, Unknown, "is signed with ECDSA-SHA1"},
		{"a delegate", "V", []string{"-ndays", "2"}, func(t *testing.T, p pki) *entity {
			return issue(t, p.middle, "delegate", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning} })
		}, Good, ""},
		{"a delegate that says revoked", "R", []string{"-ndays", "2"}, func(t *testing.T, p pki) *entity {
			return issue(t, p.middle, "delegate", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning} })
		}, Revoked, "key compromise"},
		{"somebody whom the issuer certified for other things", "V", []string{"-ndays", "2"}, func(t *testing.T, p pki) *entity {
			return issue(t, p.middle, "server", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
		}, Unknown, "not for signing OCSP answers"},
		{"a delegate of another authority", "V", []string{"-ndays", "2"}, func(t *testing.T, p pki) *entity {
			return issue(t, p.root, "delegate", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning} })
		}, Unknown, "nor by a responder of the issuer's"},
		{"a delegate of another authority by the same name", "V", []string{"-ndays", "2"}, func(t *testing.T, p pki) *entity {
			twin := issue(t, nil, "middle", authority)
			return issue(t, twin, "delegate", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning} })
		}, Unknown, "is not signed by the issuer"},
		{"a delegate whose time is over", "V", []string{"-ndays", "2"}, func(t *testing.T, p pki) *entity {
			return issue(t, p.middle, "delegate", func(c *x509.Certificate) {
				c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
				c.NotBefore, c.NotAfter = time.Now().AddDate(0, -2, 0), time.Now().AddDate(0, 0, -1)
			})
		}, Unknown, "is not valid at this time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, n := newPKI(t), newNames(t)
			signer, index := p.middle, map[*entity]string{issue(t, p.middle, "other", nil): "V"}
			if c.delegate != nil {
				signer = c.delegate(t, p)
			}
			if c.index != "" {
				index[p.leaf] = c.index
			}
			n.at["ocsp.example:80"] = responder(t, p.middle, signer, index, c.args...)
			n.serve("crl.example", files(map[string][]byte{"/root.crl": revoke(t, p.root, nil)}))
			got := n.checker(Options{}).Check(t.Context(), p.chain(), nil, time.Now())
			if got.State != c.want || !strings.Contains(got.Detail, c.detail) || c.want != Unknown && got.Source != FromOCSP {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestListsOfOpenSSLAreUnderstood(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	cert, key := writePEM(t, "ca", p.middle)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "index.txt"), fmt.Appendf(nil, "R\t%s\t%s,superseded\t%04X\tunknown\t/CN=leaf\n", "350101000000Z", "260101000000Z", p.leaf.SerialNumber))
	write(t, filepath.Join(dir, "number"), []byte("01\n"))
	conf := filepath.Join(dir, "ca.cnf")
	write(t, conf, fmt.Appendf(nil, "[ca]\ndefault_ca=d\n[d]\ndatabase=%s/index.txt\ncrlnumber=%s/number\ndefault_md=sha256\ndefault_crl_days=2\ncrl_extensions=x\n[x]\nauthorityKeyIdentifier=keyid:always\nissuingDistributionPoint=critical,@i\n[i]\nfullname=URI:%s\nonlyuser=TRUE\n", dir, dir, crlAt))
	out, err := exec.CommandContext(t.Context(), openssl(t), "ca", "-gencrl", "-config", conf, "-cert", cert, "-keyfile", key).Output()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(out)
	n := newNames(t)
	n.serve("crl.example", files(map[string][]byte{"/middle.crl": block.Bytes, "/root.crl": revoke(t, p.root, nil)}))
	c := n.checker(Options{})
	got := c.Check(t.Context(), p.chain(), nil, time.Now())
	if got.State != Revoked || got.Source != FromCRL || got.Detail != "revoked on 2026-01-01 00:00 UTC: superseded" || got.Certificate != `"CN=leaf"` {
		t.Errorf("%+v", got)
	}
	other := pki{p.root, p.middle, issue(t, p.middle, "other", named("", crlAt))}
	if got := c.Check(t.Context(), other.chain(), nil, time.Now()); got.State != Good || got.Source != FromCRL {
		t.Errorf("%+v", got)
	}
	if _, err := readList(out, p.middle.Certificate, time.Now()); err == nil || !strings.Contains(err.Error(), "PEM") {
		t.Error(err)
	}
}

// The handshake is a real one, with an answer that openssl staples.
func TestWhatOpenSSLStaplesIsUnderstood(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		want   State
	}{{ocsp.Good, Good}, {ocsp.Revoked, Revoked}} {
		p := newPKI(t)
		cert, key := writePEM(t, "leaf", p.leaf)
		status := filepath.Join(t.TempDir(), "status")
		write(t, status, respond(t, p, p.middle, func(r *ocsp.Response) { r.Status, r.RevokedAt = c.status, time.Now().Add(-time.Hour) }))
		address := listening(t, "s_server", "-www", "-accept", "127.0.0.1:0", "-cert", cert, "-key", key, "-status_file", status)
		raw, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
		if err := conn.HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		staple := conn.ConnectionState().OCSPResponse
		_ = raw.Close()
		n := newNames(t)
		n.serve("crl.example", files(map[string][]byte{"/root.crl": revoke(t, p.root, nil)}))
		got := n.checker(Options{}).Check(context.Background(), p.chain(), staple, time.Now())
		if got.State != c.want || got.Source != FromStaple {
			t.Errorf("%v: %+v", c.want, got)
		}
	}
}
