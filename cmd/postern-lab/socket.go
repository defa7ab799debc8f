package main

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// transparentSocket is what a socket unit with Transparent=yes holds for the
// daemon (systemd.socket(5)): a listening socket on the gateway, which outlives
// every daemon that inherits it.
func (l *lab) transparentSocket(ctx context.Context, address string) (*os.File, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var option error
		err := raw.Control(func(fd uintptr) {
			option = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1)
		})
		return errors.Join(err, option)
	}}
	var file *os.File
	err := l.network.Gateway.Do(func() error {
		listener, err := config.Listen(ctx, "tcp4", address)
		if err != nil {
			return err
		}
		file, err = listener.(*net.TCPListener).File() // the same socket, and it stays open
		return errors.Join(err, listener.Close())
	})
	return file, err
}
