package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"sync"
	"time"

	"postern/proxy/proxytest"
)

// A mailing is what one worker sends again and again.
type mailing struct {
	id      string
	wire    []byte // stuffed, with its end of data
	perform performance
}

// A performance is the shape of a session.
type performance struct {
	size     int // of a message, octets
	messages int // in a session
}

func (b *benchmark) compose(id string, p performance) mailing {
	content := []byte(fmt.Sprintf("From: <%s@hospital.example>\r\n%s%s\r\n", id, proxytest.Mark, id))
	content = append(content, letter(id, p.size)...)
	b.ledger.expect(id, sha256.Sum256(content[bytes.Index(content, []byte(proxytest.Mark)):]))
	wire := bytes.ReplaceAll(content, []byte("\r\n."), []byte("\r\n.."))
	return mailing{id: id, wire: append(wire, ".\r\n"...), perform: p}
}

// The steps of a session, as a client sees them.
const (
	stepBanner   = iota // connection and banner
	stepHello           // EHLO
	stepTLS             // STARTTLS, handshake, EHLO
	stepEnvelope        // MAIL, RCPT and DATA
	stepContent         // to the reply to end-of-data
	stepQuit
	steps
)

// hello comes as far as the second EHLO, or the first where the leg is in clear.
func hello(c *proxytest.Client, s setting, clock func(step int)) error {
	reply, err := c.ReadReply()
	if err = wanted(reply, 220, err); err != nil {
		return err
	}
	clock(stepBanner)
	reply, err = c.Hello("EHLO", "mail.hospital.example")
	if err = wanted(reply, 250, err); err != nil {
		return err
	}
	clock(stepHello)
	if s.clear {
		return nil
	}
	reply, err = c.StartTLS(&tls.Config{InsecureSkipVerify: true, CurvePreferences: s.groups()})
	if err = wanted(reply, 220, err); err != nil {
		return err
	}
	reply, err = c.Hello("EHLO", "mail.hospital.example")
	clock(stepTLS)
	return wanted(reply, 250, err)
}

var envelope = []string{"MAIL FROM:<user@hospital.example>", "RCPT TO:<office@partner.example>", "DATA"}

// send sends one message in a session.
func (b *benchmark) send(c *proxytest.Client, m mailing, clock func(step int)) error {
	replies, err := c.Pipeline(envelope...)
	if err != nil {
		return err
	}
	for i, code := range []int{250, 250, 354} {
		if err := wanted(replies[i], code, nil); err != nil {
			return err
		}
	}
	clock(stepEnvelope)
	if _, err := c.Write(m.wire); err != nil {
		return err
	}
	reply, err := c.ReadReply()
	clock(stepContent)
	if err := wanted(reply, 250, err); err != nil {
		return err
	}
	b.ledger.accepted(m.id)
	return nil
}

// converse holds a whole session.
func (b *benchmark) converse(ctx context.Context, r *running, n int, m mailing, clock func(step int)) error {
	conn, err := b.dial(ctx, r, n)
	if err != nil {
		return err
	}
	defer conn.Close()
	c := proxytest.NewClient(conn, patience)
	if err := hello(c, r.setting, clock); err != nil {
		return err
	}
	for range m.perform.messages {
		if err := b.send(c, m, clock); err != nil {
			return err
		}
	}
	_, err = c.Command("QUIT")
	clock(stepQuit)
	return err
}

// many holds so many sessions, some at once, and returns what the contender
// needed for them.
func (b *benchmark) many(ctx context.Context, r *running, p performance, sessions, atOnce int) (f figures, err error) {
	mailings := make([]mailing, atOnce)
	for i := range mailings {
		mailings[i] = b.compose(fmt.Sprintf("worker%d", i), p)
	}
	if err := b.volley(ctx, r, mailings, warmUp(sessions, atOnce)); err != nil {
		return f, err
	}
	if err := r.atRest(ctx, b); err != nil {
		return f, err
	}
	before, began := r.cpu(), time.Now()
	err = b.volley(ctx, r, mailings, sessions)
	f.wall = time.Since(began)
	if err == nil {
		err = r.atRest(ctx, b)
	}
	f.cpu = r.cpu() - before
	return f, err
}

// warmUp is how many sessions are held before it counts.
func warmUp(sessions, atOnce int) int { return max(atOnce, sessions/10) }

func (b *benchmark) volley(ctx context.Context, r *running, mailings []mailing, sessions int) error {
	errs := make(chan error, len(mailings))
	numbers := make(chan int)
	quit := make(chan struct{})
	var running sync.WaitGroup
	for _, m := range mailings {
		running.Go(func() {
			for n := range numbers {
				if err := b.converse(ctx, r, n, m, func(int) {}); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	go func() { running.Wait(); close(quit) }()
	for n := range sessions {
		select {
		case numbers <- n:
		case <-quit: // all of them failed
		}
	}
	close(numbers)
	<-quit
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}
