package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"postern/cmd/internal/config"
	"postern/proxy"
)

// initiation is what "postern init" is told.
type initiation struct {
	output     string
	interfaces []string
	force      bool
	root       string // certificates are looked for below it
	user       string // whom the service runs as
}

func newInit(o *options) *cobra.Command {
	in := initiation{root: "/", user: serviceUser}
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Ask this machine what it can be asked, and write a first configuration",
		Long: `Ask this machine what can be asked of it, and write a configuration with comments
that "postern check" finds sound here. Nobody is asked anything.

It looks at the interfaces and at where the default route leads, which is outside;
at forwarding; at the input chains of firewalls; at the resolvers; at who listens
on port 25; and for certificates whose keys are beside them, in /etc/postern/tls,
/etc/letsencrypt/live, /etc/ssl and /etc/pki/tls. It changes nothing but the file
that it writes, and then says what to do next.

A file that is there already is left alone, the one of the package too, unless
--force is given; then it is kept under the same name with .old behind it.

    postern init --output -                   look at it first
    postern init --force && postern check

Exit codes: 0 written; 1 there is a file already, or the machine cannot be asked;
2 the command line is at fault.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if in.output == "" {
				in.output = o.config
			}
			return in.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&in.output, "output", "", "the `file` to write, - for standard output (default: that of --config)")
	cmd.Flags().StringArrayVar(&in.interfaces, "interface", nil, "take connections that come in on this interface, instead of those found; may be given several `times`")
	cmd.Flags().BoolVar(&in.force, "force", false, "replace a file that is there")
	return cmd
}

func (in initiation) run(ctx context.Context, stdout, stderr io.Writer) error {
	words := stdout
	if in.output == "-" {
		words = stderr
	} else if err := in.mayWrite(); err != nil {
		return runtimeError{err}
	}
	ctx, cancel := context.WithTimeout(ctx, examinationLimit)
	defer cancel()
	p, err := in.propose(ctx, time.Now())
	if err != nil {
		return runtimeError{err}
	}
	text := p.file()
	// What is written has to be what "check" takes, or it is this program's fault.
	file, err := config.Parse(in.output, []byte(text))
	if err != nil {
		return runtimeError{fmt.Errorf("what was found makes no sound configuration: %w", err)}
	}
	if _, err := proxy.CheckFiles(file.Proxy); errors.Join(err, proxy.CheckInterception(file.Proxy)) != nil {
		return runtimeError{file.Locate(errors.Join(err, proxy.CheckInterception(file.Proxy)))}
	}
	p.obstacles = file.Locate(proxy.CheckMachine(file.Proxy))
	p.hindrances, p.hindranceErr = proxy.InputHindrances(file.Proxy)
	if in.output == "-" {
		_, err = io.WriteString(stdout, text)
	} else {
		err = in.write([]byte(text))
	}
	if err == nil {
		_, err = io.WriteString(words, p.words(in))
	}
	if err != nil {
		return runtimeError{err}
	}
	return nil
}

// proposal is what comes of asking.
type proposal struct {
	machine    proxy.Machine
	interfaces []string
	why        string // these, and not others
	port       uint16 // to listen on

	certificates []offered

	// what is wrong with the machine for it
	obstacles    config.Errors
	hindrances   []proxy.InputHindrance
	hindranceErr error
}

// offered is a certificate, and why it is not used yet.
type offered struct {
	proxy.FoundCertificate
	name, but string
}

func (in initiation) propose(ctx context.Context, now time.Time) (*proposal, error) {
	m, err := proxy.Survey(ctx)
	if err != nil {
		return nil, err
	}
	m.Interfaces = slices.DeleteFunc(m.Interfaces, func(i proxy.MachineInterface) bool { return !configurable(i.Name) })
	p := &proposal{machine: m, port: freePort(m.Taken)}
	if p.interfaces, p.why = choose(m.Interfaces); len(in.interfaces) > 0 {
		p.interfaces, p.why = in.interfaces, "As given by --interface."
	}
	if len(p.interfaces) == 0 {
		return nil, errors.New("no interface that is up and has an address was found: name one with --interface (ip -br address shows them)")
	}
	for _, c := range proxy.FindCertificates(in.root, now) {
		if !printable(c.Cert) || !printable(c.Key) {
			continue // TOML has no way to write some of these
		}
		p.certificates = append(p.certificates, in.offer(c, len(p.certificates)))
	}
	return p, nil
}

// configurable tells whether an interface can be named in a configuration. The
// kernel takes names that people would not, and one of these is no reason to write
// nothing.
func configurable(name string) bool {
	_, err := config.Parse("", []byte("[intercept]\ninterfaces = "+tomlList([]string{name})))
	return err == nil
}

func printable(path string) bool {
	return utf8.ValidString(path) && strings.IndexFunc(path, unicode.IsControl) < 0
}

// offer decides whether a certificate is used at once: one that clients would
// refuse, or that keeps the service from starting, is only shown.
func (in initiation) offer(c proxy.FoundCertificate, before int) offered {
	out := offered{FoundCertificate: c, name: "edge"}
	if before > 0 {
		out.name = fmt.Sprintf("edge-%d", before+1)
	}
	switch {
	case !c.Valid:
		out.but = "not valid today"
	case !proxy.MayRead(in.user, c.Cert) || !proxy.MayRead(in.user, c.Key):
		out.but = fmt.Sprintf("the user %s, whom the service runs as, may not read it; copy it to /etc/postern/tls, and again when it is renewed", in.user)
	}
	return out
}

// choose takes the interfaces where clients are: those where no default route
// leads, or the only one there is.
func choose(all []proxy.MachineInterface) (names []string, why string) {
	var inside, outside, bridges []string
	for _, i := range all {
		switch {
		case !i.Outside:
			inside = append(inside, i.Name)
		case i.Bridge:
			bridges = append(bridges, i.Name)
		default:
			outside = append(outside, i.Name)
		}
	}
	switch {
	case len(bridges) > 0 && len(inside) == 0:
		return bridges, "A bridge: what passes it in either direction is looked at."
	case len(inside) > 0 && len(outside)+len(bridges) > 0:
		return inside, "Where no default route leads: the inside. Leave out what is not."
	case len(inside) > 0:
		return inside, "There is no default route, so that inside and outside could not be told apart."
	}
	return outside, "The only way in and out of this machine."
}

// freePort is the usual one, or the next that nobody has.
func freePort(taken []uint16) uint16 {
	port := uint16(2525)
	for slices.Contains(taken, port) {
		port++
	}
	return port
}
