package manual

import (
	"fmt"
	"regexp"
	"strings"
)

// settingsSection is that of file formats.
const settingsSection = 5

// examplesBegin is the line that parts the settings from the examples.
const examplesBegin = "# Examples ---"

var (
	table  = regexp.MustCompile(`^#?(\[.*\])$`)
	key    = regexp.MustCompile(`^#?([a-z_]+ = .*)$`)
	remark = regexp.MustCompile(`^#(?: (.*))?$`)
)

// Settings gives the page of the configuration, out of the file that packages
// install: its comments are the text, its tables the headings, its keys (a default
// behind #) the entries. It is an error where a line is none of these.
func Settings(file string, r Release) (Page, error) {
	p := newRoff("postern.toml", settingsSection, r)
	p.name("postern.toml", "configuration of Postern, a transparent STARTTLS-enforcing SMTP proxy")
	p.section("DESCRIPTION")
	settings, examples, _ := strings.Cut(file, examplesBegin)
	s := scribe{roff: p}
	if err := s.write(settings, s.settings); err != nil {
		return Page{}, err
	}
	p.section("EXAMPLES")
	_, examples, _ = strings.Cut(examples, "\n")
	if err := s.write(examples, s.example); err != nil {
		return Page{}, err
	}
	p.section("FILES")
	p.term(italic("/etc/postern/postern.toml"))
	p.line("The file that is read where --config names no other.")
	p.seeAlso("postern(8)", "postern-check(8)", "postern-explain(8)", "postern-intercept(8)")
	return Page{fmt.Sprintf("postern.toml.%d", settingsSection), p.String()}, nil
}

// A scribe reads the file block by block, which are lines without an empty one
// between them.
type scribe struct {
	*roff
	begun bool // the first table or key was there
}

func (s *scribe) write(text string, block func([]string) error) error {
	for _, b := range blocks(text) {
		if b == "" {
			continue
		}
		if err := block(strings.Split(b, "\n")); err != nil {
			return err
		}
	}
	return nil
}

// settings is one block of the part before the examples. A comment belongs to the
// keys that follow it until the next one, or to the table, or stands for itself.
func (s *scribe) settings(lines []string) error {
	var text, keys []string
	flush := func() {
		switch {
		case len(keys) > 0:
			s.entry(keys, text)
		case len(text) > 0:
			s.text(text)
		}
		text, keys = nil, nil
	}
	for _, l := range lines {
		switch {
		case table.MatchString(l):
			about := text
			if len(keys) > 0 {
				flush()
				about = nil
			}
			text = nil
			s.head(table.FindStringSubmatch(l)[1])
			s.text(about)
		case key.MatchString(l):
			keys = append(keys, key.FindStringSubmatch(l)[1])
		case remark.MatchString(l):
			if len(keys) > 0 {
				flush()
			}
			text = append(text, remark.FindStringSubmatch(l)[1])
		default:
			return fmt.Errorf("%q is neither a table nor a key nor a comment", l)
		}
	}
	flush()
	return nil
}

func (s *scribe) head(title string) {
	if !s.begun {
		s.section("SETTINGS")
	}
	s.begun = true
	s.subsection(title)
}

func (s *scribe) entry(keys, text []string) {
	if !s.begun {
		s.head("Before the first table")
	}
	heads := make([]string, len(keys))
	for i, k := range keys {
		name, value, _ := strings.Cut(k, " = ")
		heads[i] = bold(name) + escape(" = "+value)
	}
	s.term(heads...)
	if len(text) == 0 {
		s.WriteString("\\&\n") // an entry has to have a text
	}
	for _, l := range text {
		s.line(l)
	}
}

// example is one block behind: text, and then what is to be written.
func (s *scribe) example(lines []string) error {
	n := 0
	for n < len(lines) && !table.MatchString(lines[n]) {
		m := remark.FindStringSubmatch(lines[n])
		if m == nil {
			return fmt.Errorf("%q is no comment before an example", lines[n])
		}
		lines[n] = m[1]
		n++
	}
	s.text(lines[:n])
	if n == len(lines) {
		return nil
	}
	for i, l := range lines[n:] {
		lines[n+i] = strings.TrimPrefix(l, "#")
	}
	s.verbatim(lines[n:])
	return nil
}
