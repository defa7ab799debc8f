package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"postern/cmd/internal/config"
	"postern/cmd/internal/service"
	"postern/proxy"
)

func newRun(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Serve intercepted connections",
		Long: `Serve the connections that the kernel sends here, until told to stop.

The listening sockets are those of [listen], or those that systemd hands over.
For method = "tproxy" the process needs CAP_NET_RAW (CAP_NET_ADMIN works too) and
no other privilege; putting the interception in place is the business of
"postern intercept up", which needs CAP_NET_ADMIN.

Signals:
  SIGHUP   reload: the configuration, certificates and keys are read anew and come
           into force together, for sessions that begin from then on. If anything
           is wrong with them all stays as it was, and the log says why. A log
           file is opened anew. What [intercept] has the kernel do takes another
           "postern intercept up"; where it has changed the log says so.
  SIGTERM  stop, in this order: stop accepting; tell sessions in dialogue 421; let
  SIGINT   messages under way finish; after [timeouts] drain end what is left, but
           for sessions that wait for the reply to a whole message, which the
           sender would otherwise deliver again; write the records; exit 0.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &daemon{options: o, notify: service.NewNotifier()}
			return d.run(cmd.Context())
		},
	}
}

// A daemon is a Server with a service manager around it.
type daemon struct {
	options *options
	notify  *service.Notifier
	server  *proxy.Server
	file    *config.File
	log     *proxy.LogFile

	intercepted proxy.Config // the configuration of the start, which the kernel presumably has
}

func (d *daemon) run(ctx context.Context) error {
	// Signals first: one that comes while starting is not to end the program in
	// the middle.
	signals := service.Catch()
	defer signals.Release()
	defer service.KeepHeadroom().Release()
	defer func() {
		if d.log != nil {
			d.log.Sync() // the one that is in force then
		}
	}()
	if err := d.start(ctx); err != nil {
		return errors.Join(err, d.notify.Status("could not start: "+err.Error()))
	}
	watching, unwatch := context.WithCancel(ctx)
	defer unwatch()
	go d.watch(watching)
	go service.GiveBack(watching)

	served := make(chan error, 1)
	go func() { served <- d.server.Serve() }()
	d.log.Info("started", zap.String("version", version), zap.Stringers("listen", d.server.Addresses()))
	d.tell(d.notify.Ready(d.status()))
	for {
		select {
		case <-signals.Reload:
			d.reload()
		case <-signals.Stop:
			return d.stop(ctx, served)
		case <-ctx.Done():
			return d.stop(context.WithoutCancel(ctx), served)
		case err := <-served:
			d.log.Error("stopped serving", zap.Error(err))
			return runtimeError{errors.Join(err, d.server.Shutdown(ctx))}
		}
	}
}

// watch answers the service manager's watchdog for as long as the check passes.
func (d *daemon) watch(ctx context.Context) {
	failed := func(err error) { d.log.Error("watchdog check failed", zap.Error(err)) }
	if err := service.Watch(ctx, d.server.Check, failed); err != nil {
		d.log.Error("the watchdog is not answered", zap.Error(err))
	}
}

// start brings everything to where connections can be accepted, or says what is
// in the way; it leaves nothing behind then.
func (d *daemon) start(ctx context.Context) error {
	var err error
	if d.file, err = d.options.load(); err != nil {
		return err
	}
	d.intercepted = d.file.Proxy
	if err = proxy.CheckPrivileges(d.file.Proxy); err != nil {
		return runtimeError{err}
	}
	if d.log, err = proxy.OpenLog(d.file.Proxy.Log); err != nil {
		return runtimeError{err}
	}
	for _, note := range d.file.Notes {
		d.log.Warn(note.Error())
	}
	if d.server, err = proxy.NewServer(d.file.Proxy, d.log.Logger); err != nil {
		return d.file.Locate(err)
	}
	inherited, err := service.Inherited()
	if err != nil {
		return runtimeError{err}
	}
	if len(inherited) == 0 {
		if err := d.server.Listen(ctx); err != nil {
			return runtimeError{err}
		}
		return nil
	}
	sockets := make([]*net.TCPListener, len(inherited))
	for i, l := range inherited {
		sockets[i] = l.TCPListener
	}
	if err := d.server.Adopt(sockets); err != nil {
		return runtimeError{err}
	}
	if stray := d.server.Misplaced(); len(stray) > 0 {
		d.log.Error("inherited sockets at which no connection will arrive: the kernel sends them to listen.addresses",
			zap.Stringers("inherited", stray), zap.Stringers("listen.addresses", d.file.Proxy.Listen.Addresses))
	}
	return nil
}

// reload puts a new configuration in force whole, or keeps the old whole and
// says why.
func (d *daemon) reload() {
	d.tell(d.notify.Reloading("reloading"))
	if err := d.tryReload(); err != nil {
		d.log.Error("reload failed, everything stays as it was", zap.Error(err))
		d.tell(d.notify.Ready("reload failed, running with what was before: " + err.Error()))
		return
	}
	d.log.Info("reloaded", zap.Uint64("generation", d.server.Generation()))
	status := d.status()
	if changed := proxy.InterceptionChanges(d.intercepted, d.file.Proxy); len(changed) > 0 {
		d.log.Warn("these keys are the kernel's: put them in force with \"postern intercept up\"", zap.Strings("changed", changed))
		status += "; " + strings.Join(changed, ", ") + " changed since the start: say postern intercept up"
	}
	d.tell(d.notify.Ready(status))
}

func (d *daemon) tryReload() error {
	file, err := d.options.load()
	if err != nil {
		return err
	}
	log := d.log
	if file.Proxy.Log != d.file.Proxy.Log {
		if log, err = proxy.OpenLog(file.Proxy.Log); err != nil {
			return err
		}
	}
	if err := d.server.Reload(file.Proxy, log.Logger); err != nil {
		return file.Locate(err)
	}
	d.file, d.log = file, log
	if err := log.Reopen(); err != nil {
		log.Error("the log file cannot be opened anew, the old one stays in use", zap.Error(err))
	}
	return nil
}

// stop is what SIGTERM means. The order is that of Server.Shutdown, between
// telling the service manager and flushing the log.
func (d *daemon) stop(ctx context.Context, served <-chan error) error {
	d.tell(d.notify.Stopping("draining"))
	d.log.Info("stopping", zap.Int("sessions", d.server.Sessions()))
	err := errors.Join(d.server.Shutdown(ctx), <-served)
	d.log.Info("stopped")
	if err != nil {
		return runtimeError{err}
	}
	return nil
}

func (d *daemon) status() string {
	return fmt.Sprintf("serving, configuration %d with %d rules", d.server.Generation(), len(d.file.Proxy.Rules))
}

// tell notes that the service manager could not be told; it is no reason to stop.
func (d *daemon) tell(err error) {
	if err != nil {
		d.log.Warn("service manager", zap.Error(err))
	}
}
