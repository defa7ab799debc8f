package mta_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"postern/proxy/proxytest/mta"
)

// kind is what a message of the matrix is like.
type kind string

const (
	plain  kind = "plain"  // dots in front, 8 bit, lines as long as they may be, no line end at last
	second kind = "second" // and third: short ones, to be sent in the same session
	third  kind = "third"
	utf8   kind = "utf8" // an address and a header in UTF-8 (RFC 6531)
	huge   kind = "huge" // 40 MB
)

const (
	matrixSender     = "doctor@hospital.example"
	matrixSenderUTF8 = "ärztin@hospital.example"
	hugeSize         = 40 << 20
)

// letter is the content of a kind, as a file for those that read one.
type letter struct {
	content []byte
	file    string
	body    [sha256.Size]byte
}

// from is the sender of all messages of the kind.
func (k kind) from() string {
	if k == utf8 {
		return matrixSenderUTF8
	}
	return matrixSender
}

// to is an address that no other message has.
func (k kind) to(client string, domain string) string {
	if k == utf8 {
		return "grüße." + client + "@" + domain
	}
	return string(k) + "." + client + "@" + domain
}

// write makes the content of a kind.
func (k kind) write(dir string) (*letter, error) {
	subject := string(k)
	if k == utf8 {
		subject = "Größe und Gewicht"
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: <%s>\r\nTo: <someone@partner.example>\r\nSubject: %s\r\n"+
		"Date: Mon, 02 Mar 2026 10:00:00 +0100\r\nMessage-Id: <%s@hospital.example>\r\n"+
		"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n", k.from(), subject, k)
	b.Write(k.lines())
	l := &letter{content: b.Bytes(), file: filepath.Join(dir, string(k)+".eml"), body: bodySum(b.Bytes())}
	return l, os.WriteFile(l.file, l.content, 0o644)
}

// lines hold what mail programs like to spoil.
func (k kind) lines() []byte {
	var b bytes.Buffer
	switch k {
	case second, third:
		fmt.Fprintf(&b, "This is the %s message of a session.\r\n.\r\n..\r\n", k)
	case huge:
		line := strings.Repeat("x", 500) + "Grüße\r\n.dot\r\n"
		for i := 0; b.Len() < hugeSize; i++ {
			fmt.Fprintf(&b, "%d %s", i, line)
		}
	default:
		b.WriteString(".\r\n..\r\n.dot\r\n. \r\nFrom here\r\n\tGrüße  \r\n\r\n\r\n.\x80\xfe\r\n")
		// RFC 5321 §4.5.3.1.6: 1000 bytes with the line end.
		for length := 985; length <= 998; length++ {
			b.WriteString("." + strings.Repeat("l", length-1) + "\r\n")
		}
		b.WriteString("and no line end")
	}
	return b.Bytes()
}

// bodySum is the hash of what follows the header, which programs write anew on
// the way: each adds Received, and sendmail and Exim have their own way to write
// addresses. DATA (RFC 5321 §4.1.1.4) cannot carry a last line without its end, so
// that all but BDAT put it there; and it is LF in a mailbox.
func bodySum(content []byte) [sha256.Size]byte {
	_, body, found := bytes.Cut(content, []byte("\n\n"))
	if crlf := bytes.Index(content, []byte("\r\n\r\n")); crlf >= 0 && (!found || crlf < len(content)-len(body)) {
		body = bytes.ReplaceAll(content[crlf+4:], []byte("\r\n"), []byte("\n"))
	}
	sum := sha256.New()
	sum.Write(body)
	if !bytes.HasSuffix(body, []byte("\n")) {
		sum.Write([]byte("\n"))
	}
	return [sha256.Size]byte(sum.Sum(nil))
}

// arrivals are the messages that came to servers, by recipient. They are taken
// out of the mailboxes at once: 40 MB are not to be read again and again.
type arrivals struct {
	sync.Mutex
	all map[string][]arrival
}

type arrival struct {
	from   string
	body   [sha256.Size]byte
	header string
}

// collect takes messages in until the context ends.
func (a *arrivals) collect(ctx context.Context, server mta.Server) error {
	for {
		messages, err := server.WaitMessages(ctx, 1)
		if errors.Is(err, context.Canceled) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := a.take(server, messages); err != nil {
			return err
		}
	}
}

func (a *arrivals) take(server mta.Server, messages []mta.Message) error {
	for _, m := range messages {
		header, _, _ := bytes.Cut(m.Raw, []byte("\n\n"))
		one := arrival{m.From, bodySum(m.Raw), string(header)}
		a.Lock()
		a.all[m.To] = append(a.all[m.To], one)
		a.Unlock()
		if err := server.Forget(m); err != nil {
			return err
		}
	}
	return nil
}

func (a *arrivals) of(recipient string) []arrival {
	a.Lock()
	defer a.Unlock()
	return a.all[recipient]
}
