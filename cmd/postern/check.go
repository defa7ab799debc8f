package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/internal/config"
	"postern/cmd/internal/service"
	"postern/proxy"
)

func newCheck(o *options) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Is the configuration sound, and what does it say?",
		Long: `Read the configuration and every file that it names, as "postern run" would, and
print either all that is wrong, with its line, or what the configuration does: how
connections come in, the floor, what clients are shown, and each rule in words, in
the order in which they are asked. The first rule that matches decides.

Notes are what one would not expect of a sound file: an exception that nobody
answers for, a demand that mail can walk around, a family of addresses that is left
out. They change no exit code.

Nothing is changed and no address is asked; a running Postern is not disturbed.
The keys must be readable for whoever runs the check. What interception needs of
this machine is looked at too, as far as that takes no privilege: forwarding for
when_down = "pass", and what bridges need. "postern intercept up" sees the rest.

    postern check && systemctl reload postern

With --quiet only what would keep "postern run" from starting is said, and nothing
else counts: that is how the service asks before it starts and before it reloads.

Exit codes: 0 sound; 1 sound, but this machine does not fit it, or a rule has
expired and matches nothing any more, so that the next one decides in its place;
2 the configuration is at fault.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.check(time.Now())
			if err != nil {
				return err
			}
			if quiet {
				return c.fault(service.NewNotifier())
			}
			if o.json() {
				err = printJSON(cmd.OutOrStdout(), c)
			} else if len(c.faults) == 0 {
				err = c.print(cmd.OutOrStdout())
			}
			switch {
			case err != nil:
				return runtimeError{err}
			case len(c.faults) > 0 && o.json():
				return errFaulty
			case len(c.faults) > 0:
				return c.faults
			case len(c.obstacles) > 0 && o.json():
				return errFinding
			case len(c.obstacles) > 0:
				return runtimeError{c.obstacles}
			case slices.ContainsFunc(c.Rules, func(r checkedRule) bool { return r.Expired }):
				return errFinding
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&quiet, "quiet", false, "say only what is wrong with the configuration, and exit 2 for that alone")
	return o.printed(cmd)
}

// fault is what is wrong with the file, nil where nothing is. The service manager,
// if one asked, is told too: once it has given up starting, its status shows no
// line of the log that says why.
func (c *checked) fault(notify *service.Notifier) error {
	if len(c.faults) == 0 {
		return nil
	}
	return errors.Join(c.faults, notify.Status("the configuration is at fault: "+c.faults.Error()))
}

// checked is what "check --format json" prints.
type checked struct {
	File     string        `json:"file"`
	Sound    bool          `json:"sound"` // and so on this machine
	Errors   []remark      `json:"errors"`
	Notes    []remark      `json:"notes"`
	Warnings []remark      `json:"warnings"`
	Does     []statement   `json:"does,omitempty"`
	Rules    []checkedRule `json:"rules,omitempty"`

	faults    config.Errors // of the file
	obstacles config.Errors // of the machine
}

// A remark is one thing about one place of the file.
type remark struct {
	Line    int    `json:"line,omitempty"`
	Key     string `json:"key,omitempty"`
	Message string `json:"message"`

	text string // all of it, for people
}

// A statement says one thing that the configuration does, apart from the rules.
type statement struct {
	About string `json:"about"`
	Words string `json:"words"`
}

type checkedRule struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"` // "connection", "envelope" or "built-in"
	Line    int    `json:"line,omitempty"`
	Words   string `json:"words"`
	Owner   string `json:"owner,omitempty"`
	LastDay string `json:"last_day,omitempty"`
	Expired bool   `json:"expired"`
}

// check reads everything. The error is of a file that is not there to be read;
// what is wrong with its content is part of the result.
func (o *options) check(now time.Time) (*checked, error) {
	c := &checked{File: o.config}
	file, err := o.load()
	if err != nil {
		if !errors.As(err, &c.faults) {
			return nil, err
		}
		c.finish(nil, nil)
		return c, nil
	}
	warnings, err := proxy.CheckFiles(file.Proxy)
	c.faults = file.Locate(errors.Join(err, proxy.CheckInterception(file.Proxy)))
	slices.SortStableFunc(c.faults, func(a, b *config.Error) int { return cmp.Compare(a.Line, b.Line) })
	if len(c.faults) == 0 {
		c.obstacles = file.Locate(proxy.CheckMachine(file.Proxy))
	}
	warned := file.Locate(errors.Join(warnings...))
	if len(c.faults) == 0 {
		warned = append(warned, file.Locate(leftOut(file.Proxy, thisMachine()))...)
	}
	c.finish(file.Notes, warned)
	if len(c.faults) == 0 {
		c.Does = statements(file.Proxy)
		c.Rules = rulesOf(file, now)
	}
	return c, nil
}

func (c *checked) finish(notes, warnings config.Errors) {
	c.Sound = len(c.faults) == 0 && len(c.obstacles) == 0
	c.Errors, c.Notes, c.Warnings = remarks(slices.Concat(c.faults, c.obstacles)), remarks(notes), remarks(warnings)
}

func remarks(all config.Errors) []remark {
	list := make([]remark, len(all))
	for i, e := range all {
		list[i] = remark{Line: e.Line, Key: e.Place, Message: e.Msg, text: e.Error()}
	}
	return list
}

func rulesOf(file *config.File, now time.Time) []checkedRule {
	var list []checkedRule
	for i, r := range file.Policy.Rules() {
		rule := checkedRule{
			Name: r.Name, Kind: kindOf(r), Words: ruleWords(r, file.Policy.Floor()),
			Owner: r.Owner, LastDay: lastDay(r), Expired: expired(r, now),
		}
		if words := mxWords(file.Proxy, r.ToMXOf, now); words != "" {
			rule.Words += " " + words
		}
		if i < len(file.Proxy.Rules) {
			rule.Line = file.Line(fmt.Sprintf("rule[%d]", i))
		}
		list = append(list, rule)
	}
	return list
}

func (c *checked) print(w io.Writer) error {
	var b strings.Builder
	if len(c.obstacles) == 0 {
		fmt.Fprintf(&b, "%s is sound.\n", c.File)
	} else {
		fmt.Fprintf(&b, "%s is sound, but not for this machine.\n", c.File)
	}
	for _, list := range []struct {
		word string
		all  []remark
	}{{"note", c.Notes}, {"warning", c.Warnings}} {
		for _, r := range list.all {
			fmt.Fprintf(&b, "%s: %s\n", list.word, r.text)
		}
	}
	b.WriteString("\n")
	for _, s := range c.Does {
		paragraph(&b, fmt.Sprintf("%-17s", s.About), s.Words)
	}
	b.WriteString("\nRules, in the order they are asked; of each kind the first that matches decides:\n")
	for i, r := range c.Rules {
		fmt.Fprintf(&b, "\n%2d. %s\n", i+1, r.title())
		if r.Expired {
			paragraph(&b, "    ", fmt.Sprintf("EXPIRED: its last day was %s. It matches nothing any more, and the next rule that does decides.", r.LastDay))
		}
		paragraph(&b, "    ", r.Words)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// title gives the name of a rule and what of it is not in its words.
func (r checkedRule) title() string {
	parts := []string{r.Kind + " rule"}
	if r.Line > 0 {
		parts = append(parts, fmt.Sprintf("line %d", r.Line))
	}
	if r.Owner != "" {
		parts = append(parts, "owner "+r.Owner)
	}
	if r.LastDay != "" && !r.Expired {
		parts = append(parts, "until "+r.LastDay)
	}
	return fmt.Sprintf("%s (%s)", r.Name, strings.Join(parts, ", "))
}
