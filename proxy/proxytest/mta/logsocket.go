package mta

import (
	"errors"
	"net"
	"os"
	"regexp"
)

// logSocket takes the place of syslogd: what programs say to a room's /dev/log
// becomes lines of a file.
type logSocket struct {
	socket *net.UnixConn
	file   *os.File
	done   chan struct{}
}

// logHead is the priority in front of a message: "<22>".
var logHead = regexp.MustCompile(`^<\d+>`)

func listenForLog(socket, file string) (*logSocket, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	out, err := os.Create(file)
	if err == nil {
		// Every user may log.
		err = os.Chmod(socket, 0o666)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	l := &logSocket{socket: conn, file: out, done: make(chan struct{})}
	go l.write()
	return l, nil
}

// write ends when the socket is closed.
func (l *logSocket) write() {
	defer close(l.done)
	message := make([]byte, 65536)
	for {
		n, err := l.socket.Read(message)
		if err != nil {
			return
		}
		line := append(logHead.ReplaceAll(message[:n:n], nil), '\n')
		if _, err := l.file.Write(line); err != nil {
			return
		}
	}
}

func (l *logSocket) close() error {
	err := l.socket.Close()
	<-l.done
	return errors.Join(err, l.file.Close())
}
