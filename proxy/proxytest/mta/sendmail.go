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

// Sendmail is a mail server of that name, unpacked and not installed. Debian's
// knows neither CHUNKING nor SMTPUTF8.
type Sendmail struct {
	server
	room   room
	socket *logSocket
}

const (
	sendmailProgram = "/usr/libexec/sendmail/sendmail"
	sendmailConfig  = "/etc/mail/sendmail.cf"
	sendmailSource  = "/etc/mail/sendmail.mc"
	sendmailSpool   = "/var/spool/mqueue"
)

var sendmailStarted = regexp.MustCompile(`: starting daemon `)

// StartSendmail is Start of sendmail (see [Program]).
func StartSendmail(host *netlab.Host, o Options) (*Sendmail, error) {
	people := []person{{"smmta", 64002}, {"smmsp", 64003}, {"mailnull", 64004}}
	room, err := prepareRoom("sendmail", o, sendmailProgram, people, []folder{
		{"/etc/mail", 0o755, 0}, {sendmailSpool, 0o700, 0},
		{"/mail/" + inbox, 0o700, keeper.id}, {"/mail/" + inbox + "/new", 0o700, keeper.id}, {"/mail/" + inbox + "/tmp", 0o700, keeper.id},
	})
	if err != nil {
		return nil, err
	}
	m := &Sendmail{server: server{program: "sendmail", host: host, dir: room.dir}, room: room}
	m.server.log = room.at("/var/log/mail.log")
	m.server.mailbox = room.at("/mail/" + inbox)
	m.server.queue = m.Queue
	m.server.release = m.clear
	if err := m.launch(o); err != nil {
		return nil, errors.Join(fmt.Errorf("mta: %s: %w", o.Name, err), m.clear(), os.RemoveAll(room.dir))
	}
	err = m.started(o.Name, func(ctx context.Context) error {
		// It says so before it listens.
		if _, err := m.WaitLog(ctx, sendmailStarted); err != nil {
			return err
		}
		return m.waitListening(ctx, o.Listen)
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// launch has m4 make the configuration, and starts the program.
func (m *Sendmail) launch(o Options) (err error) {
	if m.socket, err = listenForLog(m.room.at("/dev/log"), m.server.log); err != nil {
		return err
	}
	for path, text := range map[string]string{
		sendmailSource:             sendmailFile(o),
		"/etc/mail/service.switch": "hosts files\naliases files\n",
	} {
		if err := m.room.write(path, text, 0o644); err != nil {
			return err
		}
	}
	if err := m.room.write(keepProgram, keepScript, 0o755); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	const macros = "/usr/share/sendmail/cf/"
	m4 := m.host.Command(ctx, "/usr/bin/m4", "-D_CF_DIR_="+macros, macros+"m4/cf.m4", sendmailSource)
	m.room.inside(m4)
	made, err := m.run(m4, nil, "m4")
	if err != nil {
		return err
	}
	if err := m.room.write(sendmailConfig, string(made), 0o644); err != nil {
		return err
	}
	return m.start(m.room.inside, sendmailProgram, "-bD", "-q1h", "-C", sendmailConfig)
}

func (m *Sendmail) clear() error {
	if m.socket == nil {
		return m.room.clear()
	}
	return errors.Join(m.socket.close(), m.room.clear())
}

// Submit is described at Server. sendmail writes addresses in header fields its
// own way, and adds what is missing of From, Date and Message-Id.
func (m *Sendmail) Submit(from string, to []string, content []byte) error {
	_, err := m.beside(m.room, lines(content), append([]string{sendmailProgram, "-C", sendmailConfig, "-Am", "-i",
		"-B8BITMIME", "-f", from, "--"}, to...)...)
	return err
}

// Flush is described at Server.
func (m *Sendmail) Flush() error {
	_, err := m.beside(m.room, nil, "/bin/sh", "-c", sendmailProgram+" -C "+sendmailConfig+" -q >/dev/null 2>&1 &")
	return err
}

// Queue is described at Server. "deferred" is a message whose last attempt came
// to nothing, also while another is being made.
func (m *Sendmail) Queue() ([]Queued, error) {
	entries, err := os.ReadDir(m.room.at(sendmailSpool))
	if err != nil {
		return nil, fmt.Errorf("mta: %w", err)
	}
	var all []Queued
	for _, entry := range entries {
		// A control file is called qf, or tf while it is being written anew; a
		// message between the two is still there as its df.
		id, isData := strings.CutPrefix(entry.Name(), "df")
		if !isData {
			continue
		}
		text, err := os.ReadFile(m.room.at(filepath.Join(sendmailSpool, "qf"+id)))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("mta: %w", err)
		}
		all = append(all, parseSendmailQueued(id, text))
	}
	return all, nil
}

// parseSendmailQueued reads a control file, a letter and its value a line: S is
// the sender, R a recipient behind its flags, M why the last attempt failed.
func parseSendmailQueued(id string, text []byte) Queued {
	one := Queued{Queue: "active", ID: id}
	reason := ""
	for line := range bytes.Lines(text) {
		kind, value := line[0], strings.TrimSuffix(string(line[1:]), "\n")
		switch kind {
		case 'S':
			one.Sender = strings.Trim(value, "<>")
		case 'R':
			_, address, _ := strings.Cut(value, ":")
			one.Recipients = append(one.Recipients, QueuedRecipient{Address: strings.Trim(address, "<>")})
		case 'M':
			reason = value
		}
	}
	for i := range one.Recipients {
		one.Recipients[i].Reason = reason
	}
	if reason != "" {
		one.Queue = "deferred"
	}
	return one
}
