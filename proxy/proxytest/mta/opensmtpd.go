package mta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"postern/proxy/proxytest/netlab"
)

// OpenSMTPD is a mail server of that name, unpacked and not installed. It has no
// setting for Options.Lenient, and knows neither PIPELINING nor CHUNKING nor
// SMTPUTF8.
type OpenSMTPD struct {
	server
	room room
}

var (
	smtpdUser      = person{"opensmtpd", 64002}
	smtpdQueueUser = person{"opensmtpq", 64003}
)

const (
	smtpdProgram = "/usr/sbin/smtpd"
	smtpdConfig  = "/etc/smtpd.conf"
)

// StartOpenSMTPD is Start of OpenSMTPD (see [Program]).
func StartOpenSMTPD(host *netlab.Host, o Options) (*OpenSMTPD, error) {
	room, err := prepareRoom("OpenSMTPD", o, smtpdProgram, []person{smtpdUser, smtpdQueueUser}, []folder{
		{"/var/lib/opensmtpd", 0o755, 0}, {"/var/lib/opensmtpd/empty", 0o711, 0}, {"/var/run", 0o755, 0},
	})
	if err != nil {
		return nil, err
	}
	d := &OpenSMTPD{server: server{program: "OpenSMTPD", host: host, dir: room.dir, release: room.clear}, room: room}
	d.server.log = room.at("/var/log/smtpd.log")
	d.server.mailbox = room.at("/mail/" + inbox)
	d.server.queue = d.Queue
	if err := d.launch(o); err != nil {
		return nil, errors.Join(fmt.Errorf("mta: %s: %w", o.Name, err), room.clear(), os.RemoveAll(room.dir))
	}
	err = d.started(o.Name, func(ctx context.Context) error {
		if err := d.waitListening(ctx, o.Listen); err != nil {
			return err
		}
		command := []string{"smtpctl", "show", "status"}
		if o.Together {
			command = []string{"smtpctl", "pause", "mta"}
		}
		return d.wait(ctx, "an answer to smtpctl", func() (bool, error) {
			_, err := d.control(nil, command...)
			return err == nil, nil
		})
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// launch writes what it reads and starts it. It logs to its standard error.
func (d *OpenSMTPD) launch(o Options) error {
	var hosts strings.Builder
	hosts.WriteString("127.0.0.1 localhost\n")
	for i, domain := range routesInOrder(o.Routes) {
		fmt.Fprintf(&hosts, "%s %s\n", o.Routes[domain].Addr(), routeName(i))
	}
	for path, text := range map[string]string{
		smtpdConfig:        smtpdFile(o),
		"/etc/hosts":       hosts.String(),
		"/etc/resolv.conf": "lookup file\n",
		"/etc/mailname":    o.Name + "\n",
	} {
		if err := d.room.write(path, text, 0o644); err != nil {
			return err
		}
	}
	log, err := os.Create(d.server.log)
	if err != nil {
		return err
	}
	return errors.Join(d.start(func(c *exec.Cmd) {
		d.room.inside(c)
		c.Stdout, c.Stderr = log, log
	}, smtpdProgram, "-d", "-f", smtpdConfig), log.Close())
}

// routeName is what /etc/hosts calls the host of a route. An address would become
// the name asked for in TLS, which RFC 6066 §3 forbids and GnuTLS refuses.
func routeName(i int) string { return fmt.Sprintf("route%d.example", i) }

// smtpdFile is smtpd.conf.
func smtpdFile(o Options) string {
	var b strings.Builder
	b.WriteString("smtp max-message-size \"100M\"\nsmtp limit max-mails 1000000\n" +
		"table keepers { \"@\" = " + keeper.name + " }\nlisten on socket\n")
	for _, key := range slices.Sorted(maps.Keys(o.Parameters)) {
		fmt.Fprintf(&b, "%s %s\n", key, o.Parameters[key])
	}
	tls := ""
	if o.Certificate != "" {
		fmt.Fprintf(&b, "pki own cert %q\npki own key %q\n", certificateFile, keyFile)
		tls = " tls pki own"
	}
	for _, address := range o.Listen {
		fmt.Fprintf(&b, "listen on %s port 25%s hostname %q\n", address, tls, o.Name)
	}
	b.WriteString("action keep maildir \"/mail/" + inbox + "\" virtual <keepers>\n")
	var matches strings.Builder
	for _, domain := range o.Domains {
		fmt.Fprintf(&matches, "match from any for domain %q action keep\n", domain)
	}
	for i, domain := range routesInOrder(o.Routes) {
		to := o.Routes[domain]
		scheme, demand := "smtp+notls", ""
		switch o.TLS {
		case May:
			scheme = "smtp"
		case Encrypt:
			scheme, demand = "smtp+tls", " tls no-verify"
		}
		fmt.Fprintf(&b, "action route%d relay host \"%s://%s:%d\"%s helo %q\n", i, scheme, routeName(i), to.Port(), demand, o.Name)
		if domain == "*" {
			fmt.Fprintf(&matches, "match from local for any action route%d\n", i)
		} else {
			fmt.Fprintf(&matches, "match from local for domain %q action route%d\n", domain, i)
		}
	}
	return b.String() + matches.String()
}

// Submit is described at Server. Content without From, To, Date, Message-Id or
// Content-Transfer-Encoding gets them, and is encoded where it has the last not.
func (d *OpenSMTPD) Submit(from string, to []string, content []byte) error {
	_, err := d.control(lines(content), append([]string{"sendmail", "-i", "-f", from, "--"}, to...)...)
	return err
}

// Flush is described at Server. What was kept by Options.Together goes, and
// after that nothing is kept any more.
func (d *OpenSMTPD) Flush() error {
	// It fails where nothing is paused.
	_, _ = d.control(nil, "smtpctl", "resume", "mta")
	// A route that failed is not used for a while.
	routes, err := d.control(nil, "smtpctl", "show", "routes")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(routes)) {
		// "1. [] <-> 203.0.113.2 (route0.example) ND-- nconn=0 …"
		number, _, _ := strings.Cut(line, ".")
		_, _ = d.control(nil, "smtpctl", "resume", "route", number)
	}
	_, err = d.control(nil, "smtpctl", "schedule", "all")
	return err
}

// Queue is described at Server.
func (d *OpenSMTPD) Queue() ([]Queued, error) {
	out, err := d.control(nil, "smtpctl", "show", "queue")
	if err != nil {
		return nil, err
	}
	return parseSmtpdQueue(out), nil
}

// parseSmtpdQueue reads a recipient a line, the fields of which smtpctl(8) lists:
// "id|inet4|mta|flags|sender|recipient|destination|created|expires|last|tries|
// pending|delay|error".
func parseSmtpdQueue(text []byte) []Queued {
	const sender, recipient, state, reason, all = 4, 5, 11, 13, 14
	var queue []Queued
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), "|", all)
		if len(fields) != all {
			continue
		}
		one := Queued{Queue: "active", ID: fields[0], Sender: fields[sender],
			Recipients: []QueuedRecipient{{Address: fields[recipient], Reason: fields[reason]}}}
		if fields[state] == "pending" && fields[reason] != "" {
			one.Queue = "deferred"
		}
		queue = append(queue, one)
	}
	return queue
}

// control runs smtpctl under one of its names, with the group that the installed
// one would get by its set-group-id bit.
func (d *OpenSMTPD) control(input io.Reader, command ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	c := d.host.Command(ctx, "/usr/sbin/smtpctl", command[1:]...)
	c.Args[0] = command[0]
	d.room.inside(c)
	c.SysProcAttr.Credential = &syscall.Credential{Uid: 0, Gid: uint32(smtpdQueueUser.id)}
	return d.run(c, input, command[0])
}
