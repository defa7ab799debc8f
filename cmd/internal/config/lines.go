package config

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// maxDepth bounds how deep keys, lists and tables may be nested, and maxKey how
// long one part of a key may be, octets. The reference needs three and twenty.
// The TOML library recurses, and writes out paths, without a bound of its own.
const (
	maxDepth = 16
	maxKey   = 128
)

// A scanner finds out in which line each key and each entry of a list stands,
// which the TOML library knows and does not tell. It reads any TOML document; at
// the first thing that it does not understand it stops, for then the library has
// a syntax error to tell of.
type scanner struct {
	doc    string
	pos    int
	line   int
	depth  int
	lines  map[string]int // by path: "rule[2].names[0]"
	tables map[string]int // arrays of tables: how many elements so far
	fault  string         // which bound was exceeded, in s.line; "": none
}

// scanLines gives the line of every path in doc, and the bound that doc exceeds,
// with the line where it does.
func scanLines(doc string) (lines map[string]int, fault string, at int) {
	s := &scanner{doc: strings.TrimPrefix(doc, "\ufeff"), line: 1, lines: map[string]int{}, tables: map[string]int{}}
	context := ""
	for ok := true; ok; {
		s.blank(true)
		switch {
		case s.pos >= len(s.doc):
			ok = false
		case s.skip("[["):
			context, ok = s.header("]]")
		case s.skip("["):
			context, ok = s.header("]")
		default:
			ok = s.pair(context)
		}
	}
	return s.lines, s.fault, s.line
}

// join appends a key to a path, quoted where it is not a bare key.
func join(path, key string) string {
	if key == "" || strings.ContainsFunc(key, func(r rune) bool { return !bareKey(r) }) {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func element(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

func bareKey(r rune) bool {
	return 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '_' || r == '-'
}

// header reads the rest of a table's head and gives the path of the table.
func (s *scanner) header(end string) (string, bool) {
	at := s.line
	keys, ok := s.key()
	if !ok || !s.skip(end) {
		return "", false
	}
	path := ""
	for i, k := range keys {
		path = join(path, k)
		if n := s.tables[path]; i < len(keys)-1 && n > 0 {
			path = element(path, n-1) // a path through an array of tables means its last one
		}
		s.note(path, at)
	}
	if end == "]]" {
		s.tables[path]++
		path = element(path, s.tables[path]-1)
	}
	s.lines[path] = at // the head itself, whatever implied the table before
	return path, true
}

// pair reads `key = value` below path.
func (s *scanner) pair(path string) bool {
	at := s.line
	keys, ok := s.key()
	if !ok || !s.skip("=") {
		return false
	}
	for _, k := range keys {
		path = join(path, k)
		s.note(path, at)
	}
	return s.value(path)
}

func (s *scanner) note(path string, line int) {
	if _, ok := s.lines[path]; !ok {
		s.lines[path] = line
	}
}

// key reads a key, dotted or not, and the space around it.
func (s *scanner) key() ([]string, bool) {
	var keys []string
	for {
		s.blank(false)
		k, ok := s.simpleKey()
		if !ok {
			return nil, false
		}
		if len(k) > maxKey {
			return nil, s.exceeds("a key of %d octets found, expected no more than %d", len(k), maxKey)
		}
		if keys = append(keys, k); len(keys) > maxDepth {
			return nil, s.exceeds("more than %d levels found, expected keys and lists that are not nested that deep", maxDepth)
		}
		s.blank(false)
		if !s.skip(".") {
			return keys, true
		}
	}
}

// exceeds notes which bound was exceeded and stops the scanner.
func (s *scanner) exceeds(format string, args ...any) bool {
	s.fault = fmt.Sprintf(format, args...)
	return false
}

func (s *scanner) simpleKey() (string, bool) {
	start := s.pos
	switch {
	case s.skip(`'`):
		ok := s.until(`'`, false)
		return strings.Trim(s.doc[start:s.pos], `'`), ok
	case s.skip(`"`):
		ok := s.until(`"`, true)
		return unquote(s.doc[start:s.pos]), ok
	}
	for s.pos < len(s.doc) && bareKey(rune(s.doc[s.pos])) {
		s.pos++
	}
	return s.doc[start:s.pos], s.pos > start
}

// unquote gives the key that raw writes in quotation marks. The escapes of TOML
// are not those of Go, so the library is asked.
func unquote(raw string) string {
	if !strings.Contains(raw, `\`) {
		return strings.Trim(raw, `"`)
	}
	var one map[string]any
	if _, err := toml.Decode(raw+" = 0", &one); err == nil {
		for k := range one {
			return k
		}
	}
	return raw // no key at all: the library will say so of the document, too
}

// value reads one value, noting the lines of what it holds.
func (s *scanner) value(path string) bool {
	if s.depth++; s.depth > maxDepth {
		return s.exceeds("more than %d levels found, expected keys and lists that are not nested that deep", maxDepth)
	}
	defer func() { s.depth-- }()
	s.blank(false)
	switch {
	case s.skip(`"""`):
		return s.untilThree(`"""`, true)
	case s.skip(`'''`):
		return s.untilThree(`'''`, false)
	case s.skip(`"`):
		return s.until(`"`, true)
	case s.skip(`'`):
		return s.until(`'`, false)
	case s.skip("["):
		return s.list("]", func(i int) bool {
			s.lines[element(path, i)] = s.line
			return s.value(element(path, i))
		})
	case s.skip("{"):
		return s.list("}", func(int) bool { return s.pair(path) })
	}
	start := s.pos
	for s.pos < len(s.doc) && !strings.ContainsRune(",]}#\r\n", rune(s.doc[s.pos])) {
		s.pos++
	}
	return s.pos > start
}

// list reads entries up to end, divided by commas, over as many lines as it takes.
func (s *scanner) list(end string, entry func(i int) bool) bool {
	for i := 0; ; i++ {
		s.blank(true)
		if s.skip(end) {
			return true
		}
		if !entry(i) {
			return false
		}
		s.blank(true)
		if !s.skip(",") {
			return s.skip(end)
		}
	}
}

// until reads the rest of a string, and untilThree that of one over several
// lines, which may end in up to two quotation marks of its own.
func (s *scanner) until(end string, escapes bool) bool {
	for s.pos < len(s.doc) {
		if s.skip(end) {
			return true
		}
		if escapes && s.doc[s.pos] == '\\' {
			s.step()
		}
		s.step()
	}
	return false
}

// untilThree is until for a multi-line string, in which up to two quotes may
// stand directly before the three that end it.
func (s *scanner) untilThree(end string, escapes bool) bool {
	ok := s.until(end, escapes)
	for range 2 {
		s.skip(end[:1])
	}
	return ok
}

// blank skips spaces and tabs, and with lines true newlines and comments, too.
func (s *scanner) blank(lines bool) {
	for s.pos < len(s.doc) {
		switch c := s.doc[s.pos]; {
		case c == ' ' || c == '\t':
		case lines && (c == '\n' || c == '\r'):
		case lines && c == '#':
			for s.pos < len(s.doc) && s.doc[s.pos] != '\n' {
				s.pos++
			}
			continue
		default:
			return
		}
		s.step()
	}
}

// step passes one octet, if there is one.
func (s *scanner) step() {
	if s.pos < len(s.doc) {
		if s.doc[s.pos] == '\n' {
			s.line++
		}
		s.pos++
	}
}

func (s *scanner) skip(prefix string) bool {
	if !strings.HasPrefix(s.doc[s.pos:], prefix) {
		return false
	}
	s.pos += len(prefix)
	return true
}
