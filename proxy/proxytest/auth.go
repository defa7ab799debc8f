package proxytest

import (
	"encoding/base64"
	"strings"
)

// auth is RFC 4954 with the mechanisms PLAIN (RFC 4616) and LOGIN.
func (c *conversation) auth(args string) error {
	mechanism, initial, _ := strings.Cut(args, " ")
	switch {
	case len(c.config.Users) == 0:
		return c.reply("502 5.5.1 AUTH is not offered")
	case !c.extended:
		return c.reply("503 5.5.1 EHLO first")
	case c.user != "" || c.message != nil:
		return c.reply("503 5.5.1 not now")
	}
	if skip, err := c.stage(AtAuth); skip || err != nil {
		return err
	}
	var user, password string
	var ok bool
	var err error
	switch strings.ToUpper(mechanism) {
	case "PLAIN":
		user, password, ok, err = c.authPlain(initial)
	case "LOGIN":
		user, password, ok, err = c.authLogin(initial)
	default:
		return c.reply("504 5.5.4 mechanism not known")
	}
	if err != nil {
		return err
	}
	if !ok {
		return c.reply("501 5.5.2 that is not how it goes")
	}
	want, known := c.config.Users[user]
	attempt := Auth{Mechanism: strings.ToUpper(mechanism), User: user, Password: password, TLS: c.inTLS, OK: known && want == password}
	c.server.note(func() { c.session.Auth = append(c.session.Auth, attempt) })
	if !attempt.OK {
		return c.reply("535 5.7.8 no")
	}
	c.user = user
	return c.reply("235 2.7.0 welcome")
}

func (c *conversation) authPlain(initial string) (user, password string, ok bool, err error) {
	text := initial
	if text == "" {
		if text, err = c.challenge(""); err != nil {
			return "", "", false, err
		}
	}
	decoded, bad := base64.StdEncoding.DecodeString(text)
	parts := strings.Split(string(decoded), "\x00")
	if bad != nil || len(parts) != 3 {
		return "", "", false, nil
	}
	return parts[1], parts[2], true, nil
}

func (c *conversation) authLogin(initial string) (user, password string, ok bool, err error) {
	if initial == "" {
		if initial, err = c.challenge("Username:"); err != nil {
			return "", "", false, err
		}
	}
	second, err := c.challenge("Password:")
	if err != nil {
		return "", "", false, err
	}
	u, bad := base64.StdEncoding.DecodeString(initial)
	p, worse := base64.StdEncoding.DecodeString(second)
	return string(u), string(p), bad == nil && worse == nil, nil
}

// challenge sends a prompt and returns the line that answers it.
func (c *conversation) challenge(prompt string) (string, error) {
	if err := c.reply("334 " + base64.StdEncoding.EncodeToString([]byte(prompt))); err != nil {
		return "", err
	}
	return c.line()
}
