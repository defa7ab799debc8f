package record

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Quote makes what a peer said fit to be kept: cut to at most limit octets,
// control characters and invalid UTF-8 escaped, so that it can neither end a log
// line nor speak to a terminal.
func Quote(said string, limit int) string {
	cut := len(said) > limit
	if cut {
		said = said[:limit]
		for len(said) > 0 && !utf8.RuneStart(said[len(said)-1]) {
			said = said[:len(said)-1]
		}
		if len(said) > 0 && said[len(said)-1] >= utf8.RuneSelf {
			said = said[:len(said)-1] // the first octet of a character that was cut
		}
	}
	clean := true
	for _, r := range said {
		if r == utf8.RuneError || !strconv.IsPrint(r) {
			clean = false
			break
		}
	}
	if !clean {
		quoted := strconv.Quote(said)
		said = strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
	}
	if cut {
		said += "…"
	}
	return said
}

// Redact is Quote for text in which addresses may stand: of each, only the
// domain is kept.
func Redact(said string, limit int) string {
	if !strings.Contains(said, "@") {
		return Quote(said, limit)
	}
	kept := make([]byte, 0, len(said))
	for i := range len(said) {
		if said[i] == '@' {
			kept = append(kept[:localPart(kept)], "…"...)
		}
		kept = append(kept, said[i])
	}
	return Quote(string(kept), limit)
}

// localPart returns where the local part that text ends with begins.
func localPart(text []byte) int {
	if n := len(text) - 1; n >= 0 && text[n] == '"' {
		return max(0, bytes.LastIndexByte(text[:n], '"'))
	}
	return bytes.LastIndexAny(text, " \t<>,;:()=[]") + 1
}
