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
	Raw      []byte // all of it: what the server put on top, and what came

	path string
}

// Messages is described at Server.
func (s *server) Messages() ([]Message, error) {
	files, err := s.stored()
	var all []Message
	for _, path := range files {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("mta: %w", err)
		}
		m := parseMessage(raw)
		m.path = path
		all = append(all, m)
	}
	return all, err
}

// Forget is described at Server.
func (s *server) Forget(m Message) error {
	if err := os.Remove(m.path); err != nil {
		return fmt.Errorf("mta: %w", err)
	}
	return nil
}

// stored lists the mailbox. A maildir's new holds only what is complete.
func (s *server) stored() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.mailbox, "new"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("mta: %w", err)
	}
	var files []string
	for _, entry := range entries {
		files = append(files, filepath.Join(s.mailbox, "new", entry.Name()))
	}
	return files, nil
}

// parseMessage reads the envelope off the lines that the delivery puts on top,
// the names of which are Exim's where they are not everybody's.
func parseMessage(raw []byte) Message {
	m := Message{Raw: raw}
	for line := range strings.Lines(string(raw)) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch {
		case ok && strings.EqualFold(name, "Return-Path"):
			m.From = strings.Trim(value, "<>")
		case ok && (name == "Delivered-To" || name == "Envelope-to"):
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

// WaitMessages is described at Server.
func (s *server) WaitMessages(ctx context.Context, n int) ([]Message, error) {
	err := s.wait(ctx, fmt.Sprintf("%d messages", n), func() (bool, error) {
		files, err := s.stored()
		return err == nil && len(files) >= n, err
	})
	if err != nil {
		return nil, err
	}
	return s.Messages()
}
