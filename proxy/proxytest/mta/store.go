package mta

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// inbox is the maildir of all recipients.
const inbox = "inbox"

// Message is a message as it was stored for one recipient. Lines end in LF.
type Message struct {
	From, To string // the envelope
	Raw      []byte // all of it: what Postfix put on top, and what came
}

// Messages returns what was delivered until now, by the names of the files: in
// no particular order. A message to two recipients is there twice.
func (p *Postfix) Messages() ([]Message, error) {
	// A maildir's new holds only what is complete.
	entries, err := os.ReadDir(filepath.Join(p.mail(), inbox, "new"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("mta: %w", err)
	}
	var all []Message
	for _, entry := range entries {
		raw, err := os.ReadFile(filepath.Join(p.mail(), inbox, "new", entry.Name()))
		if err != nil {
			return nil, fmt.Errorf("mta: %w", err)
		}
		all = append(all, parseMessage(raw))
	}
	return all, nil
}

// parseMessage reads the envelope off the lines that virtual(8) puts on top.
func parseMessage(raw []byte) Message {
	m := Message{Raw: raw}
	for line := range strings.Lines(string(raw)) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch {
		case ok && name == "Return-Path":
			m.From = strings.Trim(value, "<>")
		case ok && name == "Delivered-To":
			m.To = value
		case ok && name == "X-Original-To":
		default:
			return m
		}
	}
	return m
}

// Header returns the values of a header field, as they stand, the topmost first;
// lines that were folded are joined with a space.
func (m Message) Header(name string) []string {
	var values []string
	taking := false
	for line := range strings.Lines(string(m.Raw)) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			break
		}
		if line[0] == ' ' || line[0] == '\t' {
			if taking {
				values[len(values)-1] += " " + strings.TrimSpace(line)
			}
			continue
		}
		key, value, _ := strings.Cut(line, ":")
		if taking = strings.EqualFold(key, name); taking {
			values = append(values, strings.TrimSpace(value))
		}
	}
	return values
}

// WaitMessages waits until at least n messages are delivered, and returns all.
func (p *Postfix) WaitMessages(ctx context.Context, n int) ([]Message, error) {
	var all []Message
	err := p.wait(ctx, fmt.Sprintf("%d messages", n), func() (bool, error) {
		var err error
		all, err = p.Messages()
		return err == nil && len(all) >= n, err
	})
	return all, err
}
