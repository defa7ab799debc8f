package mta

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// commandLimit bounds how long one of Postfix's commands may take.
const commandLimit = 30 * time.Second

// Submit is described at Server. A message with From, To, Date and Message-Id
// gets nothing added but a Received before all else.
func (p *Postfix) Submit(from string, to []string, content []byte) error {
	_, err := p.command(bytes.NewReader(content), "sendmail",
		append([]string{"-C", p.config(), "-i", "-B", "8BITMIME", "-f", from, "--"}, to...)...)
	return err
}

// Flush is described at Server. Destinations are included that Postfix believes
// dead.
func (p *Postfix) Flush() error {
	_, err := p.command(nil, "postqueue", "-c", p.config(), "-f")
	return err
}

// Queued is a message in the queue, as "postqueue -j" has it. Of other servers
// than Postfix the size is not known, and the queue is "deferred" or "active".
type Queued struct {
	Queue      string            `json:"queue_name"` // "incoming", "active", "deferred", "hold" or "maildrop"
	ID         string            `json:"queue_id"`
	Size       int64             `json:"message_size"` // bytes
	Sender     string            `json:"sender"`
	Recipients []QueuedRecipient `json:"recipients"`
}

// QueuedRecipient is one who has not got the message yet.
type QueuedRecipient struct {
	Address string `json:"address"`
	Reason  string `json:"delay_reason"` // of the last attempt; the server's words included
}

// Queue is described at Server.
func (p *Postfix) Queue() ([]Queued, error) {
	out, err := p.command(nil, "postqueue", "-c", p.config(), "-j")
	if err != nil {
		return nil, err
	}
	return parseQueue(out)
}

// parseQueue reads a JSON object a message.
func parseQueue(text []byte) ([]Queued, error) {
	var all []Queued
	for decoder := json.NewDecoder(bytes.NewReader(text)); ; {
		var one Queued
		err := decoder.Decode(&one)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("mta: postqueue: %w", err)
		}
		all = append(all, one)
	}
}

// WaitQueue is described at Server. Once would not do: a message that moves from
// one of the queue's directories to another while these are listed can be missed.
func (s *server) WaitQueue(ctx context.Context, wanted func([]Queued) bool) ([]Queued, error) {
	var last []Queued
	times := 0
	err := s.wait(ctx, "the queue", func() (bool, error) {
		var err error
		if last, err = s.queue(); err == nil && wanted(last) {
			times++
		} else {
			times = 0
		}
		return times == 2, err
	})
	return last, err
}

// Empty and Deferred are what one waits for most: a queue without anything, and
// one in which all that is there was tried and put off.
func Empty(queue []Queued) bool { return len(queue) == 0 }

// Deferred is described at Empty.
func Deferred(queue []Queued) bool {
	for _, message := range queue {
		for _, recipient := range message.Recipients {
			if message.Queue != "deferred" || recipient.Reason == "" {
				return false
			}
		}
	}
	return len(queue) > 0
}

// command runs one of Postfix's own commands on the host.
func (p *Postfix) command(input io.Reader, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	return p.run(p.host.Command(ctx, filepath.Join(p.in.commands, name), args...), input, name)
}

// run runs a command made on the host and returns its output.
func (s *server) run(command *exec.Cmd, input io.Reader, name string) ([]byte, error) {
	var out, complaints bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = input, &out, &complaints
	if err := s.host.Run(command); err != nil {
		return nil, fmt.Errorf("mta: %s: %w: %s", name, err, strings.TrimSpace(complaints.String()))
	}
	return out.Bytes(), nil
}
