package main

import (
	"bytes"
	"context"
	"io"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"postern/smtpwire/wiretest"
)

// The gallery makes its renegotiation by hand; this is what a program does that
// people have.
func TestOpenSSLIsNotLetRenegotiate(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatal(err)
	}
	ctx, g := serving(t)
	server := netip.AddrPortFrom(place{name: "open"}.address(0), smtpPort)
	listener, err := g.lab.network.Server.Listen(server)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	script, err := parseDialogue(attackFiles, "include secured\ninclude rest")
	if err != nil {
		t.Fatal(err)
	}
	a := &attempt{attack: attack{servers: []*wiretest.Script{script}}, servers: make([]transcript, 1)}
	served := make(chan error, 1)
	go func() { served <- g.serve(listener, new(wiretest.Signals), a) }()

	client := netip.AddrPortFrom(hostileAddress(0), 40025)
	command := g.lab.network.Client.Command(ctx, openssl, "s_client", "-connect", server.String(), "-bind", client.String(),
		"-starttls", "smtp", "-name", "client.test", "-tls1_2", "-crlf")
	var said bytes.Buffer
	command.Stdout, command.Stderr = &said, &said
	// Its input stays open: at the end of that it would leave by itself.
	typing, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.lab.network.Client.Start(command); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(typing, "R\n"); err != nil { // at the beginning of a line: renegotiate
		t.Error(err)
	}
	_ = command.Wait() // that it fails is said in words
	r, err := g.daemon.record(ctx, client)
	listener.Close()
	if err != nil {
		t.Fatalf("%v\n%s", err, said.String())
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if !strings.Contains(said.String(), "RENEGOTIATING") || r.Reason != "protocol-error" || r.End != "protocol error" ||
		r.ClientTLS.Version != "TLS 1.2" {
		t.Errorf("%s\n%s", r.raw, said.String())
	}
}

// serving is a gallery in which postern runs.
func serving(t *testing.T) (context.Context, *gallery) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	g, err := openGallery(program("postern"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.lab.close(); err != nil {
			t.Error(err)
		}
	})
	if err := g.configure(ctx, "normalize"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.daemon.stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return ctx, g
}
