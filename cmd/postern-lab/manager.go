package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// A manager is the socket at which a service manager hears from a daemon
// (sd_notify(3)).
type manager struct {
	socket *net.UnixConn
	ended  chan struct{}
}

// newManager listens at a socket in dir and gives heard each message, in order,
// until close.
func newManager(dir string, heard func(notification)) (*manager, error) {
	path := filepath.Join(dir, "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("service manager: %w", err)
	}
	m := &manager{socket: socket, ended: make(chan struct{})}
	go func() {
		defer close(m.ended)
		buffer := make([]byte, 8192)
		for {
			n, err := socket.Read(buffer)
			if err != nil || string(buffer[:n]) == lastMessage {
				return
			}
			heard(parseNotification(string(buffer[:n])))
		}
	}()
	return m, nil
}

// environment is how a daemon learns of the socket.
func (m *manager) environment() string {
	return "NOTIFY_SOCKET=" + m.socket.LocalAddr().String()
}

// lastMessage ends the listening. No daemon sends it: a datagram of its own comes
// behind all that were sent before.
const lastMessage = "LISTENING=0"

// close ends the listening; what was sent before has been heard.
func (m *manager) close() error {
	address := m.socket.LocalAddr().(*net.UnixAddr)
	sender, err := net.DialUnix("unixgram", nil, address)
	if err == nil {
		_, err = sender.Write([]byte(lastMessage))
		err = errors.Join(err, sender.Close())
	}
	if err != nil {
		return errors.Join(err, m.socket.Close())
	}
	<-m.ended
	return errors.Join(m.socket.Close(), os.Remove(address.Name))
}

// A notification is one message of a daemon.
type notification struct {
	ready, reloading, stopping bool
	status                     string
}

func parseNotification(text string) notification {
	var n notification
	for line := range strings.SplitSeq(text, "\n") {
		key, value, _ := strings.Cut(line, "=")
		switch key {
		case "READY":
			n.ready = value == "1"
		case "RELOADING":
			n.reloading = value == "1"
		case "STOPPING":
			n.stopping = value == "1"
		case "STATUS":
			n.status = value
		}
	}
	return n
}
