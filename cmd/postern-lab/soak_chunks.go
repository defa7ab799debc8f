package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"postern/proxy/proxytest"
)

// A chunkSender sends messages by BDAT (RFC 3030), which Postfix does not do as a
// client. It keeps each until it has heard that it was accepted, as a queue does.
type chunkSender struct {
	trial    *trial
	messages int

	mu       sync.Mutex
	accepted map[string]bool
	doubtful attempts
	bounced  int
}

func newChunkSender(t *trial) *chunkSender {
	return &chunkSender{
		trial: t, messages: t.messages - t.postfixMessages(),
		accepted: map[string]bool{}, doubtful: attempts{},
	}
}

// chunkSenders send at the same time.
const chunkSenders = 3

// run sends all messages, evenly over the length of the soak.
func (c *chunkSender) run(ctx context.Context) error {
	numbers := make(chan int)
	var running sync.WaitGroup
	for range chunkSenders {
		running.Go(func() {
			for n := range numbers {
				c.keep(ctx, n)
			}
		})
	}
	defer running.Wait()
	defer close(numbers)
	pace := time.NewTicker(max(c.trial.lasting/time.Duration(max(1, c.messages)), time.Millisecond))
	defer pace.Stop()
	for n := range c.messages {
		select {
		case numbers <- n:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		<-pace.C
	}
	return nil
}

// keep tries a message until it is accepted.
func (c *chunkSender) keep(ctx context.Context, n int) {
	random := rand.New(rand.NewPCG(c.trial.seed, 1<<32+uint64(n)))
	id := fmt.Sprintf("c%d", n)
	content := soakMessage(id, soakSize(random), random)
	c.trial.ledger.send(id, sha256.Sum256(content))
	mail := proxytest.Mail{
		From: soakUser, FromParams: "BODY=8BITMIME", To: []string{"office@chunks.example"},
		Content: content, Chunk: 1 + random.IntN(len(content)), Pipelined: random.IntN(2) == 0,
	}
	mail.Chunk = max(mail.Chunk, 1<<10) // not a thousand chunks of one octet
	again := time.NewTicker(500 * time.Millisecond)
	defer again.Stop()
	for ctx.Err() == nil && !c.try(ctx, id, mail, random.IntN(2) == 0) {
		select {
		case <-again.C:
		case <-ctx.Done():
		}
	}
}

// try holds one session and tells whether the message is off our hands.
func (c *chunkSender) try(ctx context.Context, id string, mail proxytest.Mail, secret bool) bool {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	conn, err := c.trial.lab.network.Client.Dial(ctx, netip.AddrPortFrom(chunkClient, 0), netip.AddrPortFrom(soakChunks, smtpPort))
	if err != nil {
		return false
	}
	client := proxytest.NewClient(conn, 40*time.Second)
	defer client.Close()
	if !greeted(client, secret) {
		return false
	}
	outcome, err := client.Send(mail)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil:
		if len(outcome.Rcpt) > 0 && outcome.Rcpt[0].OK() {
			c.doubtful[id]++ // how much of it went out is not known here
		}
		return false
	case outcome.End.Code >= 500:
		c.bounced++
		return true
	case !outcome.Accepted():
		return false
	}
	c.accepted[id] = true
	return true
}

// greeted says EHLO, in TLS if that is wanted.
func greeted(client *proxytest.Client, secret bool) bool {
	reply, err := client.ReadReply()
	if err != nil || reply.Code != 220 {
		return false
	}
	if reply, err = client.Hello("EHLO", "chunks.hospital.example"); err != nil || !reply.OK() || !secret {
		return err == nil && reply.OK()
	}
	if reply, err = client.StartTLS(&tls.Config{InsecureSkipVerify: true}); err != nil || reply.Code != 220 {
		return false
	}
	reply, err = client.Hello("EHLO", "chunks.hospital.example")
	return err == nil && reply.OK()
}
