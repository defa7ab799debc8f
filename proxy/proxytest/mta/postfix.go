package mta

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"postern/proxy/proxytest/netlab"
)

// Postfix is the installed Postfix, with a configuration, queue, log and mailbox
// of its own.
type Postfix struct {
	server
	in installation
}

// StartPostfix is Start of Postfix (see [Program]).
func StartPostfix(host *netlab.Host, o Options) (*Postfix, error) {
	if err := severalIDs(); err != nil {
		return nil, err
	}
	in, err := findInstallation()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "postfix-")
	if err != nil {
		return nil, fmt.Errorf("mta: %w", err)
	}
	p := &Postfix{server: server{program: "Postfix", host: host, dir: dir}, in: in}
	p.server.log = filepath.Join(dir, "log", "postfix.log")
	p.server.mailbox = filepath.Join(p.mail(), inbox)
	p.server.queue = p.Queue
	if err := p.configure(o); err != nil {
		return nil, errors.Join(fmt.Errorf("mta: %s: %w", o.Name, err), os.RemoveAll(dir))
	}
	// Being the first process of its namespace the master may run in the
	// foreground (-i, as in containers).
	err = p.start(func(c *exec.Cmd) { c.Dir = dir }, filepath.Join(p.in.daemons, "master"), "-i", "-c", p.config())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mta: %s: %w", o.Name, err), os.RemoveAll(dir))
	}
	err = p.started(o.Name, func(ctx context.Context) error {
		_, err := p.WaitLog(ctx, startedLine)
		return err
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// PID is the process that all others of it come from, as this program sees it.
func (p *Postfix) PID() int { return p.server.command.Process.Pid }
