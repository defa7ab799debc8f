package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/internal/recorded"
	"postern/cmd/internal/replay"
)

func newReplay(o *options) *cobra.Command {
	return o.printed(&cobra.Command{
		Use:   "replay RECORDS...",
		Short: "What would another policy have made of recorded sessions?",
		Long: `Judge recorded sessions by the rules of a configuration that is not in force yet,
and say what would change: what would be refused that was not, what allowed that was
refused, and what for another reason; by destination and by reason, the most first.
RECORDS are files of the log; "-" is standard input. Nothing is connected to, nothing
is looked up, and the running Postern is not asked.

    postern replay --config new.toml /var/log/postern/postern.log
    journalctl -u postern -o json --all --since -7d | postern replay --config new.toml -

What a record cannot say is counted as such, with what is missing, and never guessed:
whether a certificate leads to roots that were not asked then, which one a server
would have shown under another name, what it would have chosen of more or fewer
suites, what a domain publishes that nobody looked up. Taken to be as they were are
[tls.trust], the roots and suites of rules that keep their names, [tls] min_version
where it is not higher now, what was remembered of servers and of clients, and that
peers go on doing what they did. Rules that have expired by now
match nothing.

Sessions are connections, by the address of the server; recipients are their domains
in each transaction, or the address where a sender was refused. Those of a connection
that would be refused are refused with it.

Exit codes: 0 nothing would be refused that was not; 1 something would; 2 the command
line or the configuration is at fault.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := o.load()
			if err != nil {
				return err
			}
			tally, judge := replay.NewTally(), replay.NewJudge(file.Policy, file.Proxy.Memory.Downgrade == "off", time.Now())
			for _, path := range args {
				if err := replayFile(cmd, path, judge, tally); err != nil {
					return err
				}
			}
			if tally.Records == 0 {
				return fmt.Errorf("no record found in %s, expected some: log lines in JSON whose msg is %q", strings.Join(args, ", "), "session")
			}
			if o.json() {
				err = printJSON(cmd.OutOrStdout(), replayResultOf(o.config, tally))
			} else {
				err = replayResultOf(o.config, tally).print(cmd.OutOrStdout())
			}
			switch {
			case err != nil:
				return runtimeError{err}
			case tally.Sessions[replay.NewlyRefused]+tally.Recipients[replay.NewlyRefused] > 0:
				return errFinding
			}
			return nil
		},
	})
}

// replayFile judges what is in one file.
func replayFile(cmd *cobra.Command, path string, judge *replay.Judge, tally *replay.Tally) error {
	from, done, err := open(path, cmd.InOrStdin())
	if err != nil {
		return err
	}
	defer done()
	r, c := recorded.NewReader(from), &complainer{to: cmd.ErrOrStderr(), path: path}
	defer c.done()
	for {
		if err := context.Cause(cmd.Context()); err != nil {
			return runtimeError{err}
		}
		rec, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !c.note(err):
			return runtimeError{fmt.Errorf("records: %s: %w", path, err)}
		case err == nil:
			tally.Add(judge.Session(rec))
		}
	}
}

// A replayResult is what "replay --format json" prints.
type replayResult struct {
	Config     string        `json:"config"`
	Records    int           `json:"records"`
	Unjudged   int           `json:"unjudged"` // did not come so far that there was anything to judge
	Sessions   replayCounts  `json:"sessions"`
	Recipients replayCounts  `json:"recipients"`
	Changes    []replayGroup `json:"changes"`
}

type replayCounts struct {
	Same         int `json:"same"`
	NewlyRefused int `json:"newly_refused"`
	NewlyAllowed int `json:"newly_allowed"`
	OtherReason  int `json:"other_reason"`
	NotTold      int `json:"cannot_be_told"`
}

type replayGroup struct {
	Change      string `json:"change"`
	Of          string `json:"of"` // "session" or "recipient"
	Destination string `json:"destination"`
	Why         string `json:"why"` // the reason, "was -> is", or what is missing
	Count       int    `json:"count"`
}

func replayResultOf(path string, t *replay.Tally) *replayResult {
	counts := func(c replay.Counts) replayCounts {
		return replayCounts{c[replay.Same], c[replay.NewlyRefused], c[replay.NewlyAllowed], c[replay.OtherReason], c[replay.NotTold]}
	}
	r := &replayResult{Config: path, Records: t.Records, Unjudged: t.Unjudged, Sessions: counts(t.Sessions), Recipients: counts(t.Recipients), Changes: []replayGroup{}}
	for _, g := range t.Groups() {
		of := "session"
		if g.Recipient {
			of = "recipient"
		}
		r.Changes = append(r.Changes, replayGroup{g.Change.String(), of, or(g.Destination, "others"), g.Why, g.Count})
	}
	return r
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// mostShown bounds how many groups of a change are printed for people.
const mostShown = 50

func (r *replayResult) print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%d records under %s", r.Records, r.Config)
	if r.Unjudged > 0 {
		fmt.Fprintf(&b, "; %d of them did not come so far that there was anything to judge", r.Unjudged)
	}
	fmt.Fprintf(&b, "\n\n%-12s%10s%15s%15s%14s%16s\n", "", "same", "newly refused", "newly allowed", "other reason", "cannot be told")
	for _, row := range []struct {
		of string
		n  replayCounts
	}{{"sessions", r.Sessions}, {"recipients", r.Recipients}} {
		fmt.Fprintf(&b, "%-12s%10d%15d%15d%14d%16d\n", row.of, row.n.Same, row.n.NewlyRefused, row.n.NewlyAllowed, row.n.OtherReason, row.n.NotTold)
	}
	change, shown, left := "", 0, 0
	more := func() {
		if left > 0 {
			fmt.Fprintf(&b, "%10s and %d more, which --format json has\n", "", left)
		}
	}
	for _, g := range r.Changes {
		if g.Change != change {
			more()
			change, shown, left = g.Change, 0, 0
			fmt.Fprintf(&b, "\n%s\n", change)
		}
		if shown++; shown > mostShown {
			left++
			continue
		}
		destination := g.Destination
		if g.Of == "session" {
			destination = "server " + destination
		}
		fmt.Fprintf(&b, "%10d  %-34s %s\n", g.Count, shownSafe(destination), shownSafe(g.Why))
	}
	more()
	_, err := io.WriteString(w, b.String())
	return err
}
