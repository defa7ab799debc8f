// Package redislab runs a real Redis or Valkey server for tests, on an address of
// its own on loopback and on a socket below a directory of the test's, and has it
// die, hang and come back. It keeps nothing on disk.
package redislab

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A Server is one that runs, or not any more.
type Server struct {
	Address string // host:port
	Socket  string // the path of its unix socket

	t       testing.TB
	program string
	options []string
	running *exec.Cmd
}

// Start starts a server with further options as of its command line. It is ended
// with the test. Where there is no program, the test is skipped, but in CI.
func Start(t testing.TB, options ...string) *Server {
	t.Helper()
	s := &Server{t: t}
	for _, name := range []string{"valkey-server", "redis-server"} {
		if path, err := exec.LookPath(name); err == nil {
			s.program = path
		}
	}
	if s.program == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("neither valkey-server nor redis-server is installed")
		}
		t.Skip("neither valkey-server nor redis-server is installed")
	}
	dir, err := os.MkdirTemp("", "redislab") // the path of a socket has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s.Socket = filepath.Join(dir, "s")
	host, port := fmt.Sprintf("127.%d.%d.%d", 64+rand.N(64), rand.N(256), 1+rand.N(254)), "0"
	if l, err := net.Listen("tcp", net.JoinHostPort(host, "0")); err != nil {
		t.Fatal(err)
	} else {
		_, port, _ = net.SplitHostPort(l.Addr().String())
		l.Close()
	}
	s.Address = net.JoinHostPort(host, port)
	s.options = append([]string{"--bind", host, "--port", port, "--unixsocket", s.Socket, "--dir", dir, "--save", "", "--appendonly", "no",
		"--loglevel", "warning"}, options...)
	t.Cleanup(s.Kill)
	s.Restart()
	return s
}

// Restart starts it again, with nothing in it.
func (s *Server) Restart() {
	s.t.Helper()
	s.running = exec.Command(s.program, s.options...)
	s.running.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.running.Start(); err != nil {
		s.t.Fatal(err)
	}
	for range 500 {
		if s.answers() == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Fatalf("%s does not answer: %v", s.program, s.answers())
}

func (s *Server) answers() error {
	conn, err := net.Dial("unix", s.Socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return err
	}
	b := make([]byte, 1)
	_, err = conn.Read(b)
	return err
}

// Kill ends it as a power failure would.
func (s *Server) Kill() {
	if s.running != nil {
		_ = s.running.Process.Kill()
		_ = s.running.Wait()
		s.running = nil
	}
}

// Hang has it say nothing more, and not end either, until Resume.
func (s *Server) Hang() { s.signal(syscall.SIGSTOP) }

// Resume has it go on.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.running.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// Do has it do a command, of words without blanks or quoted as its inline commands
// are, and gives the first line of the answer.
func (s *Server) Do(command string) string {
	s.t.Helper()
	answer, err := s.do(command)
	if err != nil {
		s.t.Fatalf("%s: %v", command, err)
	}
	return answer
}

func (s *Server) do(command string) (string, error) {
	conn, err := net.Dial("unix", s.Socket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(conn, command+"\r\n"); err != nil {
		return "", err
	}
	b := make([]byte, 4096)
	n, err := conn.Read(b)
	line, _, _ := strings.Cut(string(b[:n]), "\r\n")
	if strings.HasPrefix(line, "-") {
		err = errors.New(line)
	}
	return line, err
}
