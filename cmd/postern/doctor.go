package main

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postern/proxy"
)

// serviceUser is whom the service of the package runs as.
const serviceUser = "postern"

func newDoctor(o *options) *cobra.Command {
	return o.printed(&cobra.Command{
		Use:   "doctor",
		Short: "Say what is wrong on this machine, and the command that mends it",
		Long: `Look at everything on this machine that Postern depends on, and print what is
wrong, why it matters, and the command that mends it. The commands can be pasted
as they are. The doctor runs none of them: it changes nothing, and is done within
some seconds.

` + lookedAt(proxy.Checks()) + `

Input chains of firewalls, of nftables and of iptables-nft, are followed with an
intercepted packet from rule to rule: one that lets it in is not spoken of, one
that drops it is a problem, and where that depends on what cannot be known before,
it says so. What iptables-legacy made cannot be seen.

A problem keeps connections from being guarded or mail from passing; unknown is
what could not be looked at, as most things for anybody but root; a note harms
nothing now.

Exit codes: 0 nothing, or notes; 1 a problem, or something that could not be looked
at; 2 the command line or the configuration is at fault.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := o.loadInterception()
			if err != nil {
				return err
			}
			x := proxy.Examination{User: serviceUser, Built: built()}
			if o.config != defaultConfig {
				x.Flags = "--config " + proxy.ShellWord(o.config)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), examinationLimit)
			defer cancel()
			d := diagnosisOf(proxy.Examine(ctx, file.Proxy, x))
			if o.json() {
				err = printJSON(cmd.OutOrStdout(), d)
			} else {
				err = d.print(cmd.OutOrStdout())
			}
			switch {
			case err != nil:
				return runtimeError{err}
			case !d.Fine:
				return errFinding
			}
			return nil
		},
	})
}

// examinationLimit is more than all waits of the checks together.
const examinationLimit = 15 * time.Second

// built is when the program was, as far as the version control system tells.
func built() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			at, err := time.Parse(time.RFC3339, s.Value)
			if err == nil {
				return at
			}
		}
	}
	return time.Time{}
}

// lookedAt is a sentence of the help text, in lines of its width.
func lookedAt(names []string) string {
	var b strings.Builder
	paragraph(&b, "", "It looks at "+strings.Join(names, ", ")+".")
	return strings.TrimSpace(b.String())
}

// diagnosis is what "doctor --format json" prints.
type diagnosis struct {
	Fine     bool      `json:"fine"` // nothing but notes
	Checked  []string  `json:"checked"`
	Findings []finding `json:"findings"`
}

type finding struct {
	Check    string   `json:"check"`
	Severity string   `json:"severity"` // "problem", "unknown" or "note"
	What     string   `json:"what"`
	Why      string   `json:"why"`
	Mend     []string `json:"mend"`
}

func diagnosisOf(found []proxy.Finding) diagnosis {
	d := diagnosis{Fine: true, Checked: proxy.Checks(), Findings: []finding{}}
	for _, f := range found {
		d.Fine = d.Fine && f.Severity == proxy.Note
		d.Findings = append(d.Findings, finding{f.Check, string(f.Severity), f.What, f.Why, notNil(f.Mend)})
	}
	// What matters most comes first, in the order in which it was looked at.
	severities := []string{string(proxy.Problem), string(proxy.Unknown), string(proxy.Note)}
	slices.SortStableFunc(d.Findings, func(a, b finding) int {
		return slices.Index(severities, a.Severity) - slices.Index(severities, b.Severity)
	})
	return d
}

func (d diagnosis) print(w io.Writer) error {
	var b strings.Builder
	for _, f := range d.Findings {
		paragraph(&b, f.Severity+": ", f.What)
		paragraph(&b, "    ", f.Why)
		for _, command := range f.Mend {
			fmt.Fprintf(&b, "      %s\n", command) // never broken: it is to be pasted
		}
		b.WriteString("\n")
	}
	b.WriteString(d.summary() + "\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func (d diagnosis) summary() string {
	count := map[string]int{}
	for _, f := range d.Findings {
		count[f.Severity]++
	}
	problems, unknown := count[string(proxy.Problem)], count[string(proxy.Unknown)]
	switch {
	case problems == 0 && unknown == 0:
		return fmt.Sprintf("nothing is wrong: %d things were looked at", len(d.Checked))
	case unknown == 0:
		return plural(problems, "problem")
	case problems == 0:
		return "no problem was seen, but what is unknown was not told"
	}
	return fmt.Sprintf("%s, and %d unknown", plural(problems, "problem"), unknown)
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}
