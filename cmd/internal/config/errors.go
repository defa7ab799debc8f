package config

import (
	"errors"
	"fmt"
	"strings"
)

// An Error is one fault of a configuration file.
type Error struct {
	File  string
	Line  int    // counted from 1; 0 when the fault stands in no line
	Place string // the key in words: `intercept.method`, `rule "contoso": names`; "" is the whole file
	Msg   string // what was found and what was expected
}

// Error gives file, line, place and message: `postern.toml:41: rule "contoso": min_version: …`.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	b.WriteString(": ")
	if e.Place != "" {
		b.WriteString(e.Place + ": ")
	}
	b.WriteString(e.Msg)
	return b.String()
}

// Errors are the faults of a file, in the order of its lines.
type Errors []*Error

// mostShown bounds what is printed of a file that is no configuration at all.
const mostShown = 200

// Error gives one fault a line, the first 200 of them.
func (e Errors) Error() string {
	lines := make([]string, 0, min(len(e), mostShown+1))
	for _, one := range e[:min(len(e), mostShown)] {
		lines = append(lines, one.Error())
	}
	if more := len(e) - mostShown; more > 0 {
		lines = append(lines, fmt.Sprintf("%s: and %d more", e[0].File, more))
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.Is and errors.As look at each fault.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i := range e {
		all[i] = e[i]
	}
	return all
}

// keyed is an error that knows which key of the configuration it comes of, such
// as "tls.certificate[0].key" or "rule[2].ca", and its message without that.
type keyed interface {
	ConfigKey() string
	Problem() string
}

// Locate puts errors that came up later, when the values of f were used, into
// the words and lines of the file. It looks through joined errors for those with
// the methods ConfigKey() string, which names a key as "tls.certificate[0].key",
// and Problem() string, the message without it. An error without them is given
// with the file alone. It returns nil for nil.
func (f *File) Locate(err error) Errors {
	var found Errors
	for _, e := range flatten(err) {
		var k keyed
		if !errors.As(e, &k) {
			found = append(found, &Error{File: f.Path, Msg: e.Error()})
			continue
		}
		found = append(found, &Error{File: f.Path, Line: f.at.line(k.ConfigKey()), Place: f.at.words(k.ConfigKey()), Msg: k.Problem()})
	}
	return found
}

// Line gives the line of a key such as "rule[2].ca" or, where it was not written,
// that of the nearest thing around it.
func (f *File) Line(key string) int { return f.at.line(key) }

// flatten takes joined errors apart.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, flatten(e)...)
	}
	return all
}
