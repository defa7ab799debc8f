package config

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// positions say where keys stand, by line and in words.
type positions struct {
	lines  map[string]int
	titles map[string]string // of elements that have a name: "rule[2]" is `rule "contoso"`
}

// line gives the line of path or, where it was not written, that of the nearest
// thing around it; the first line in the end.
func (p *positions) line(path string) int {
	for path != "" {
		if n := p.lines[path]; n > 0 {
			return n
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return 1
}

// words gives path as people read it.
func (p *positions) words(path string) string {
	if i := strings.Index(path, "]"); i >= 0 {
		if title := p.titles[path[:i+1]]; title != "" {
			rest := strings.TrimPrefix(path[i+1:], ".")
			if rest == "" {
				return title
			}
			return title + ": " + rest
		}
	}
	return path
}

// A reader collects the faults of one file.
type reader struct {
	file string
	at   *positions
	errs Errors
}

func (r *reader) fail(path, format string, args ...any) {
	r.errs = append(r.errs, &Error{File: r.file, Line: r.at.line(path), Place: r.at.words(path), Msg: fmt.Sprintf(format, args...)})
}

// sorted gives the faults in the order of the lines.
func (r *reader) sorted() Errors {
	slices.SortStableFunc(r.errs, func(a, b *Error) int { return cmp.Compare(a.Line, b.Line) })
	return r.errs
}

// A table is one table of the file. The keys that are asked for are those that
// it may hold: done reports the others.
type table struct {
	*reader
	path   string
	values map[string]any
	known  []string
	bad    map[string]bool // keys with a fault
}

func (r *reader) table(path string, values map[string]any) *table {
	return &table{reader: r, path: path, values: values, bad: map[string]bool{}}
}

func (t *table) value(key string) (any, bool) {
	t.known = append(t.known, key)
	v, ok := t.values[key]
	return v, ok
}

// wrote reports whether key stands in the table.
func (t *table) wrote(key string) bool {
	_, ok := t.values[key]
	return ok
}

func (t *table) fail(key, format string, args ...any) {
	t.bad[key] = true
	t.reader.fail(join(t.path, key), format, args...)
}

// failEntry is fail for one entry of a list, in the line of that entry.
func (t *table) failEntry(key string, i int, format string, args ...any) {
	t.bad[key] = true
	path := join(t.path, key)
	t.errs = append(t.errs, &Error{File: t.file, Line: t.at.line(element(path, i)), Place: t.at.words(path), Msg: fmt.Sprintf(format, args...)})
}

// done reports the keys that nothing asked for.
func (t *table) done() {
	for _, key := range slices.Sorted(maps.Keys(t.values)) {
		if slices.Contains(t.known, key) {
			continue
		}
		hint := "expected one of " + strings.Join(t.known, ", ")
		if near := nearest(key, t.known); near != "" {
			hint = fmt.Sprintf("expected perhaps %q", near)
		}
		t.reader.fail(join(t.path, cut(key)), "unknown key found, %s", hint)
	}
}

// inner gives the table under key, an empty one if there is none.
func (t *table) inner(key string) *table {
	path := join(t.path, key)
	switch v, ok := t.value(key); v := v.(type) {
	case map[string]any:
		return t.reader.table(path, v)
	default:
		if ok {
			t.fail(key, "%s found, expected a table, written [%s]", describe(v), path)
		}
	}
	return t.reader.table(path, nil)
}

// all gives the array of tables under key, each titled by its name.
func (t *table) all(key string) []*table {
	path := join(t.path, key)
	v, ok := t.value(key)
	var entries []any
	switch v := v.(type) {
	case []map[string]any:
		for _, m := range v {
			entries = append(entries, m)
		}
	case []any: // a list of inline tables
		entries = v
	default:
		if ok {
			t.fail(key, "%s found, expected tables, each written [[%s]]", describe(v), path)
		}
	}
	var tables []*table
	for i, e := range entries {
		m, ok := e.(map[string]any)
		if !ok {
			t.failEntry(key, i, "%s found, expected a table", describe(e))
			continue
		}
		if name, ok := m["name"].(string); ok && name != "" {
			t.at.titles[element(path, i)] = fmt.Sprintf("%s %s", path, quote(name))
		}
		tables = append(tables, t.reader.table(element(path, i), m))
	}
	return tables
}

// describe names a value as it was found.
func describe(v any) string {
	switch v := v.(type) {
	case string:
		return quote(v)
	case int64, bool:
		return fmt.Sprint(v)
	case float64:
		if s := fmt.Sprint(v); strings.ContainsAny(s, ".efIN") {
			return s
		}
		return fmt.Sprintf("%.1f", v)
	case time.Time:
		return "a date or time"
	case []any:
		return "a list"
	}
	return "a table"
}

// quote gives what was found in quotation marks and not at any length: a file
// that is not a configuration at all may have been named.
func quote(s string) string { return fmt.Sprintf("%q", cut(s)) }

func cut(s string) string {
	const most = 160
	if len(s) <= most {
		return s
	}
	end := most
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}

// nearest gives the key that key was probably meant to be, or "".
func nearest(key string, known []string) string {
	best, least := "", 1+len(key)/3
	for _, k := range known {
		if d := distance(cut(key), k); d <= least && (best == "" || d < least) {
			best, least = k, d
		}
	}
	return best
}

// distance counts the letters to insert, delete, replace or swap with their
// neighbour to make b of a.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
