package mta_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/mta"
)

// SMTP smuggling: within a message stands what the server, and not whoever looks
// at the mail before it, takes for the end of the message; what follows is a
// second envelope, which nobody has judged. Every form of such an end is tried
// that can be made of CR, LF and NUL around a dot, directly and through Postern.

// honest and forged are the domains of the senders: a rule lets nobody in who
// says to be of the second.
const (
	honest     = "honest.example"
	forged     = "forged.example"
	noForgery  = "[[rule]]\nname = \"forged\"\nfrom_domains = [\"" + forged + "\"]\ntls = \"forced\"\nverify = \"name\"\nnames = [\"nobody.example\"]\non_violation = \"reject\"\n"
	theRealEnd = "\r\n.\r\n"
)

// ends are the forms, the real end of data among them: who says it says two
// messages, and the second is judged like any.
func ends() []string {
	newlines := []string{"\r\n\x00", "\r\x00\n", "\x00\r\n", "\r\r\n", "\n\r\n", "\r\n\r", "\r\n\n"}
	for _, a := range []string{"\r", "\n", "\x00"} {
		newlines = append(newlines, a)
		for _, b := range []string{"\r", "\n", "\x00"} {
			newlines = append(newlines, a+b)
		}
	}
	var all []string
	for _, before := range newlines {
		for _, behind := range newlines {
			all = append(all, before+"."+behind)
		}
	}
	return all
}

// smuggler sends one message for each form.
type smuggler struct {
	t     *testing.T
	site  *site
	ends  []string
	pause time.Duration
}

// result is what became of the forms, by number.
type result struct {
	said              map[int]string // the last replies that the client heard
	honest, forgeries map[int]int    // messages that arrived
}

// send tries every form and waits until all that was accepted has arrived.
func (m *smuggler) send(server mta.Server) result {
	m.t.Helper()
	ctx := within(m.t, 4*patience)
	r := result{map[int]string{}, map[int]int{}, map[int]int{}}
	var lock sync.Mutex
	var running sync.WaitGroup
	next := make(chan int)
	for range 5 { // some have no room for more in the queue of their socket
		running.Go(func() {
			for n := range next {
				said, err := m.one(ctx, n)
				lock.Lock()
				r.said[n] = said
				if err != nil {
					r.said[n] += err.Error()
				}
				lock.Unlock()
			}
		})
	}
	for n := range m.ends {
		next <- n
	}
	close(next)
	running.Wait()
	if queue, err := server.WaitQueue(ctx, mta.Empty); err != nil {
		m.t.Fatalf("%v: %d messages in the queue", err, len(queue))
	}
	messages, err := server.Messages()
	must(m.t, err)
	for _, message := range messages {
		local, domain, _ := strings.Cut(message.From, "@")
		var n int
		if _, err := fmt.Sscanf(local, "v%d", &n); err != nil {
			m.t.Fatalf("a message from %q", message.From)
		}
		if domain == forged {
			r.forgeries[n]++
		} else {
			r.honest[n]++
		}
		must(m.t, server.Forget(message))
	}
	return r
}

// one sends form n and what is to be smuggled behind it, and returns what was said.
func (m *smuggler) one(ctx context.Context, n int) (string, error) {
	conn, err := m.site.net.Client.Dial(ctx, netip.AddrPort{}, netip.AddrPortFrom(m.site.server, 25))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	in := bufio.NewReader(conn)
	to := fmt.Sprintf("RCPT TO:<v%d@%s>", n, partner)
	for _, line := range []string{"", "EHLO " + senderName, fmt.Sprintf("MAIL FROM:<v%d@%s>", n, honest), to, "DATA"} {
		if line != "" {
			if _, err := io.WriteString(conn, line+"\r\n"); err != nil {
				return "", err
			}
		}
		if reply, err := readReply(in); err != nil || reply[0] > '3' {
			return reply, err
		}
	}
	return m.patiently(conn, in,
		"Subject: first\r\n\r\nhonest"+m.ends[n],
		fmt.Sprintf("MAIL FROM:<v%d@%s>\r\n", n, forged),
		to+"\r\n",
		"DATA\r\n",
		"Subject: second\r\n\r\nforged"+theRealEnd,
		"QUIT\r\n")
}

// patient is how long an answer to each piece is waited for directly: a server
// that takes what it got for a whole message or command says so at once. Through
// Postern it need not be waited for, since an answer that comes too early is a
// finding whenever it comes.
const patient, hasty = 40 * time.Millisecond, 5 * time.Millisecond

// patiently sends pieces one after the other, for many servers hang up on who
// sends the next command before the answer to the last, and returns all that was
// said until the connection ended.
func (m *smuggler) patiently(conn *net.TCPConn, in *bufio.Reader, pieces ...string) (string, error) {
	var said strings.Builder
	for _, piece := range pieces {
		if _, err := io.WriteString(conn, piece); err != nil {
			break // what was said before the end is still to be heard
		}
		wait := m.pause
		if strings.HasSuffix(piece, theRealEnd) {
			wait = patience // whatever it ends, something is said to it
		}
		conn.SetReadDeadline(time.Now().Add(wait))
		reply, err := readReply(in)
		said.WriteString(reply)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return said.String(), nil
		}
	}
	conn.SetReadDeadline(time.Now().Add(patience))
	rest, err := io.ReadAll(in)
	if errors.Is(err, syscall.ECONNRESET) {
		err = nil
	}
	return said.String() + string(rest), err
}

func readReply(in *bufio.Reader) (string, error) {
	for {
		line, err := in.ReadString('\n')
		if err != nil || len(line) < 4 || line[3] != '-' {
			return line, err
		}
	}
}

// canBeLenient are the programs that have a setting for it.
var canBeLenient = map[string]bool{"Postfix": true, "sendmail": true}

// modes are those of bare_newline.
var modes = []string{"normalize", "reject", "pass"}

func TestNoEnvelopeIsSmuggledPastTheRules(t *testing.T) {
	forms := ends()
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "server\tdirectly\t%s\t(second envelopes behind a false end, of %d forms)\n", strings.Join(modes, "\t"), len(forms))
	smuggledAtAll := 0
	for _, program := range mta.Programs() {
		for _, lenient := range []bool{false, true} {
			if lenient && !canBeLenient[program.Name] {
				continue
			}
			name := program.Name + map[bool]string{true: ", lenient"}[lenient]
			t.Run(name, func(t *testing.T) {
				counts := trySmuggling(t, program, lenient, forms)
				smuggledAtAll += counts[0]
				fmt.Fprintf(w, "%s", name)
				for _, n := range counts {
					fmt.Fprintf(w, "\t%d", n)
				}
				fmt.Fprintln(w)
			})
		}
	}
	w.Flush()
	t.Logf("\n%s", table.String())
	if smuggledAtAll == 0 && !t.Failed() {
		t.Error("no server takes anything but CRLF . CRLF for the end of a message: this shows nothing")
	}
}

// trySmuggling returns how many second envelopes arrived, directly and under each
// mode.
func trySmuggling(t *testing.T, program mta.Program, lenient bool, forms []string) []int {
	s := newSite(t)
	o := mta.Options{Name: receiverName, Listen: []netip.Addr{s.net.Server4, s.net.Server6}, Domains: []string{partner}, Lenient: lenient}
	o.Certificate, o.Key = s.certificate(s.pki, "receiver", proxytest.Leaf{Names: []string{receiverName}}, 0)
	server := s.run(program, s.net.Server, o)
	m := &smuggler{t, s, forms, patient}
	directly := m.send(server)
	counts := []int{m.falseEnds(directly)}
	if _, real := formNumber(forms, theRealEnd), directly.forgeries[formNumber(forms, theRealEnd)]; real != 1 {
		t.Fatalf("two messages were sent directly, the second arrived %d times: %q", real, directly.said[formNumber(forms, theRealEnd)])
	}
	m.pause = hasty
	var p *postern
	for _, mode := range modes {
		rules := noForgery + "[smtp]\nbare_newline = \"" + mode + "\"\n"
		if p == nil {
			p = s.guard(rules)
		} else {
			p.reload(rules)
		}
		through := m.send(server)
		counts = append(counts, m.falseEnds(through))
		for n := range through.forgeries {
			t.Errorf("%s: %q brings a second envelope past the rules: %q", mode, forms[n], through.said[n])
		}
		m.check(mode, directly, through)
	}
	return counts
}

// falseEnds counts the second envelopes behind what is no end of data.
func (m *smuggler) falseEnds(r result) (count int) {
	for n := range r.forgeries {
		if !strings.Contains(m.ends[n], theRealEnd) {
			count++
		}
	}
	return count
}

func formNumber(forms []string, form string) int {
	for n, f := range forms {
		if f == form {
			return n
		}
	}
	return -1
}

// check wants the first message to arrive once where the mode lets it pass, and
// to be refused by its reason where not.
func (m *smuggler) check(mode string, directly, through result) {
	m.t.Helper()
	for n, form := range m.ends {
		said := through.said[n]
		refused := strings.Contains(said, "550 5.5.2 ") && strings.Contains(said, "(bare-newline)")
		arrived := through.honest[n]
		switch {
		case strings.Contains(said, "(protocol-error)") || strings.Contains(said, "(upstream-lost)"):
			// It is a matter of how long the way to the server is whether what
			// follows is cut off in time.
			m.t.Errorf("%s: the server takes %q for an end: %q", mode, form, said)
		case arrived > 1:
			m.t.Errorf("%s: %q arrived %d times", mode, form, arrived)
		case refused && arrived > 0:
			m.t.Errorf("%s: %q was refused, and arrived", mode, form)
		case mode == "normalize" && refused, mode == "reject" && refused != hasBare(form) && !strings.Contains(form, theRealEnd):
			m.t.Errorf("%s: %q: %q", mode, form, said)
		case !refused && arrived == 0 && directly.honest[n] > 0:
			m.t.Errorf("%s: %q arrived directly and not through Postern: %q", mode, form, said)
		}
	}
}

// hasBare reports whether a CR or LF stands alone in a form, or a dot with NUL.
func hasBare(form string) bool {
	return strings.ContainsAny(strings.ReplaceAll(form, "\r\n", ""), "\r\n") || strings.Contains(form, "\n.\x00")
}
