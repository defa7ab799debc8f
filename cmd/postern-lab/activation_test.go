package main

import (
	"context"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// held opens the daemon's socket in its place, for the whole test.
func (l *lab) held(ctx context.Context, t *testing.T) *os.File {
	t.Helper()
	file, err := l.transparentSocket(ctx, "127.0.0.1:2525")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

// The daemon dies, which ends its sessions and no more: the socket is somebody
// else's, so connections made meanwhile wait in it for the next daemon.
func TestConnectionsMadeWhilePosternIsDeadWaitInTheInheritedSocketAndAreServed(t *testing.T) {
	ctx, l := prepare(t)
	socket := l.held(ctx, t)
	first := l.starts(ctx, t, socket)
	before := l.visit(ctx, t)
	if err := first.kill(); err != nil {
		t.Fatal(err)
	}
	if reply, err := before.ReadReply(); err == nil {
		t.Errorf("the session of the daemon that was killed heard %q", reply)
	}

	waiting := make([]visit, 20)
	for i := range waiting {
		waiting[i] = l.calls(ctx, t) // a refused one ends the test
	}
	second := l.starts(ctx, t, socket)
	for i, v := range waiting {
		v.greets()
		if i == 0 {
			token := newToken()
			content := letter(token, 64<<10)
			v.begins(token)
			v.sendsRest(content)
			l.arrivedUnchanged(t, token, content)
		}
		v.quits()
		if r := v.record(ctx, second); r.Verdict != "allow" {
			t.Errorf("verdict %s", r.Verdict)
		}
	}
	if err := second.stop(ctx); err != nil {
		t.Error(err)
	}

	// A stop is no crash, but the socket is held all the same.
	late := l.calls(ctx, t)
	third := l.starts(ctx, t, socket)
	late.greets()
	late.quits()
	if err := third.stop(ctx); err != nil {
		t.Error(err)
	}
}

// Without such a socket the kernel refuses: the test above would notice.
func TestConnectionsMadeWhilePosternIsDeadAreRefusedWithoutAnInheritedSocket(t *testing.T) {
	ctx, l, d := open(t)
	if err := d.kill(); err != nil {
		t.Fatal(err)
	}
	if conn, err := l.dial(ctx, l.network.Client4, lifeSite); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("%v %v, want a reset", conn, err)
	}
}
