// Command postern-lab lets a person see Postern at work on any Linux machine,
// without root and without a mail server.
//
// It makes a network of client, gateway and server host out of network
// namespaces, runs the real postern in the gateway with real TPROXY, sends mail
// through it from senders of many kinds to servers of many tempers, and shows
// what became of each: who and where, what was negotiated on both legs, the
// verdict and why, what a refused sender was told, and that each message arrived
// as it was sent. What has to come of each conversation is known beforehand, so
// that the demo is a test as well.
//
// It has a gallery of attacks, too: what a hostile client and a hostile server
// say, what Postern must say to each, and what it must write down of it, are read
// from the files in attacks/.
//
// The tests of this package use the same network for what takes a whole program:
// reload, drain, privileges.
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
	"regexp"
	"time"

	"postern/proxy/proxytest/mta"
	"postern/proxy/proxytest/netlab"
)

// The exit codes.
const (
	exitFine    = 0
	exitFinding = 1 // something went otherwise than expected, or failed
	exitUsage   = 2 // the command line is at fault, or this machine forbids namespaces
)

const usage = `usage: postern-lab COMMAND [--postern PROGRAM] [flags]

Runs the real postern in the gateway of a network of client, gateway and server
host, all of it within network namespaces. No root is needed.

  demo    sends mail of many kinds through it and shows what happened
          --json  prints the session records, one a line, instead
  attack  plays attacks on it, with a hostile client and a hostile server, and
          shows each with the bytes that both sides saw
          --only PATTERN  those alone whose names match (a regular expression)
          --verbose       shows more of the bytes
  soak    sends thousands of messages of a real Postfix through it while it is
          killed, drained, frozen and reloaded, servers hang up and packets get
          lost, and counts what became of each; needs Postfix and its user ids
          --messages N  how many (default 5000)
          --for TIME    how long things go wrong (default 10m)
          --seed N      what goes wrong, as an earlier soak printed it
  load    holds it against slow clients and servers, floods and very many idle
          sessions, while an honest client sends mail
          --sessions N  how many are idle at once (default 10000)
  bench   measures it beside no proxy, the least that a relay in Go can do, and
          stunnel, Postfix and HAProxy where they are installed
          --rounds N     how often each takes its turn (default 3)
          --only PATTERN, --among PATTERN  workloads and contenders
          --scale F      of the number of sessions and octets (default 1)
          --idle N       sessions that are idle at once (default 10000)

  --postern PROGRAM  the postern to run; otherwise the one beside postern-lab,
                     built from source if there is none

Exit codes: 0 all went as expected; 1 something did not; 2 a mistake in the
command line, or the machine does not let this user make namespaces.
`

// A subcommand declares its flags and returns what is run within the lab once
// they have been parsed.
type subcommand func(flags *flag.FlagSet) func(postern string, stdout, stderr io.Writer) int

var subcommands = map[string]subcommand{
	"demo": func(flags *flag.FlagSet) func(string, io.Writer, io.Writer) int {
		json := flags.Bool("json", false, "")
		return func(postern string, stdout, stderr io.Writer) int { return demo(postern, *json, stdout, stderr) }
	},
	"attack": func(flags *flag.FlagSet) func(string, io.Writer, io.Writer) int {
		only, verbose := flags.String("only", "", ""), flags.Bool("verbose", false, "")
		return func(postern string, stdout, stderr io.Writer) int {
			return attackGallery(postern, *only, *verbose, stdout, stderr)
		}
	},
	"soak": func(flags *flag.FlagSet) func(string, io.Writer, io.Writer) int {
		o := soakOptions{}
		flags.IntVar(&o.messages, "messages", 5000, "")
		flags.DurationVar(&o.lasting, "for", 10*time.Minute, "")
		flags.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "")
		return func(postern string, stdout, stderr io.Writer) int { return soak(postern, o, stdout, stderr) }
	},
	"load": func(flags *flag.FlagSet) func(string, io.Writer, io.Writer) int {
		o := loadOptions{slow: 100, flood: 500, settle: 3 * time.Minute, starving: 10 * time.Second, lenience: 6 * time.Second}
		flags.IntVar(&o.sessions, "sessions", 10000, "")
		return func(postern string, stdout, stderr io.Writer) int { return load(postern, o, stdout, stderr) }
	},
	"bench": func(flags *flag.FlagSet) func(string, io.Writer, io.Writer) int {
		o := benchOptions{rest: 30 * time.Second}
		flags.IntVar(&o.rounds, "rounds", 3, "")
		flags.Float64Var(&o.scale, "scale", 1, "")
		flags.IntVar(&o.idle, "idle", 10000, "")
		flags.Func("only", "", pattern(&o.only))
		flags.Func("among", "", pattern(&o.among))
		return func(postern string, stdout, stderr io.Writer) int { return bench(postern, o, stdout, stderr) }
	},
}

// labs are made otherwise than by netlab.Enter for what needs more user ids than
// one.
var labs = map[string]func(netlab.Options, func() int) (int, error){
	"soak": mta.Enter,
}

// hiddenCommands are those by which the lab starts itself. They return only if they
// failed.
var hiddenCommands = map[string]func(args []string) error{confinedCommand: confined, floorCommand: floor}

// pattern reads a regular expression of the command line.
func pattern(into **regexp.Regexp) func(string) error {
	return func(text string) (err error) {
		*into, err = regexp.Compile(text)
		return err
	}
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		if hidden := hiddenCommands[args[0]]; hidden != nil {
			fmt.Fprintln(stderr, "postern-lab:", hidden(args[1:]))
			return exitFinding
		}
	}
	if len(args) == 1 && (args[0] == "-h" || args[0] == "--help" || args[0] == "help") {
		fmt.Fprint(stdout, usage)
		return exitFine
	}
	if len(args) == 0 || subcommands[args[0]] == nil {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	flags := flag.NewFlagSet("postern-lab "+args[0], flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	postern := flags.String("postern", "", "")
	inside := subcommands[args[0]](flags)
	switch err := flags.Parse(args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return exitFine
	case err != nil:
		return exitUsage
	case flags.NArg() > 0:
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	lab := labs[args[0]]
	if lab == nil {
		lab = netlab.Enter
	}
	return enter(*postern, lab, inside, stdout, stderr)
}

// enter runs a subcommand within the lab.
func enter(postern string, lab func(netlab.Options, func() int) (int, error),
	inside func(string, io.Writer, io.Writer) int, stdout, stderr io.Writer) int {
	program, err := locate(postern, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "postern-lab:", err)
		return exitFinding
	}
	code, err := lab(netlab.Options{}, func() int { return inside(program, stdout, stderr) })
	if err == nil {
		return code
	}
	fmt.Fprintln(stderr, "postern-lab:", err)
	if errors.As(err, new(*netlab.ForbiddenError)) || errors.As(err, new(*mta.MissingError)) {
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
