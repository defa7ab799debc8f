package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/internal/config"
	"postern/cmd/internal/probe"
	"postern/enforce"
	"postern/proxy"
)

// probeFlags are the flags of probe as they are written.
type probeFlags struct {
	host             bool
	domain           string
	port             uint16
	client, sender   string
	helo             string
	resolver         string
	timeout          time.Duration
	changed          func(string) bool
	config           *config.File
	mode, configName string
}

const probeHelp = `Connect to every address of every MX host of a domain, or of one host, and say what
is there: whether STARTTLS is offered, each TLS version, suite and group that is
accepted, the certificate with its chain, names and days left, the stapled OCSP
answer, whether it was revoked and whether each OCSP and CRL address that the chain
names can be reached, what DANE and MTA-STS demand and whether it holds, and the
verdict of the policy, as "postern run" would come to it from this machine. No mail
is sent.

A name is taken for a domain: its MX hosts are looked up and, where there is no MX
record, its own addresses. It is taken for a host with --host or --domain, with a
port behind it, and if it is an address ("[2001:db8::1]:25", "192.0.2.1"). --domain
names the recipient domain that a host is held against.

    postern probe contoso.com
    postern probe mx1.contoso.com --domain contoso.com
    postern probe 203.0.113.7:25 --format json

TLS 1.0 and 1.1 and insecure suites are tried too, only here, to find out whether
they are accepted. "refused" is a server that would not have what was offered
alone; "unknown", one that did not answer, or would not talk to us by then. Suites
that Go's TLS cannot speak are not found: those with finite-field DHE, CCM,
Camellia, ARIA, or CBC with SHA-384. One address costs some thirty short
connections, no more than two at a time; who reads along on a terminal is told of
each address that is done with.

The server is asked (SNI) for the rule's server_name, else for its name in the MX
record, else for the one in its banner. The client is taken for one that meets what
rules demand of clients. What is remembered of a server is not asked ("postern
memory show" tells): STARTTLS that is missing is never called stripped. The
resolver is that of the configuration, or --resolver; DNSSEC is only believed as
[resolver] trust_ad says. Without a configuration the built-in rule and the
defaults hold, and it says so.

Exit codes: 0 fine; 1 the policy refuses an address that was reached, or none was
reached; 2 the command line or the configuration is at fault.`

func newProbe(o *options) *cobra.Command {
	var f probeFlags
	cmd := &cobra.Command{
		Use:   "probe HOST|DOMAIN",
		Short: "What do the mail servers of a domain speak, show and publish, and would it do?",
		Long:  probeHelp,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.changed = cmd.Flags().Changed
			if err := f.load(o); err != nil {
				return err
			}
			ask, err := f.options(args[0])
			if err != nil {
				return err
			}
			return o.probe(cmd, f, ask)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.BoolVar(&f.host, "host", false, "the name is that of a host, whatever MX records it has")
	flags.StringVar(&f.domain, "domain", "", "the recipient `domain` that the host is held against")
	flags.Uint16Var(&f.port, "port", 25, "the `port` of the servers")
	flags.StringVar(&f.sender, "sender", "", "the sender, for rules: a `domain or address`; <> for the null sender")
	flags.StringVar(&f.client, "client", "", "the `address` of who connects, for rules (default: that of this machine)")
	flags.StringVar(&f.helo, "helo", "", "the `name` that EHLO says (default: that of this machine)")
	flags.StringVar(&f.resolver, "resolver", "", "the `address` of a DNS server to ask, instead of those of the configuration")
	flags.DurationVar(&f.timeout, "timeout", 90*time.Second, "the `duration` after which what is not known stays so")
	return o.printed(cmd)
}

// load reads the configuration. That the usual file is not there is no fault.
func (f *probeFlags) load(o *options) (err error) {
	f.configName, f.mode = o.config, "enforce"
	if f.config, err = o.load(); errors.Is(err, fs.ErrNotExist) && !f.changed("config") {
		f.configName, f.config, err = "", config.BuiltIn(), nil
	}
	if err == nil && f.config.Proxy.Observe {
		f.mode = "observe"
	}
	return err
}

// options understands the flags and the argument.
func (f *probeFlags) options(arg string) (probe.Options, error) {
	p := probe.Options{Port: f.port, Policy: f.config.Policy, Helo: f.helo}
	if err := f.target(arg, &p); err != nil {
		return p, err
	}
	if f.client != "" {
		a, err := netip.ParseAddr(f.client)
		if err != nil || a.Zone() != "" {
			return p, fmt.Errorf(`--client %q found, expected an address such as "192.0.2.1" or "2001:db8::1"`, f.client)
		}
		p.Client = a.Unmap()
	}
	if f.changed("sender") {
		a, err := readAddress(f.sender, "FROM:")
		if err != nil {
			return p, fmt.Errorf("--sender %w", err)
		}
		p.Sender = a.address()
	}
	if f.resolver != "" {
		server, err := serverAddress(f.resolver)
		if err != nil {
			return p, err
		}
		f.config.Proxy.Resolver.Servers = []netip.AddrPort{server}
	}
	switch {
	case f.timeout <= 0:
		return p, fmt.Errorf("--timeout %s found, expected a duration of more than 0s", f.timeout)
	case p.Port == 0:
		return p, errors.New("port 0 found, expected one from 1 to 65535")
	case f.helo == "":
		p.Helo = ownName()
	case strings.ContainsFunc(f.helo, func(r rune) bool { return r <= ' ' || r > '~' }) || len(f.helo) > 255:
		return p, fmt.Errorf("--helo %q found, expected a name", f.helo)
	}
	return p, nil
}

// target understands what is to be looked at.
func (f *probeFlags) target(arg string, p *probe.Options) (err error) {
	name := arg
	isHost := f.host || f.domain != ""
	if a, err := netip.ParseAddrPort(arg); err == nil {
		name, p.Address, p.Port = "", a.Addr(), a.Port()
	} else if a, err := netip.ParseAddr(strings.Trim(arg, "[]")); err == nil {
		name, p.Address = "", a
	} else if host, port, found := strings.Cut(arg, ":"); found {
		if _, err := fmt.Sscanf(port+"\n", "%d\n", &p.Port); err != nil {
			return fmt.Errorf("%q found, expected a host and a port such as \"mx.example.com:25\"", arg)
		}
		name, isHost = host, true
	}
	if p.Address.Zone() == "" {
		p.Address = p.Address.Unmap()
	}
	if name != "" {
		if name, err = config.Domain(name); err != nil {
			return err
		}
	}
	if f.domain != "" {
		if p.Domain, err = config.Domain(f.domain); err != nil {
			return fmt.Errorf("--domain %w", err)
		}
	}
	switch {
	case name == "":
	case isHost:
		p.Host = name
	default:
		p.Domain = name
	}
	return nil
}

func serverAddress(text string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddrPort(text); err == nil {
		return a, nil
	}
	if a, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return netip.AddrPortFrom(a, 53), nil
	}
	return netip.AddrPort{}, fmt.Errorf(`--resolver %q found, expected an address such as "127.0.0.1" or "[::1]:53"`, text)
}

// ownName is what this machine calls itself, fit for EHLO.
func ownName() string {
	name, err := os.Hostname()
	if err == nil {
		name, err = config.Domain(name)
	}
	if err != nil {
		return "localhost"
	}
	return name
}

func (o *options) probe(cmd *cobra.Command, f probeFlags, ask probe.Options) error {
	outlook, err := proxy.NewOutlook(f.config.Proxy)
	if err != nil {
		return f.config.Locate(err)
	}
	defer outlook.Close()
	ask.Known = probe.Knowledge{Resolver: outlook.Resolver, Policies: outlook.Policies, Revoked: outlook.Revoked,
		Verify: outlook.Verify, Revocation: outlook.Revocation, Certificate: outlook.Certificate}
	if terminal(cmd.ErrOrStderr()) {
		ask.Finished = func(host string, a *probe.Address) {
			fmt.Fprintln(cmd.ErrOrStderr(), strings.TrimSpace(host+" "+a.Address)+": "+inShort(a))
		}
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	report, err := probe.Run(ctx, ask)
	if err != nil {
		return runtimeError{err}
	}
	report.Mode, report.Config = f.mode, f.configName
	if ctx.Err() != nil {
		report.Notes = append(report.Notes, "it was ended before everything was known")
	}
	if o.json() {
		err = printJSON(cmd.OutOrStdout(), report)
	} else {
		err = printProbe(cmd.OutOrStdout(), report)
	}
	switch {
	case err != nil:
		return runtimeError{err}
	case !report.Fine:
		return errFinding
	}
	return nil
}

// terminal reports whether somebody reads along.
func terminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// inShort says of an address what is said while others are still under way.
func inShort(a *probe.Address) string {
	if a.Verdict == nil {
		return a.Detail
	}
	words := a.Verdict.Verdict
	if a.Session != nil && a.Session.Version != "" {
		words = a.Session.Version + ", " + words
	}
	if words == enforce.Allow.String() {
		return words
	}
	if a.Verdict.Reason != "" {
		words += " (" + a.Verdict.Reason + ")"
	}
	return words
}
