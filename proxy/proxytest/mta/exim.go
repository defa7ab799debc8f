package mta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"postern/proxy/proxytest/netlab"
)

// Exim is a mail server of that name, unpacked and not installed. Lines end as
// they should whatever Options.Lenient says: Exim has no setting for it.
type Exim struct {
	server
	room room
}

var (
	eximUser    = person{"Debian-exim", 64002}
	eximStarted = regexp.MustCompile(` daemon started: pid=`)
)

const (
	eximProgram = "/usr/sbin/exim4"
	eximConfig  = "/etc/exim4/exim4.conf"
	eximSpool   = "/var/spool/exim4"
)

// StartExim is Start of Exim (see [Program]).
func StartExim(host *netlab.Host, o Options) (*Exim, error) {
	room, err := prepareRoom("Exim", o, eximProgram, []person{eximUser}, []folder{
		{"/etc/exim4", 0o755, 0}, {eximSpool, 0o750, eximUser.id}, {"/var/log/exim4", 0o750, eximUser.id},
	})
	if err != nil {
		return nil, err
	}
	e := &Exim{server: server{program: "Exim", host: host, dir: room.dir, release: room.clear}, room: room}
	e.server.log = room.at("/var/log/exim4/mainlog")
	e.server.mailbox = room.at("/mail/" + inbox)
	e.server.queue = e.Queue
	// The daemon is its own user, and becomes root to deliver by starting itself.
	err = errors.Join(room.write(eximConfig, eximFile(o), 0o644), os.Chmod(room.at(eximProgram), 0o755|os.ModeSetuid))
	if err == nil && o.Certificate != "" {
		// It reads them as its own user.
		err = errors.Join(os.Chown(room.at(certificateFile), eximUser.id, 0), os.Chown(room.at(keyFile), eximUser.id, 0))
	}
	if err == nil && o.Staple != "" {
		err = os.Chown(room.at(stapleFile), eximUser.id, 0)
	}
	if err == nil {
		err = e.start(room.inside, eximProgram, "-bdf", "-q1h")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mta: %s: %w", o.Name, err), room.clear(), os.RemoveAll(room.dir))
	}
	err = e.started(o.Name, func(ctx context.Context) error {
		_, err := e.WaitLog(ctx, eximStarted)
		return err
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

// Submit is described at Server. A message with From, To, Date and Message-Id
// gets nothing added but a Received before all else.
func (e *Exim) Submit(from string, to []string, content []byte) error {
	_, err := e.beside(e.room, lines(content), append([]string{eximProgram, "-oi", "-odb", "-f", from, "--"}, to...)...)
	return err
}

// Flush is described at Server. A queue run of two passes looks first for all
// messages that go to one host.
func (e *Exim) Flush() error {
	_, err := e.beside(e.room, nil, "/bin/sh", "-c", eximProgram+" -qqff >/dev/null 2>&1 &")
	return err
}

// Queue is described at Server. "deferred" is a message whose last attempt came
// to nothing, also while another is being made.
func (e *Exim) Queue() ([]Queued, error) {
	out, err := e.beside(e.room, nil, eximProgram, "-bpu")
	if err != nil {
		return nil, err
	}
	all := parseEximQueue(out)
	for i := range all {
		// It is gone with the message, which may have left meanwhile.
		tried, err := os.ReadFile(e.room.at(filepath.Join(eximSpool, "msglog", all[i].ID)))
		if err == nil {
			all[i].explain(tried)
		}
	}
	return all, nil
}

// eximQueued is " 0m  4.2K 1xW9Ao-00001L-1G <a@b.example>": age, size, id, sender.
var eximQueued = regexp.MustCompile(`^ *\d+[mhd] +\S+ +(\S+) <([^>]*)>`)

// parseEximQueue reads what "exim -bpu" prints: a message and, each on a line of
// its own, those who have not got it.
func parseEximQueue(text []byte) []Queued {
	var all []Queued
	for line := range strings.Lines(string(text)) {
		if found := eximQueued.FindStringSubmatch(line); found != nil {
			all = append(all, Queued{Queue: "active", ID: found[1], Sender: found[2]})
		} else if address := strings.TrimSpace(line); address != "" && len(all) > 0 {
			last := &all[len(all)-1]
			last.Recipients = append(last.Recipients, QueuedRecipient{Address: address})
		}
	}
	return all
}

// eximDeferred is a line of a message's own log: "… x@b.example R=out T=out defer
// (111): Connection refused".
var eximDeferred = regexp.MustCompile(`^\S+ \S+ (\S+) .*?\bdefer \([-0-9]+\)(.*)`)

// explain puts in why the recipients have not got the message.
func (q *Queued) explain(tried []byte) {
	for line := range bytes.Lines(tried) {
		found := eximDeferred.FindSubmatch(line)
		for i := range q.Recipients {
			if found != nil && string(found[1]) == q.Recipients[i].Address {
				q.Recipients[i].Reason = strings.TrimPrefix(string(found[2]), ": ")
				q.Queue = "deferred"
			}
		}
	}
}
