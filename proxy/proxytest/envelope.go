package proxytest

import (
	"strconv"
	"strings"
)

// capabilityOf names the capability that allows a parameter of MAIL or RCPT.
var capabilityOf = map[string]string{
	"SIZE":        "SIZE",
	"BODY":        "8BITMIME",
	"SMTPUTF8":    "SMTPUTF8",
	"AUTH":        "AUTH",
	"RET":         "DSN",
	"ENVID":       "DSN",
	"NOTIFY":      "DSN",
	"ORCPT":       "DSN",
	"REQUIRETLS":  "REQUIRETLS",
	"BY":          "DELIVERBY",
	"HOLDFOR":     "FUTURERELEASE",
	"HOLDUNTIL":   "FUTURERELEASE",
	"MT-PRIORITY": "MT-PRIORITY",
	"RRVS":        "RRVS",
}

func (c *conversation) mail(args string) error {
	address, params, ok := parsePath("FROM:", args)
	if !ok {
		return c.reply("501 5.5.4 MAIL FROM:<address>")
	}
	switch {
	case !c.greeted:
		return c.reply("503 5.5.1 EHLO first")
	case c.message != nil:
		return c.reply("503 5.5.1 a transaction is open")
	}
	t := &transaction{from: address, params: params}
	if refusal := c.mailParams(t); refusal != "" {
		return c.reply(refusal)
	}
	if skip, err := c.stage(AtMail); skip || err != nil {
		return err
	}
	c.message = t
	return c.reply("250 2.1.0 ok")
}

// mailParams reads the parameters of MAIL and returns the refusal, or nothing.
func (c *conversation) mailParams(t *transaction) string {
	for param := range strings.FieldsSeq(t.params) {
		key, value, _ := strings.Cut(param, "=")
		key = strings.ToUpper(key)
		if refusal := c.unoffered(key); refusal != "" {
			return refusal
		}
		switch key {
		case "SIZE":
			size, err := strconv.ParseUint(value, 10, 62)
			if err != nil {
				return "501 5.5.4 SIZE is a number"
			}
			if c.config.MaxSize > 0 && size > uint64(c.config.MaxSize) {
				return "552 5.3.4 too big"
			}
		case "SMTPUTF8":
			t.utf8 = true
		case "BODY":
			t.binary = strings.EqualFold(value, "BINARYMIME")
			if t.binary && !c.offered("BINARYMIME") {
				return "555 5.5.4 BINARYMIME is not offered"
			}
		}
	}
	if !t.utf8 && !isASCII(t.from) {
		return "553 5.6.7 that needs SMTPUTF8"
	}
	return ""
}

// unoffered returns the refusal of a parameter whose capability was not
// offered: who uses it has not read the answer to its EHLO, or somebody in
// between has told another one.
func (c *conversation) unoffered(key string) string {
	if capability, ok := capabilityOf[key]; ok && c.offered(capability) {
		return ""
	}
	c.violation("parameter %s was not offered", key)
	return "555 5.5.4 parameter " + key + " is not known here"
}

func (c *conversation) rcpt(args string) error {
	address, params, ok := parsePath("TO:", args)
	if !ok || address == "" {
		return c.reply("501 5.5.4 RCPT TO:<address>")
	}
	if c.message == nil || c.message.content != nil {
		return c.reply("503 5.5.1 MAIL first")
	}
	for param := range strings.FieldsSeq(params) {
		key, _, _ := strings.Cut(param, "=")
		if refusal := c.unoffered(strings.ToUpper(key)); refusal != "" {
			return c.reply(refusal)
		}
	}
	if !c.message.utf8 && !isASCII(address) {
		return c.reply("553 5.6.7 that needs SMTPUTF8")
	}
	if skip, err := c.stage(AtRcpt); skip || err != nil {
		return err
	}
	reply, ok := c.config.Recipients[address]
	if !ok {
		reply = "250 2.1.5 ok"
	}
	if strings.HasPrefix(reply, "2") {
		c.message.to = append(c.message.to, Recipient{address, params})
	}
	return c.reply(strings.Split(reply, "\n")...)
}

// parsePath reads "FROM:<path> parameters". The path ends at the first ">"
// outside of quotes (RFC 5321 §4.1.2); a source route is left in place.
func parsePath(prefix, args string) (path, params string, ok bool) {
	if len(args) <= len(prefix) || !strings.EqualFold(args[:len(prefix)], prefix) || args[len(prefix)] != '<' {
		return "", "", false
	}
	rest := args[len(prefix)+1:]
	quoted := false
	for i := 0; i < len(rest); i++ {
		switch {
		case rest[i] == '"':
			quoted = !quoted
		case rest[i] == '\\' && quoted:
			i++
		case rest[i] == '>' && !quoted:
			path, params = rest[:i], rest[i+1:]
			return path, strings.TrimPrefix(params, " "), params == "" || params[0] == ' '
		}
	}
	return "", "", false
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > 127 }) < 0
}
