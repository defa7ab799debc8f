// SHA-1 in handshake signatures is weak and still above cleartext, which is what
// a peer with nothing better would get; chains signed with it never verify.
//go:debug tlssha1=1

// Command postern is a transparent STARTTLS-enforcing SMTP proxy.
//
// Each subcommand is one file; what they do lives in the packages below. This
// package reads flags, prints, and turns errors into exit codes.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"postern/cmd/internal/config"
)

// The exit codes.
const (
	exitFine    = 0
	exitFinding = 1 // something was found, or failed while running
	exitUsage   = 2 // the command line or the configuration is at fault
)

// run is the program: what main does, for tests to do in-process.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(append([]string{}, args...)) // cobra takes nil for "look at os.Args"
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitFine
	}
	var faults config.Errors
	switch {
	case errors.Is(err, errFinding), errors.Is(err, errFaulty):
	case errors.As(err, &faults):
		fmt.Fprintln(stderr, faults) // each with its file and line, as compilers do
	default:
		fmt.Fprintln(stderr, "postern:", err)
	}
	return exitCode(err)
}

// These end a command that has already said what there is to say.
var (
	errFinding = errors.New("finding")
	errFaulty  = errors.New("faulty configuration")
)

// A runtimeError is a failure that is nobody's mistake in writing.
type runtimeError struct{ error }

func (e runtimeError) Unwrap() error { return e.error }

// exitCode tells a failure while running from a mistake in the command line or
// the configuration, which is everything that cobra or config complain of.
func exitCode(err error) int {
	if errors.Is(err, errFinding) || errors.As(err, new(runtimeError)) {
		return exitFinding
	}
	return exitUsage
}

// options are the flags that all commands take.
type options struct {
	config string
	format string
}

const defaultConfig = "/etc/postern/postern.toml"

func newRoot() *cobra.Command {
	o := new(options)
	root := &cobra.Command{
		Use:   "postern",
		Short: "A transparent STARTTLS-enforcing SMTP proxy",
		Long: `Postern stands inline at a network edge, takes over the SMTP connections that
pass, and sees to it that none of them carries mail below TLS 1.2: it secures the
way to the server before it answers the client, holds what was negotiated against
the rules of the destination, refuses what falls short in words the sender can
read, and writes one record a session.

A first look at a machine:

    postern init                   write a first configuration, from what it finds
    postern check                  is the configuration sound, and what does it say?
    postern explain --to DOMAIN    what would happen to mail for DOMAIN?
    postern probe DOMAIN           and what are its servers like?
    postern intercept up           have the kernel send connections here
    postern run                    serve them
    postern doctor                 what is wrong here, and what mends it?
    postern replay RECORDS...      what would another policy have made of them?

Exit codes: 0 fine; 1 something was found, or failed while running; 2 the command
line or the configuration is at fault.`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().StringVar(&o.config, "config", defaultConfig, "the configuration `file`")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newRun(o), newCheck(o), newExplain(o), newReplay(o), newIntercept(o), newCertificate(o), newMemory(o), newInit(o), newDoctor(o), newProbe(o), newVersion(o))
	return root
}

// printed adds --format to a command that prints.
func (o *options) printed(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&o.format, "format", "table", "`table` for people, json for programs")
	before := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if o.format != "table" && o.format != "json" {
			return fmt.Errorf("--format %q found, expected table or json", o.format)
		}
		if before != nil {
			return before(cmd, args)
		}
		return nil
	}
	return cmd
}

func (o *options) json() bool { return o.format == "json" }

// load reads the configuration; an error is the user's to mend.
func (o *options) load() (*config.File, error) { return config.Load(o.config) }
