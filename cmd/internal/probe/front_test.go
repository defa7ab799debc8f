package probe

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// missing ends a test that needs a program which is not there.
func missing(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(err)
	}
	t.Skip(err)
}

var accepts = regexp.MustCompile(`^ACCEPT \S*?:(\d+)(?: PID=\d+)?$`)

// openssl starts an openssl that listens on loopback, and gives its address.
func openssl(t *testing.T, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		missing(t, err)
	}
	cmd := exec.Command(path, args...)
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

// front answers as a mail server does, until STARTTLS; from then on the TLS server
// at back is spoken to, which knows no SMTP.
func front(t *testing.T, back string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { defer conn.Close(); introduce(conn, back) })
		}
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func introduce(conn net.Conn, back string) {
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprint(conn, "220 mx.test ESMTP\r\n")
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		switch verb, _, _ := strings.Cut(lines.Text(), " "); verb {
		case "EHLO":
			fmt.Fprint(conn, "250-mx.test\r\n250 STARTTLS\r\n")
		case "STARTTLS":
			server, err := net.Dial("tcp", back)
			if err != nil {
				return
			}
			fmt.Fprint(conn, "220 go\r\n")
			var both sync.WaitGroup
			both.Go(func() { _, _ = io.Copy(server, conn); _ = server.(*net.TCPConn).CloseWrite() })
			_, _ = io.Copy(conn, server)
			conn.Close()
			server.Close()
			both.Wait()
			return
		default:
			fmt.Fprint(conn, "221 bye\r\n")
			return
		}
	}
}

// pemFiles writes a chain and its key for openssl to read.
func pemFiles(t *testing.T, cert tls.Certificate) (certFile, keyFile string) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	var chain []byte
	for _, der := range cert.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	for name, data := range map[string][]byte{certFile: chain, keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}
