package proxytest

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A Floor is the least that a transparent relay in Go can do, and so what others
// are measured against: it takes a connection that TPROXY hands it, connects to
// where that was meant to go from the client's own address, greets the server,
// shakes hands on both legs and copies octets. It has one certificate, no policy,
// checks nothing, limits nothing and writes nothing down. It believes every peer,
// and is for measuring alone.
type Floor struct {
	Certificate *tls.Certificate // nil: the client's leg stays in clear
}

// floorTimeout bounds the time until octets are copied.
const floorTimeout = time.Minute

// ListenFloor opens a listening socket to which TPROXY may hand connections.
func ListenFloor(address string) (net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error { return transparent(raw) }}
	config.SetMultipathTCP(false)
	return config.Listen(context.Background(), "tcp4", address)
}

func transparent(raw syscall.RawConn) error {
	var option error
	err := raw.Control(func(fd uintptr) {
		option = syscall.SetsockoptInt(int(fd), syscall.SOL_IP, syscall.IP_TRANSPARENT, 1)
	})
	return errors.Join(err, option)
}

// Serve relays the connections of a listener until that is closed.
func (f Floor) Serve(listener net.Listener) error {
	var shown *tls.Config
	if f.Certificate != nil {
		shown = &tls.Config{Certificates: []tls.Certificate{*f.Certificate}, SessionTicketsDisabled: true}
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go relayFloor(conn, shown)
	}
}

// relayFloor holds one session. Whatever goes wrong ends it.
func relayFloor(client net.Conn, shown *tls.Config) {
	defer client.Close()
	upstream, err := dialFloor(client)
	if err != nil {
		return
	}
	defer upstream.Close()
	limit := time.Now().Add(floorTimeout)
	_ = client.SetDeadline(limit)
	_ = upstream.SetDeadline(limit)
	secure, err := secureFloor(client, upstream, shown == nil)
	if err != nil {
		return
	}
	near := client
	if shown != nil {
		if near, err = answerFloor(client, shown); err != nil {
			return
		}
	}
	_ = client.SetDeadline(time.Time{})
	_ = upstream.SetDeadline(time.Time{})
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(secure, near); _ = upstream.Close() })
	_, _ = io.Copy(near, secure)
	_ = client.Close()
	both.Wait()
}

// dialFloor connects to where the client meant to go, from the client's address.
func dialFloor(client net.Conn) (net.Conn, error) {
	from := client.RemoteAddr().(*net.TCPAddr).IP
	dialer := net.Dialer{
		LocalAddr: &net.TCPAddr{IP: from},
		Timeout:   floorTimeout,
		Control: func(_, _ string, raw syscall.RawConn) error {
			const bindAddressNoPort = 24 // IP_BIND_ADDRESS_NO_PORT of ip(7)
			var option error
			err := raw.Control(func(fd uintptr) {
				option = syscall.SetsockoptInt(int(fd), syscall.SOL_IP, bindAddressNoPort, 1)
			})
			return errors.Join(err, option, transparent(raw))
		},
	}
	return dialer.Dial("tcp4", client.LocalAddr().String())
}

// secureFloor passes the banner on, takes the leg to the server into TLS under the
// name that the client gives, and answers the client's EHLO: with what is offered
// inside TLS where the client stays in clear, else with what was offered before.
func secureFloor(client, upstream net.Conn, inside bool) (*tls.Conn, error) {
	in := bufio.NewReaderSize(upstream, 1<<10)
	banner, err := replyFloor(in)
	if err == nil {
		_, err = client.Write(banner)
	}
	hello := make([]byte, 512)
	n := 0
	if err == nil {
		n, err = client.Read(hello)
	}
	if err == nil {
		_, err = upstream.Write(hello[:n])
	}
	var offer []byte
	if err == nil {
		offer, err = replyFloor(in)
	}
	if err == nil {
		_, err = upstream.Write([]byte("STARTTLS\r\n"))
	}
	if err == nil {
		_, err = replyFloor(in)
	}
	if err != nil {
		return nil, err
	}
	secure := tls.Client(upstream, &tls.Config{InsecureSkipVerify: true})
	if err = secure.Handshake(); err == nil && inside {
		if _, err = secure.Write(hello[:n]); err == nil {
			offer, err = replyFloor(bufio.NewReaderSize(secure, 1<<10))
		}
	}
	if err == nil {
		_, err = client.Write(offer)
	}
	return secure, err
}

// answerFloor takes the client's leg into TLS.
func answerFloor(client net.Conn, shown *tls.Config) (net.Conn, error) {
	line := make([]byte, 64)
	n, err := client.Read(line)
	if err == nil && !strings.HasPrefix(string(line[:n]), "STARTTLS") {
		err = ErrNoSTARTTLS
	}
	if err == nil {
		_, err = client.Write([]byte("220 go ahead\r\n"))
	}
	if err != nil {
		return nil, err
	}
	secure := tls.Server(client, shown)
	return secure, secure.Handshake()
}

func replyFloor(in *bufio.Reader) (reply []byte, err error) {
	for {
		line, err := in.ReadSlice('\n')
		reply = append(reply, line...)
		if err != nil || len(line) < 4 || line[3] != '-' {
			return reply, err
		}
	}
}
