package main

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/cmd/internal/config"
	"postern/proxy"
	"postern/proxy/proxytest"
)

// A recording is Postern in front of one server, and the log that it writes: what
// explain and replay read has to be what a session leaves behind.
type recording struct {
	t       *testing.T
	pki     *proxytest.PKI
	server  *proxy.Server
	address string
	written *proxy.LogFile
	log     string // its file
}

// record runs Postern with a configuration in front of a server of that temper, has clients talk to it, and gives the log.
func record(t *testing.T, temper, doc string, clients ...func(*recording)) string {
	t.Helper()
	r := &recording{t: t}
	var err error
	if r.pki, err = proxytest.NewPKI("test"); err != nil {
		t.Fatal(err)
	}
	to := r.upstream(temper)
	defer to.Close()
	r.start(doc, to.Addr().String())
	for _, talk := range clients {
		talk(r)
		// The records are to stand in the order of the clients.
		for began := time.Now(); r.server.Sessions() > 0; time.Sleep(time.Millisecond) {
			if time.Since(began) > 30*time.Second {
				t.Fatal("a session does not end")
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := r.server.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.written.Sync(); err != nil {
		t.Fatal(err)
	}
	return r.log
}

func (r *recording) upstream(temper string) *proxytest.Server {
	r.t.Helper()
	kind, err := proxytest.TemperNamed(temper)
	if err != nil {
		r.t.Fatal(err)
	}
	serves, err := kind.Config(r.pki, "mx.partner.example")
	if err != nil {
		r.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	return proxytest.Serve(l, serves)
}

func (r *recording) start(doc, to string) {
	r.t.Helper()
	dir := r.t.TempDir()
	edge, err := r.pki.Issue(proxytest.Leaf{Names: []string{"edge.example"}})
	if err != nil {
		r.t.Fatal(err)
	}
	cert, key, err := proxytest.WriteCertificate(dir, "edge", edge)
	if err != nil {
		r.t.Fatal(err)
	}
	root, err := r.pki.WriteRoot(dir)
	if err != nil {
		r.t.Fatal(err)
	}
	r.log = filepath.Join(dir, "postern.log")
	head, rules, found := strings.Cut(doc, "[[rule]]")
	if found {
		rules = "[[rule]]" + rules
	}
	text := `intercept.method = "none"
listen = {addresses = ["127.0.0.1:1"], upstream = "` + to + `"}
log.output = "` + r.log + `"
memory.downgrade = "off"
memory.store = ""
verify = {auto = [], cache = ""}
tls.trust.ca = "` + root + "\"\n" + head + `[[tls.certificate]]
name = "edge"
cert = "` + cert + `"
key = "` + key + "\"\n" + rules
	file, err := config.Parse("postern.toml", []byte(text))
	if err != nil {
		r.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	if r.written, err = proxy.OpenLog(file.Proxy.Log); err != nil {
		r.t.Fatal(err)
	}
	if r.server, err = proxy.NewServer(file.Proxy, r.written.Logger); err != nil {
		r.t.Fatal(err)
	}
	if err := r.server.Adopt([]*net.TCPListener{l.(*net.TCPListener)}); err != nil {
		r.t.Fatal(err)
	}
	served := make(chan error, 1)
	r.address = l.Addr().String()
	go func() { served <- r.server.Serve() }()
	r.t.Cleanup(func() {
		if err := <-served; err != nil {
			r.t.Error(err)
		}
	})
}

// client connects, and greets.
func (r *recording) client() *proxytest.Client {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		r.t.Fatal(err)
	}
	c := proxytest.NewClient(conn, 20*time.Second)
	if _, err := c.ReadReply(); err != nil {
		r.t.Fatal(err)
	}
	if _, err := c.Hello("EHLO", "printer.hospital.example"); err != nil {
		r.t.Fatal(err)
	}
	return c
}

// sends is a client that sends one message, and quits.
func sends(from string, to ...string) func(*recording) {
	return func(r *recording) {
		c := r.client()
		defer c.Close()
		// What is refused stands in the record; a connection that was closed for
		// it is no fault.
		if _, err := c.Send(proxytest.Mail{From: from, To: to, Content: []byte("Subject: x\r\n\r\nx\r\n")}); err == nil {
			c.Quit()
		}
	}
}

// sendsInTLS does so with STARTTLS, and takes the certificate that it is shown, or
// does not.
func sendsInTLS(takes bool, from string, to ...string) func(*recording) {
	return func(r *recording) {
		c := r.client()
		defer c.Close()
		config := &tls.Config{InsecureSkipVerify: takes, ServerName: "mx.partner.example", MaxVersion: tls.VersionTLS12}
		if _, err := c.StartTLS(config); err != nil {
			return // the record says why
		}
		if _, err := c.Hello("EHLO", "printer.hospital.example"); err != nil {
			r.t.Error(err)
			return
		}
		if _, err := c.Send(proxytest.Mail{From: from, To: to, Content: []byte("x\r\n")}); err != nil {
			r.t.Error(err)
		}
		c.Quit()
	}
}

// sendsInTLSWhereOffered takes STARTTLS where it is offered.
func sendsInTLSWhereOffered(from string, to ...string) func(*recording) {
	return func(r *recording) {
		c := r.client()
		_, offered := c.Offers("STARTTLS")
		c.Close()
		if offered {
			sendsInTLS(true, from, to...)(r)
		}
	}
}

// read gives a log.
func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
