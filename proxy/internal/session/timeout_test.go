package session

import (
	"testing"
	"time"
)

func brief(s *Snapshot) {
	s.Timeouts = Timeouts{Connect: time.Second, Handshake: 300 * time.Millisecond, Command: 300 * time.Millisecond,
		Data: 300 * time.Millisecond, Final: 300 * time.Millisecond}
}

func TestEachWaitHasItsLimit(t *testing.T) {
	const lost = "421 4.4.2 mx.example.net: the connection to the server was lost (upstream-lost) […"
	for _, tc := range []struct {
		name string
		play func(b *bench, up *peer)
		want map[string]string
	}{
		{"the next command", func(b *bench, up *peer) {
			b.client.hears("421 4.4.2 mx.example.net: timeout […")
		}, map[string]string{"verdict": "allow", "end": "client timeout"}},
		{"the reply to a command", func(b *bench, up *peer) {
			b.client.say("NOOP\n")
			up.hears("NOOP")
			b.client.hears(lost)
		}, map[string]string{"reason": "upstream-lost", "end": "upstream timeout"}},
		{"message content", func(b *bench, up *peer) {
			inData(b, up)
			b.client.raws("half")
			up.octets("half")
			b.client.hears("421 4.4.2 mx.example.net: timeout within the message")
			up.hearsEnd()
		}, map[string]string{"end": "client timeout within a message"}},
		{"the reply to a message", func(b *bench, up *peer) {
			inData(b, up)
			b.client.say(".\n")
			up.octets(".\r\n")
			b.client.hears(lost)
		}, map[string]string{"reason": "upstream-lost"}},
		{"the client's handshake", func(b *bench, up *peer) {
			b.client.say("STARTTLS\n")
			b.client.hears("220 2.0.0 …")
			b.client.hearsEnd()
		}, map[string]string{"reason": "client-handshake-failed", "client_tls.state": "failed"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, options{edit: brief})
			up := b.greeted(true)
			tc.play(b, up)
			wantFields(t, b.record(), tc.want)
		})
	}
}

func TestAClientThatWaitsForTheUpstreamIsNotTakenForSilent(t *testing.T) {
	b := newBench(t, options{edit: func(s *Snapshot) { brief(s); s.Timeouts.Final = 5 * time.Second }})
	up := b.greeted(true)
	inData(b, up)
	b.client.say(".\n")
	up.octets(".\r\n")
	<-time.After(time.Second) // longer than a client may be silent, which is what is shown
	up.say("250 ok\n")
	b.client.hears("250 ok")
}

func TestAnUpstreamThatIsSilentFromTheBeginning(t *testing.T) {
	b := newBench(t, options{edit: brief})
	b.server()
	b.client.hears("421 4.4.2 [203.0.113.5]: the connection to the server was lost (upstream-lost) […")
	wantFields(t, b.record(), map[string]string{"reason": "upstream-lost"})
}

// inData brings a greeted session to where content is awaited.
func inData(b *bench, up *peer) {
	b.t.Helper()
	b.client.say("MAIL FROM:<a@x.example>\nRCPT TO:<b@x.example>\nDATA\n")
	up.hears("MAIL FROM:<a@x.example>", "RCPT TO:<b@x.example>", "DATA")
	up.say("250 ok\n250 ok\n354 go\n")
	b.client.hears("250 ok", "250 ok", "354 go")
}
