package mta_test

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
)

// A helper is a program on the server host beside the mail server: a responder, a
// web server.
type helper struct {
	site    *site
	command *exec.Cmd
	ended   chan struct{}
}

// listening starts a helper and waits until it says, in a line that matches, that
// it listens: one that serves one caller after the other is not to be tried by
// calling it. It is killed with the test.
func listening(s *site, says *regexp.Regexp, name string, args ...string) *helper {
	s.t.Helper()
	h := &helper{site: s, ended: make(chan struct{})}
	h.command = s.net.Server.Command(within(s.t, 3*patience), name, args...)
	h.command.Dir = s.dir
	out, theirs, err := os.Pipe()
	must(s.t, err)
	h.command.Stdout, h.command.Stderr = theirs, theirs
	must(s.t, s.net.Server.Start(h.command))
	must(s.t, theirs.Close())
	heard := make(chan string, 1)
	go func() {
		defer close(h.ended)
		said := bufio.NewReader(out)
		all := ""
		for {
			line, err := said.ReadString('\n')
			all += line
			if err != nil {
				heard <- "it ended: " + all
				break
			}
			if says.MatchString(line) {
				heard <- ""
				break
			}
		}
		_, _ = io.Copy(io.Discard, said)
		_ = h.command.Wait() // it is killed
		_ = out.Close()
	}()
	s.t.Cleanup(h.kill)
	if complaint := <-heard; complaint != "" {
		s.t.Fatalf("%s %q: %s", name, args, complaint)
	}
	return h
}

// kill ends it without any warning, if it still runs.
func (h *helper) kill() {
	h.site.t.Helper()
	if err := h.command.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		h.site.t.Error(err)
	}
	<-h.ended
}
