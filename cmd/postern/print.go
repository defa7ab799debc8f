package main

import (
	"encoding/json"
	"io"
	"strings"
	"unicode/utf8"
)

// printJSON prints v for programs.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// width is that of a terminal, and of a line of mail (RFC 5322 §2.1.1).
const width = 78

// paragraph writes words behind first, with lines of a readable length that
// begin where the first one did.
func paragraph(b *strings.Builder, first, words string) {
	column := utf8.RuneCountInString(first)
	b.WriteString(first)
	for i, word := range strings.Fields(words) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case column+1+n > width:
			column = utf8.RuneCountInString(first)
			b.WriteString("\n" + strings.Repeat(" ", column))
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += n
	}
	b.WriteByte('\n')
}
