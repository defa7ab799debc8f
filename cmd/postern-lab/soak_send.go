package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/mta"
)

const (
	soakUser     = "doctor@hospital.example"
	clearDomain  = "clear.example"
	secretDomain = "secret.example"

	// onTheWay bounds how many messages are sent and have not arrived.
	onTheWay = 150
	// submitters put messages into the queue; one waits for the disk most of the
	// time.
	submitters = 3
)

// soakSender is a Postfix that tries again within a second, for ever, and never
// gives a server up.
func soakSender() mta.Options {
	return mta.Options{
		Name: "out.hospital.example",
		Routes: map[string]netip.AddrPort{
			clearDomain:  netip.AddrPortFrom(soakClear, smtpPort),
			secretDomain: netip.AddrPortFrom(soakSecret, smtpPort),
		},
		Parameters: map[string]string{
			"smtp_tls_policy_maps":   fmt.Sprintf("inline:{{[%s]:%d = encrypt}}", soakSecret, smtpPort),
			"queue_run_delay":        "1s",
			"minimal_backoff_time":   "1s",
			"maximal_backoff_time":   "2s",
			"enable_long_queue_ids":  "yes", // the log names no two messages alike
			"smtp_connect_timeout":   "20s",
			"smtp_helo_timeout":      "20s",
			"smtp_starttls_timeout":  "20s",
			"smtp_mail_timeout":      "20s",
			"smtp_rcpt_timeout":      "20s",
			"smtp_data_init_timeout": "20s",
			"smtp_data_xfer_timeout": "20s",
			"smtp_data_done_timeout": "40s",
			"smtp_quit_timeout":      "10s",

			"smtp_destination_concurrency_limit":               "12",
			"initial_destination_concurrency":                  "12",
			"smtp_destination_concurrency_failed_cohort_limit": "0",
		},
	}
}

// soakMessage makes a message that names itself in its first line. Its lines hold
// what is easily spoilt: dots in front, octets of 8 bits, blanks at the end.
func soakMessage(id string, size int, random *rand.Rand) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s%s\r\nFrom: <%s>\r\nTo: <office@%s>\r\nDate: Mon, 02 Mar 2026 10:00:00 +0100\r\n"+
		"Message-Id: <%s@hospital.example>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"+
		"Content-Transfer-Encoding: 8bit\r\n\r\n", proxytest.Mark, id, soakUser, clearDomain, id)
	for n := 0; b.Len() < size; n++ {
		fmt.Fprintf(&b, ".%d Grüße \x80\xff %x\r\n..\r\n. \r\n\r\n.\t%0*d\r\n", n, random.Uint64(), 1+random.IntN(900), n)
	}
	return b.Bytes()
}

// soakSize draws how long a message is, in octets: most are short, one in a
// hundred is a scan of some megabytes.
func soakSize(random *rand.Rand) int {
	between := func(low, high int) int { return low + random.IntN(high-low) }
	switch n := random.IntN(100); {
	case n < 70:
		return between(1<<10, 20<<10)
	case n < 92:
		return between(20<<10, 200<<10)
	case n < 99:
		return between(200<<10, 1<<20)
	}
	return between(2<<20, 4<<20)
}

// submit puts the messages into Postfix's queue, evenly over the length of the
// soak, but no faster than they arrive.
func (t *trial) submit(ctx context.Context) error {
	each := t.lasting / time.Duration(max(1, t.postfixMessages()))
	numbers := make(chan int)
	failed := make(chan error, submitters)
	var running sync.WaitGroup
	for range submitters {
		running.Go(func() {
			for n := range numbers {
				if err := t.submitOne(n); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	err := func() error {
		defer close(numbers)
		pace := time.NewTicker(max(each, time.Millisecond))
		defer pace.Stop()
		for n := range t.postfixMessages() {
			if err := t.ledger.below(ctx, onTheWay); err != nil {
				return err
			}
			select {
			case numbers <- n:
			case err := <-failed:
				return err
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			<-pace.C
		}
		return nil
	}()
	running.Wait()
	select {
	case late := <-failed:
		return late
	default:
		return err
	}
}

// postfixMessages is how many of the messages Postfix sends: all but every tenth.
func (t *trial) postfixMessages() int { return t.messages - t.messages/10 }

func (t *trial) submitOne(n int) error {
	random := rand.New(rand.NewPCG(t.seed, uint64(n)))
	id := fmt.Sprintf("p%d", n)
	content := soakMessage(id, soakSize(random), random)
	t.ledger.send(id, sha256.Sum256(content))
	domain := clearDomain
	if random.IntN(2) == 0 {
		domain = secretDomain
	}
	return t.postfix.Submit(soakUser, []string{"office@" + domain}, content)
}
