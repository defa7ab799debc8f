// Package manual writes the manual pages: of each command from the tree of
// commands that the program itself parses with, and of the configuration from the
// file that packages install. So they say what the program says, and no more.
//
// It does not read the clock, for two builds are to give the same bytes, and it
// knows neither the commands nor the keys: a page is never to be mended here.
package manual

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// A Release is what stands in the margins of every page.
type Release struct {
	Version string
	Date    time.Time
}

// A Page is one manual page: its file name ("postern-check.8") and its text.
type Page struct {
	Name string
	Text string
}

// A roff is a page while it is written. Whatever is not a macro of its own methods
// goes through escape, so that no text can become one.
type roff struct{ strings.Builder }

func newRoff(name string, section int, r Release) *roff {
	p := new(roff)
	fmt.Fprintf(p, ".TH %s %d %s \"Postern %s\" Postern\n", escape(strings.ToUpper(name)), section,
		r.Date.UTC().Format(time.DateOnly), escape(r.Version))
	p.WriteString(".nh\n.ad l\n") // neither hyphens nor gaps within what is to be typed
	return p
}

func (p *roff) name(name, what string) {
	p.section("NAME")
	fmt.Fprintf(p, "%s \\- %s\n", escape(name), escape(strings.TrimSuffix(what, ".")))
}

func (p *roff) section(title string)    { fmt.Fprintf(p, ".SH %s\n", escape(title)) }
func (p *roff) subsection(title string) { fmt.Fprintf(p, ".SS %s\n", escape(title)) }

// term begins an entry of a list; heads are already roff.
func (p *roff) term(heads ...string) {
	for i, h := range heads {
		macro := ".TP"
		if i > 0 {
			macro = ".TQ"
		}
		fmt.Fprintf(p, "%s\n%s\n", macro, h)
	}
}

// line is text that is filled, within a paragraph or an entry.
func (p *roff) line(text string) { p.WriteString(guarded(escape(text)) + "\n") }

// verbatim is text whose lines stay as they are.
func (p *roff) verbatim(lines []string) {
	p.WriteString(".PP\n.RS 4\n.nf\n")
	for _, l := range lines {
		p.line(l)
	}
	p.WriteString(".fi\n.RE\n")
}

// text is lines as they stand in a help text or in comments: indented ones stay as
// they are, others are filled, an empty one ends a paragraph.
func (p *roff) text(lines []string) {
	for len(lines) > 0 {
		kept := strings.HasPrefix(lines[0], "  ")
		n := 0
		for n < len(lines) && lines[n] != "" && strings.HasPrefix(lines[n], "  ") == kept {
			n++
		}
		switch {
		case n == 0:
			n = 1 // the empty line
		case kept:
			p.verbatim(unindented(lines[:n]))
		default:
			p.WriteString(".PP\n")
			for _, l := range lines[:n] {
				p.line(l)
			}
		}
		lines = lines[n:]
	}
}

func (p *roff) seeAlso(pages ...string) {
	p.section("SEE ALSO")
	for i, page := range pages {
		name, section, _ := strings.Cut(page, "(")
		comma := ","
		if i == len(pages)-1 {
			comma = ""
		}
		fmt.Fprintf(p, ".BR %s (%s%s\n", escape(name), section, comma)
	}
}

// unindented takes away what all lines are indented by.
func unindented(lines []string) []string {
	least := len(lines[0])
	for _, l := range lines {
		least = min(least, len(l)-len(strings.TrimLeft(l, " ")))
	}
	list := make([]string, len(lines))
	for i, l := range lines {
		list[i] = l[least:]
	}
	return list
}

// escape makes text say itself. All hyphens become the one of ASCII, so that what
// is copied from a page can be typed.
func escape(text string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "^", `\(ha`, "~", `\(ti`, "`", `\(ga`, `"`, `\(dq`, "'", `\(aq`).Replace(text)
}

// guarded keeps a line from being taken for a request.
func guarded(line string) string {
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") || strings.HasPrefix(line, " ") {
		return `\&` + line
	}
	return line
}

func bold(text string) string   { return `\fB` + escape(text) + `\fR` }
func italic(text string) string { return `\fI` + escape(text) + `\fR` }

var blank = regexp.MustCompile(`\n{2,}`)

// blocks are the paragraphs of a help text.
func blocks(text string) []string { return blank.Split(strings.Trim(text, "\n"), -1) }
