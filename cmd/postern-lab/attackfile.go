package main

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"postern/smtpwire/wiretest"
)

//go:embed attacks
var attackFiles embed.FS

// An attack is one hostile conversation and what has to come of it. It is read
// from a file of attacks/, whose name is the attack's:
//
//	title: commands in clear behind STARTTLS, in the same segment
//	source: CVE-2011-0411; RFC 3207 §4.2
//	where: forced
//	record: verdict=reject reason=starttls-injection end="starttls injection"
//	each: rset EVIL="RSET"
//	each: mail EVIL=`MAIL FROM:<a@x>`
//	client:
//		include greeted
//		C> "STARTTLS\r\n{EVIL}\r\n"
//		S~ 554 .*
//		S close
//	server:
//		include secured
//		C: QUIT
//		C close
//
// Both dialogues are scripts of wiretest, in which "include" stands for a file of
// attacks/parts. The client and the server each talk to Postern. A second
// "server:" is a second connection. Each "each" makes an attack of its own,
// with a label and with texts that stand for names in braces anywhere below.
//
// Optional are "where" (a place, see places), "bare" (what bare_newline is)
// and "piece" (bytes a write of the client).
type attack struct {
	name    string
	title   string
	source  string
	where   string
	bare    string
	piece   int
	record  []expectation
	client  *wiretest.Script
	servers []*wiretest.Script
}

// An expectation is what a field of the record must hold, by its path.
type expectation struct{ path, value string }

// readAttacks reads all attacks, in the order of their names, or those whose names
// match only.
func readAttacks(files fs.FS, only *regexp.Regexp) ([]attack, error) {
	names, err := fs.Glob(files, "attacks/*.txt")
	if err != nil {
		return nil, err
	}
	var all []attack
	var errs []error
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		found, err := parseAttacks(files, strings.TrimSuffix(path.Base(name), ".txt"), string(text))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
		all = append(all, found...)
	}
	all = slices.DeleteFunc(all, func(a attack) bool { return !only.MatchString(a.name) })
	return all, errors.Join(errs...)
}

// parseAttacks reads a file: one attack, or one for each "each".
func parseAttacks(files fs.FS, name, text string) ([]attack, error) {
	var rest []string
	var variants []variant
	for line := range strings.Lines(text) {
		if one, ok := strings.CutPrefix(line, "each:"); ok {
			v, err := parseVariant(strings.TrimSpace(one))
			if err != nil {
				return nil, err
			}
			variants = append(variants, v)
			continue
		}
		rest = append(rest, line)
	}
	if len(variants) == 0 {
		a, err := parseAttack(files, strings.Join(rest, ""))
		a.name = name
		return []attack{a}, err
	}
	var all []attack
	for _, v := range variants {
		a, err := parseAttack(files, v.Replace(strings.Join(rest, "")))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", v.label, err)
		}
		a.name = name + "/" + v.label
		all = append(all, a)
	}
	return all, nil
}

// A variant is what an "each" says.
type variant struct {
	label string
	*strings.Replacer
}

func parseVariant(text string) (variant, error) {
	label, rest, _ := strings.Cut(text, " ")
	assignments, err := parseAssignments(rest)
	var pairs []string
	for _, a := range assignments {
		pairs = append(pairs, "{"+a.path+"}", a.value)
	}
	return variant{label, strings.NewReplacer(pairs...)}, err
}

// parseAssignments reads key=value pairs, a value being a word or a Go string.
func parseAssignments(text string) ([]expectation, error) {
	var all []expectation
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimSpace(text) {
		key, rest, found := strings.Cut(text, "=")
		if !found || strings.ContainsAny(key, " \"`") {
			return nil, fmt.Errorf("%q is no key=value", text)
		}
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil {
			value, after, _ := strings.Cut(rest, " ")
			all, text = append(all, expectation{key, value}), after
			continue
		}
		value, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", quoted, err)
		}
		all, text = append(all, expectation{key, value}), rest[len(quoted):]
	}
	return all, nil
}

// parseAttack reads what is left when the variants are gone.
func parseAttack(files fs.FS, text string) (attack, error) {
	a := attack{where: "open", bare: "normalize"}
	head, dialogues, found := strings.Cut(text, "\nclient:\n")
	if !found {
		return a, errors.New("no client")
	}
	for line := range strings.Lines(head) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if err := a.header(line); err != nil {
			return a, err
		}
	}
	scripts := strings.Split(dialogues, "\nserver:\n")
	for i, text := range scripts {
		script, err := parseDialogue(files, text)
		if err != nil {
			return a, fmt.Errorf("dialogue %d: %w", i, err)
		}
		if i == 0 {
			a.client = script
		} else {
			a.servers = append(a.servers, script)
		}
	}
	return a, a.complete()
}

func (a *attack) header(line string) (err error) {
	key, value, _ := strings.Cut(line, ":")
	value = strings.TrimSpace(value)
	switch key {
	case "title":
		a.title = value
	case "source":
		a.source = value
	case "where":
		a.where = value
	case "bare":
		a.bare = value
	case "piece":
		a.piece, err = strconv.Atoi(value)
	case "record":
		var more []expectation
		more, err = parseAssignments(value)
		a.record = append(a.record, more...)
	default:
		err = fmt.Errorf("%q is nothing that is said of an attack", line)
	}
	return err
}

// complete makes sure that nothing is left open: an attack of which it is not said
// what has to come of it could not fail.
func (a *attack) complete() error {
	for _, needed := range []string{"verdict", "reason", "end"} {
		if !slices.ContainsFunc(a.record, func(e expectation) bool { return e.path == needed }) {
			return fmt.Errorf("it is not said what %s the record has", needed)
		}
	}
	switch {
	case a.title == "" || a.source == "":
		return errors.New("no title or no source")
	case len(a.servers) == 0:
		return errors.New("no server")
	case !slices.ContainsFunc(places, func(p place) bool { return p.name == a.where }):
		return fmt.Errorf("there is no place %q", a.where)
	case !slices.Contains(bareModes, a.bare):
		return fmt.Errorf("bare_newline cannot be %q", a.bare)
	}
	return nil
}

// parseDialogue reads a script, with what it includes in its place. Its last step
// must be an end: behind any other there could be more.
func parseDialogue(files fs.FS, text string) (*wiretest.Script, error) {
	var whole strings.Builder
	last := ""
	for line := range strings.Lines(text) {
		name, included := strings.CutPrefix(strings.TrimSpace(line), "include ")
		if included {
			part, err := fs.ReadFile(files, "attacks/parts/"+name+".txt")
			if err != nil {
				return nil, err
			}
			line = string(part)
		}
		whole.WriteString(line)
		if line := strings.TrimSpace(line); line != "" && line[0] != '#' {
			last = line
		}
	}
	if !strings.HasSuffix(last, "C close") && !strings.HasSuffix(last, "S close") {
		return nil, fmt.Errorf("the last step is %q and not the end of the connection", last)
	}
	return wiretest.Parse(whole.String())
}
