package probe

import (
	"strconv"
	"strings"
)

// The most of what a server says that is repeated, in octets, and of the names of a
// certificate; some have hundreds.
const (
	mostQuoted = 200
	mostNames  = 20
)

// quote makes what others chose fit to be printed: cut, and escaped so that it can
// neither end a line nor speak to a terminal.
func quote(said string) string {
	cut := len(said) > mostQuoted
	if cut {
		said = said[:mostQuoted]
	}
	text := strconv.QuoteToASCII(said)
	text = strings.ReplaceAll(text[1:len(text)-1], `\"`, `"`)
	if cut {
		text += "..."
	}
	return text
}

// requote is quote for what may have been quoted before.
func requote(said string) string {
	if plain, err := strconv.Unquote(said); err == nil {
		said = plain
	}
	return quote(said)
}

// quoteAll is quote for a list, which has a bound too.
func quoteAll(list []string) []string {
	out := []string{}
	for _, s := range list[:min(len(list), mostNames)] {
		out = append(out, quote(s))
	}
	if more := len(list) - mostNames; more > 0 {
		out = append(out, "and "+strconv.Itoa(more)+" more")
	}
	return out
}
