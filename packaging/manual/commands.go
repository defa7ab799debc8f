package manual

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// commandSection is that of programs an administrator runs.
const commandSection = 8

// Files are what postern(8) names, and a test looks for in the packages.
var Files = [][2]string{
	{"/etc/postern/postern.toml", "The configuration, see postern.toml(5)."},
	{"/etc/postern/tls/", "Certificates and keys. They are root's, and the group postern may read them."},
	{"/usr/lib/systemd/system/postern.target", "All of it: interception, the sockets and the proxy. To stop this is to stop Postern."},
	{"/usr/lib/systemd/system/postern.service", "The proxy. To stop this alone is a pause: connections wait in the sockets, and the next one starts it again."},
	{"/usr/lib/systemd/system/postern.socket", "The sockets that connections are handed to."},
	{"/usr/lib/systemd/system/postern-intercept.service", "Interception, put in force at start and taken out at stop."},
	{"/usr/share/doc/postern/examples/", "A firewall's rule for intercepted packets, and what interception sets, as nft shows it."},
}

// Commands gives a page for the program and for each command below it.
func Commands(root *cobra.Command, r Release) []Page {
	var pages []Page
	for _, cmd := range tree(root) {
		pages = append(pages, Page{fmt.Sprintf("%s.%d", pageOf(cmd), commandSection), command(cmd, r)})
	}
	return pages
}

// tree is cmd and what is below it.
func tree(cmd *cobra.Command) []*cobra.Command {
	list := []*cobra.Command{cmd}
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			list = append(list, tree(c)...)
		}
	}
	return list
}

func pageOf(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

func reference(cmd *cobra.Command) string {
	return fmt.Sprintf("%s(%d)", pageOf(cmd), commandSection)
}

func command(cmd *cobra.Command, r Release) string {
	p := newRoff(pageOf(cmd), commandSection, r)
	p.name(pageOf(cmd), lowered(cmd.Short))
	p.synopsis(cmd)
	about := parts(cmd)
	p.section("DESCRIPTION")
	p.text(about.description)
	if children := tree(cmd)[1:]; len(children) > 0 {
		p.section("COMMANDS")
		for _, c := range children {
			if c.Parent() == cmd {
				p.term(fmt.Sprintf("%s(%d)", bold(pageOf(c)), commandSection))
				p.line(c.Short)
			}
		}
	}
	p.options(cmd)
	if !cmd.HasParent() {
		for _, c := range cmd.Commands() {
			about.signals = append(about.signals, parts(c).signals...)
		}
	}
	p.signals(about.signals)
	p.exitStatus(about.exitStatus)
	if !cmd.HasParent() {
		p.section("FILES")
		for _, f := range Files {
			p.term(italic(f[0]))
			p.line(f[1])
		}
	}
	p.seeAlso(related(cmd)...)
	return p.String()
}

func related(cmd *cobra.Command) []string {
	var list []string
	if cmd.HasParent() {
		list = append(list, reference(cmd.Parent()))
	}
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			list = append(list, reference(c))
		}
	}
	return append(list, fmt.Sprintf("%s.toml(%d)", cmd.Root().Name(), settingsSection))
}

func (p *roff) synopsis(cmd *cobra.Command) {
	p.section("SYNOPSIS")
	words := strings.Fields(strings.TrimPrefix(cmd.UseLine(), cmd.CommandPath()))
	line := bold(cmd.CommandPath())
	for _, w := range words {
		if w == "[flags]" {
			w = "[options]"
		}
		line += " " + italic(w)
	}
	if cmd.HasAvailableSubCommands() {
		line = bold(cmd.CommandPath()) + " " + italic("command") + " " + italic("[options]")
	}
	p.WriteString(line + "\n")
}

// An about is a help text, taken apart.
type about struct {
	description []string
	signals     []string
	exitStatus  string
}

const (
	exitCodes = "Exit codes: "
	signals   = "Signals:\n"
)

func parts(cmd *cobra.Command) about {
	var a about
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	for _, b := range blocks(text) {
		// The codes may follow a sentence in the same paragraph.
		flat := strings.ReplaceAll(b, "\n", " ")
		before, codes, found := strings.Cut(flat, exitCodes)
		switch {
		case strings.HasPrefix(b, signals):
			a.signals = append(a.signals, strings.Split(strings.TrimPrefix(b, signals), "\n")...)
			continue
		case found:
			a.exitStatus = codes
			b = strings.TrimSpace(before)
		}
		if b != "" {
			a.description = append(append(a.description, strings.Split(b, "\n")...), "")
		}
	}
	return a
}

var entry = regexp.MustCompile(`^  ([A-Z]+)  +(.*)$`)

// signals are entries whose texts stand in a second column. Where the text of the
// one before has not ended, a further name in the first is another for the same.
func (p *roff) signals(lines []string) {
	if len(lines) == 0 {
		return
	}
	p.section("SIGNALS")
	var names, text []string
	flush := func() {
		if len(names) > 0 {
			p.term(bold(strings.Join(names, ", ")))
			p.line(strings.Join(text, " "))
		}
		names, text = nil, nil
	}
	for _, l := range lines {
		m := entry.FindStringSubmatch(l)
		if m == nil {
			text = append(text, strings.TrimSpace(l))
			continue
		}
		if len(text) > 0 && strings.HasSuffix(text[len(text)-1], ".") {
			flush()
		}
		names, text = append(names, m[1]), append(text, m[2])
	}
	flush()
}

var code = regexp.MustCompile(`^(\d) (.*)$`)

// exitStatus is "0 fine; 1 a finding; with a detail; 2 a mistake.".
func (p *roff) exitStatus(codes string) {
	if codes == "" {
		return
	}
	p.section("EXIT STATUS")
	for i, c := range strings.Split(strings.TrimSuffix(codes, "."), "; ") {
		if m := code.FindStringSubmatch(c); m != nil {
			p.term(bold(m[1]))
			c = m[2]
		} else if i == 0 {
			p.WriteString(".PP\n")
		}
		p.line(c)
	}
}

func (p *roff) options(cmd *cobra.Command) {
	cmd.InitDefaultHelpFlag()
	cmd.InitDefaultVersionFlag()
	p.section("OPTIONS")
	for _, set := range []*pflag.FlagSet{cmd.NonInheritedFlags(), cmd.InheritedFlags()} {
		set.VisitAll(p.option)
	}
}

func (p *roff) option(f *pflag.Flag) {
	if f.Hidden {
		return
	}
	value, usage := pflag.UnquoteUsage(f)
	head := bold("--" + f.Name)
	if f.Shorthand != "" {
		head = bold("-"+f.Shorthand) + ", " + head
	}
	if value != "" {
		head += " " + italic(value)
	}
	p.term(head)
	switch f.DefValue {
	case "", "false", "[]":
	default:
		usage += " (default " + f.DefValue + ")"
	}
	p.line(usage)
}

// lowered begins a sentence like the middle of one, but for "TLS" and its like.
func lowered(s string) string {
	r := []rune(s)
	if len(r) > 1 && !unicode.IsUpper(r[1]) {
		r[0] = unicode.ToLower(r[0])
	}
	return string(r)
}
