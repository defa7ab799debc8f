package smtpwire

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
)

// A Capability is one line of an EHLO reply behind the first: a keyword of a
// service extension and its parameters (RFC 5321 §4.1.1.1).
type Capability struct {
	Keyword string // upper case
	Params  string
}

// Capabilities are what a server said to EHLO, in its order.
type Capabilities struct {
	Greeting string // the first line: its name and whatever it adds
	List     []Capability
}

// ParseCapabilities reads a positive reply to EHLO. A line that has no keyword
// is left out: it offers nothing.
func ParseCapabilities(reply Reply) Capabilities {
	var caps Capabilities
	first := true
	reply.Lines(func(text []byte) bool {
		if first {
			caps.Greeting, first = string(text), false
			return true
		}
		word, params, _ := bytes.Cut(bytes.TrimSpace(text), []byte(" "))
		if len(word) > 0 {
			caps.List = append(caps.List, Capability{string(bytes.ToUpper(word)), string(params)})
		}
		return true
	})
	return caps
}

// Has reports whether keyword (upper case) is offered.
func (c Capabilities) Has(keyword string) bool {
	for _, have := range c.List {
		if have.Keyword == keyword {
			return true
		}
	}
	return false
}

// Covers reports whether c keeps all that was promised by had, of the same keyword:
// a SIZE that is no smaller (RFC 1870 §3), every mechanism of AUTH (RFC 4954 §3)
// and every parameter of any other.
func (c Capability) Covers(had Capability) bool {
	if c.Keyword == "SIZE" {
		is, was := sizeLimit(c.Params), sizeLimit(had.Params)
		return is == 0 || was > 0 && is >= was
	}
	have := strings.Fields(strings.ToUpper(c.Params))
	for _, p := range strings.Fields(strings.ToUpper(had.Params)) {
		if !slices.Contains(have, p) {
			return false
		}
	}
	return true
}

// sizeLimit is the limit that a SIZE names, 0 for none.
func sizeLimit(params string) uint64 {
	n, err := strconv.ParseUint(strings.TrimSpace(params), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// Filter returns the capabilities that keep holds for.
func (c Capabilities) Filter(keep func(keyword string) bool) Capabilities {
	kept := Capabilities{Greeting: c.Greeting, List: make([]Capability, 0, len(c.List)+1)}
	for _, have := range c.List {
		if keep(have.Keyword) {
			kept.List = append(kept.List, have)
		}
	}
	return kept
}

// AppendReply appends the 250 reply that offers c.
func (c Capabilities) AppendReply(dst []byte) []byte {
	line := func(last bool, parts ...string) {
		sep := "250-"
		if last {
			sep = "250 "
		}
		dst = append(dst, sep...)
		for _, p := range parts {
			dst = append(dst, p...)
		}
		dst = append(dst, '\r', '\n')
	}
	line(len(c.List) == 0, c.Greeting)
	for i, have := range c.List {
		last := i == len(c.List)-1
		if have.Params == "" {
			line(last, have.Keyword)
		} else {
			line(last, have.Keyword, " ", have.Params)
		}
	}
	return dst
}

// framed are the extensions whose commands, parameters and content Postern
// follows; the value is the parameters of MAIL and RCPT that each brings.
var framed = map[string][]string{
	"8BITMIME":            {"BODY"},                            // RFC 6152
	"PIPELINING":          nil,                                 // RFC 2920
	"SIZE":                {"SIZE"},                            // RFC 1870
	"CHUNKING":            nil,                                 // RFC 3030
	"BINARYMIME":          {"BODY"},                            // RFC 3030
	"DSN":                 {"RET", "ENVID", "NOTIFY", "ORCPT"}, // RFC 3461
	"ENHANCEDSTATUSCODES": nil,                                 // RFC 2034
	"SMTPUTF8":            {"SMTPUTF8"},                        // RFC 6531
	"DELIVERBY":           {"BY"},                              // RFC 2852
	"MT-PRIORITY":         {"MT-PRIORITY"},                     // RFC 6710
	"FUTURERELEASE":       {"HOLDFOR", "HOLDUNTIL"},            // RFC 4865
	"RRVS":                {"RRVS"},                            // RFC 7293
	"LIMITS":              nil,                                 // RFC 9422
	"VRFY":                nil,
	"EXPN":                nil,
	"HELP":                nil,
	"ETRN":                nil,            // RFC 1985
	"REQUIRETLS":          {"REQUIRETLS"}, // RFC 8689
	"AUTH":                {"AUTH"},       // RFC 4954
}

// Framed reports whether the extension called keyword can be let through without
// losing track of the conversation.
func Framed(keyword string) bool {
	_, ok := framed[keyword]
	return ok
}

// ParamOf reports whether a capability in c brings the MAIL or RCPT parameter
// called keyword. A parameter of the same name as an offered extension that is
// not framed (one that the configuration lets through) counts as its own.
func (c Capabilities) ParamOf(keyword string) bool {
	for _, have := range c.List {
		if have.Keyword == keyword {
			return true
		}
		for _, p := range framed[have.Keyword] {
			if p == keyword {
				return true
			}
		}
	}
	return false
}
