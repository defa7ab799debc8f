package mta

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"
)

// commandLimit bounds how long one of Postfix's commands may take.
const commandLimit = 30 * time.Second

// Submit puts a message into the queue, as sendmail does for programs on the
// host. Lines of the content end in CRLF or LF and leave in CRLF. A message with
// From, To, Date and Message-Id gets nothing added but a Received before all else.
func (p *Postfix) Submit(from string, to []string, content []byte) error {
	_, err := p.command(bytes.NewReader(content), "sendmail",
		append([]string{"-C", p.config(), "-i", "-B", "8BITMIME", "-f", from, "--"}, to...)...)
	return err
}

// Flush has Postfix try at once to deliver what is deferred, destinations
// included that it believes dead.
func (p *Postfix) Flush() error {
	_, err := p.command(nil, "postqueue", "-c", p.config(), "-f")
	return err
}

// Queued is a message in the queue, as "postqueue -j" has it.
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

// Queue returns what is in the queue, in no particular order.
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

// WaitQueue waits until the queue is as wanted, and returns it. It must be so
// twice in a row: a message that moves from one of the queue's directories to
// another while these are listed can be missed.
func (p *Postfix) WaitQueue(ctx context.Context, wanted func([]Queued) bool) ([]Queued, error) {
	var last []Queued
	times := 0
	err := p.wait(ctx, "the queue", func() (bool, error) {
		var err error
		if last, err = p.Queue(); err == nil && wanted(last) {
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
	command := p.host.Command(ctx, filepath.Join(p.in.commands, name), args...)
	var out, complaints bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = input, &out, &complaints
	if err := p.host.Run(command); err != nil {
		return nil, fmt.Errorf("mta: %s: %w: %s", name, err, strings.TrimSpace(complaints.String()))
	}
	return out.Bytes(), nil
}
