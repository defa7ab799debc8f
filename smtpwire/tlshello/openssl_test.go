package tlshello

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// openssl returns the path of the real thing, which every builder must have: an
// observer that has only met crypto/tls has met one opinion.
func openssl(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatalf("these tests need the openssl program: %v", err)
	}
	return path
}

// pemFiles writes a certificate and its key for openssl to read.
func pemFiles(t *testing.T, cert tls.Certificate) (certFile, keyFile string) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: cert.Certificate[0]},
		keyFile:  {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// startServer starts openssl s_server and returns its address.
func startServer(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(openssl(t), append([]string{"s_server", "-accept", "127.0.0.1:0", "-www"}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if addr, ok := strings.CutPrefix(lines.Text(), "ACCEPT "); ok {
			return addr
		}
	}
	t.Fatalf("openssl s_server %v did not say where it listens", args)
	return ""
}

// exchange lets openssl s_client talk to addr through a relay and returns what
// passed, and whether the client says that the handshake succeeded.
func exchange(t *testing.T, addr string, args ...string) (fromClient, fromServer []byte, ok bool) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var up, down bytes.Buffer
	var relay sync.WaitGroup
	relay.Go(func() {
		client, err := ln.Accept()
		if err != nil {
			return
		}
		defer client.Close()
		server, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		defer server.Close()
		for _, c := range []net.Conn{client, server} {
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		}
		var ways sync.WaitGroup
		ways.Go(func() { _, _ = io.Copy(io.MultiWriter(server, &up), client); _ = server.(*net.TCPConn).CloseWrite() })
		ways.Go(func() { _, _ = io.Copy(io.MultiWriter(client, &down), server); _ = client.(*net.TCPConn).CloseWrite() })
		ways.Wait()
	})
	cmd := exec.CommandContext(t.Context(), openssl(t), append([]string{"s_client", "-connect", ln.Addr().String(),
		"-servername", "mx.test"}, args...)...)
	// A request makes the server answer and close, and with that application
	// data flow both ways.
	cmd.Stdin = strings.NewReader("GET / HTTP/1.0\r\n\r\n")
	cmd.Args = append(cmd.Args, "-ign_eof")
	err = cmd.Run()
	relay.Wait()
	return up.Bytes(), down.Bytes(), err == nil
}

func TestOpenSSLIsReadAtEveryVersionThatItSpeaks(t *testing.T) {
	rs, ec := served(t, true), served(t, false)
	const weak = "ALL:@SECLEVEL=0"
	cases := []struct {
		name                   string
		cert                   tls.Certificate
		server, client         []string
		version, cipher, group string
		ok                     bool
	}{
		{"TLS 1.0", rs, []string{"-tls1", "-cipher", "AES128-SHA:@SECLEVEL=0"}, []string{"-tls1", "-cipher", weak},
			"TLS 1.0", "TLS_RSA_WITH_AES_128_CBC_SHA", "0x0000", true},
		{"TLS 1.0 answers a client that wants 1.2", rs, []string{"-tls1", "-cipher", weak}, []string{"-tls1_2", "-cipher", weak},
			"TLS 1.0", "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", "x25519", false},
		{"TLS 1.1 with Camellia", rs, []string{"-tls1_1", "-cipher", "CAMELLIA:@SECLEVEL=0"}, []string{"-tls1_1", "-cipher", weak},
			"TLS 1.1", "TLS_DHE_RSA_WITH_CAMELLIA_256_CBC_SHA", "0x0000", true},
		{"TLS 1.2 with DHE only", rs, []string{"-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256"}, nil,
			"TLS 1.2", "TLS_DHE_RSA_WITH_AES_128_GCM_SHA256", "0x0000", true},
		{"TLS 1.2", ec, []string{"-tls1_2", "-cipher", "ECDHE+CHACHA20", "-groups", "P-384"}, nil,
			"TLS 1.2", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "secp384r1", true},
		{"TLS 1.3", ec, []string{"-tls1_3"}, nil, "TLS 1.3", "TLS_AES_256_GCM_SHA384", "x25519", true},
		{"TLS 1.3 after a retry", ec, []string{"-tls1_3", "-groups", "P-521", "-ciphersuites", "TLS_AES_128_CCM_8_SHA256"},
			[]string{"-ciphersuites", "TLS_AES_128_CCM_8_SHA256"}, "TLS 1.3", "TLS_AES_128_CCM_8_SHA256", "secp521r1", true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cert, key := pemFiles(t, c.cert)
			addr := startServer(t, append([]string{"-cert", cert, "-key", key}, c.server...)...)
			up, down, ok := exchange(t, addr, c.client...)
			if ok != c.ok {
				t.Fatalf("s_client succeeded: %v", ok)
			}
			client, server := same(t, up), same(t, down)
			if client.Err() != nil || server.Err() != nil {
				t.Fatalf("client %v, server %v", client.Err(), server.Err())
			}
			if h := client.ClientHello(); h == nil || h.ServerName != "mx.test" {
				t.Errorf("ClientHello %+v", h)
			}
			h := server.ServerHello()
			if h == nil {
				t.Fatal("no ServerHello")
			}
			if VersionName(h.Version) != c.version || CipherName(h.CipherSuite) != c.cipher || GroupName(h.Group) != c.group {
				t.Errorf("chosen %s %s %s", VersionName(h.Version), CipherName(h.CipherSuite), GroupName(h.Group))
			}
			if h.HelloRetryRequest != strings.Contains(c.name, "retry") {
				t.Errorf("retry %v", h.HelloRetryRequest)
			}
			if c.version != "TLS 1.3" && !slices.EqualFunc(server.Certificates(), c.cert.Certificate, bytes.Equal) {
				t.Errorf("the chain is not the one served")
			}
			if !c.ok && !slices.Equal(client.Alerts(), []Alert{{2, AlertProtocolVersion}}) {
				t.Errorf("alerts of the client: %v", client.Alerts())
			}
		})
	}
}

func TestOpenSSLRefusesWithAnAlertThatIsRead(t *testing.T) {
	cert, key := pemFiles(t, served(t, true))
	addr := startServer(t, "-cert", cert, "-key", key, "-tls1_2", "-cipher", "AES256-SHA")
	_, down, ok := exchange(t, addr, "-tls1_2", "-cipher", "AES128-SHA")
	if ok {
		t.Fatal("the handshake succeeded")
	}
	if o := same(t, down); len(o.Alerts()) != 1 || o.Alerts()[0].String() != "fatal handshake_failure" {
		t.Errorf("alerts %v, err %v", o.Alerts(), o.Err())
	}
}

func TestEveryCipherThatOpenSSLKnowsHasTheSameName(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), openssl(t), "ciphers", "-V", "-stdname", "ALL:COMPLEMENTOFALL:@SECLEVEL=0").Output()
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`0x(..),0x(..) - (\S+)`).FindAllStringSubmatch(string(out), -1)
	if len(found) < 100 {
		t.Fatalf("only %d ciphers listed", len(found))
	}
	for _, f := range found {
		number, err := strconv.ParseUint(f[1]+f[2], 16, 16)
		if err != nil {
			t.Fatal(err)
		}
		if got := CipherName(uint16(number)); got != f[3] {
			t.Errorf("0x%04X is %s, openssl says %s", number, got, f[3])
		}
	}
}
