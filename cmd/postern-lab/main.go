// Command postern-lab lets a person see Postern at work on any Linux machine,
// without root and without a mail server.
//
// It makes a network of client, gateway and server host out of network
// namespaces, runs the real postern in the gateway with real TPROXY, sends mail
// through it from senders of many kinds to servers of many tempers, and shows
// what became of each: who and where, what was negotiated on both legs, the
// verdict and why, what a refused sender was told, and that each message arrived
// as it was sent. What has to come of each conversation is known beforehand, so
// that the demo is a test as well. The tests of this package use the same
// network for what takes a whole program: reload, drain, privileges.
//
// It measures nothing, its servers are not those that people run, and nothing of
// it touches the network of the machine it runs on.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"postern/proxy/proxytest/netlab"
)

// The exit codes.
const (
	exitFine    = 0
	exitFinding = 1 // something went otherwise than expected, or failed
	exitUsage   = 2 // the command line is at fault, or this machine forbids namespaces
)

const usage = `usage: postern-lab demo [--postern PROGRAM] [--json]

Sends mail of many kinds through a gateway that runs postern, all of it within
network namespaces, and shows what happened. No root is needed.

  --postern PROGRAM  the postern to run; otherwise the one beside postern-lab,
                     built from source if there is none
  --json             print the session records, one a line, instead

Exit codes: 0 all went as expected; 1 something did not; 2 a mistake in the
command line, or the machine does not let this user make namespaces.
`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == confinedCommand {
		fmt.Fprintln(stderr, "postern-lab:", confined(args[1:]))
		return exitFinding
	}
	flags := flag.NewFlagSet("postern-lab demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	postern := flags.String("postern", "", "")
	json := flags.Bool("json", false, "")
	switch {
	case len(args) == 1 && (args[0] == "-h" || args[0] == "--help" || args[0] == "help"):
		fmt.Fprint(stdout, usage)
		return exitFine
	case len(args) == 0 || args[0] != "demo":
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	switch err := flags.Parse(args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return exitFine
	case err != nil:
		return exitUsage
	case flags.NArg() > 0:
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	return runDemo(*postern, *json, stdout, stderr)
}

// runDemo enters the lab and gives the demo there.
func runDemo(postern string, json bool, stdout, stderr io.Writer) int {
	program, err := locate(postern, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "postern-lab:", err)
		return exitFinding
	}
	code, err := netlab.Enter(netlab.Options{}, func() int { return demo(program, json, stdout, stderr) })
	if err == nil {
		return code
	}
	fmt.Fprintln(stderr, "postern-lab:", err)
	if errors.As(err, new(*netlab.ForbiddenError)) {
		return exitUsage
	}
	return exitFinding
}

// locate finds the postern to run, and builds it where there is none. That is
// done before the lab is entered, from where no module could be downloaded; in
// the lab it is found.
func locate(postern string, stderr io.Writer) (string, error) {
	if postern != "" {
		if _, err := os.Stat(postern); err != nil {
			return "", err
		}
		return filepath.Abs(postern)
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	beside := filepath.Join(filepath.Dir(self), "postern")
	if _, err := os.Stat(beside); err == nil {
		return beside, nil
	}
	build := exec.Command("go", "build", "-o", beside, "postern/cmd/postern")
	build.Stdout, build.Stderr = stderr, stderr
	if err := build.Run(); err != nil {
		return "", fmt.Errorf("building postern beside %s (or name one with --postern): %w", self, err)
	}
	return beside, nil
}
