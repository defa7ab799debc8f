package session

import (
	"io"
	"strings"
	"testing"

	"postern/smtpwire"
)

// smuggled stands behind what some server takes for the end of the message.
const smuggled = "MAIL FROM:<forged@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\nforged\r\n"

// ends are what some server takes for the end of data and what is none.
var ends = []string{"\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\r.\r\n", "\r.\n", "\n.\r", "\r\r.\r\r", "\n\n.\n", "\r\n.\x00\r\n"}

// A message that a server could end earlier than the client did is refused, the
// server is left without an end of it, and the client told where it listens.
func TestAMessageWithASecondEndIsRefusedBeforeItHasAny(t *testing.T) {
	for mode, bare := range map[string]smtpwire.BareNewline{"reject": smtpwire.RejectBare, "pass": smtpwire.PassBare} {
		for _, end := range ends {
			t.Run(mode+" "+strings.NewReplacer("\r", "CR", "\n", "LF").Replace(end), func(t *testing.T) {
				b := newBench(t, options{edit: func(s *Snapshot) { s.BareNewline = bare }})
				up := b.greeted(true)
				inData(b, up)
				b.client.raws("Subject: x\r\n\r\na" + end + smuggled + ".\r\n")
				rest, _ := io.ReadAll(up.r)
				up.raw.Close()
				if strings.Contains(string(rest), ".\n") || strings.Contains(string(rest), ".\r") || strings.Contains(string(rest), ".\x00") || strings.Contains(string(rest), "forged") {
					t.Errorf("the upstream gets %q", rest)
				}
				b.client.hears("550 5.5.2 mx.example.net: …")
				b.client.hearsEnd()
				wantFields(t, b.record(), map[string]string{"verdict": "reject", "reason": "bare-newline", "end": "bare newline"})
			})
		}
	}
}

// The same under normalize is one message, which has one end for everybody.
func TestAMessageWithASecondEndIsMadeToHaveOne(t *testing.T) {
	for _, end := range ends {
		t.Run(strings.NewReplacer("\r", "CR", "\n", "LF").Replace(end), func(t *testing.T) {
			b := newBench(t, options{})
			up := b.greeted(true)
			inData(b, up)
			b.client.raws("Subject: x\r\n\r\na" + end + smuggled + ".\r\n")
			up.octets("Subject: x\r\n\r\na\r\n")
			for l := up.line(); strings.TrimSuffix(l, "\x00") != ".."; l = up.line() {
				if l != "" {
					t.Fatalf("the upstream gets %q before the stuffed dot", l)
				}
			}
			for up.line() != "MAIL FROM:<forged@x.example>" {
			}
			up.octets("RCPT TO:<b@x.example>\r\nDATA\r\nforged\r\n.\r\n")
			up.say("250 2.0.0 one message\n")
			b.client.hears("250 2.0.0 one message")
		})
	}
}

// What is not between two newlines of any kind is no end, and bare ones pass.
func TestBareNewlinesPassWhereThatIsSaidAndNoDotStandsAlone(t *testing.T) {
	b := newBench(t, options{edit: func(s *Snapshot) { s.BareNewline = smtpwire.PassBare }})
	up := b.greeted(true)
	inData(b, up)
	const content = "a\nb\rc\r\r\n\n..\n.d\r\x00.\r\n..\r\n.\r\n"
	b.client.raws(content)
	up.octets(content)
	up.say("250 2.0.0 queued\n")
	b.client.hears("250 2.0.0 queued")
}
