package proxytest

// Stage is a point of a session at which a [Server] can be made to misbehave.
type Stage string

// The stages, in the order of a session.
const (
	AtBanner    Stage = "banner"
	AtHello     Stage = "hello"    // EHLO and HELO
	AtSTARTTLS  Stage = "starttls" // the command: a reply here replaces the 220
	InHandshake Stage = "handshake"
	AtAuth      Stage = "auth"
	AtMail      Stage = "mail"
	AtRcpt      Stage = "rcpt" // see also ServerConfig.Recipients
	AtData      Stage = "data" // DATA, and the first BDAT of a message
	InContent   Stage = "content"
	AtEndOfData Stage = "end-of-data"
	AtQuit      Stage = "quit"
)

type ending uint8

const (
	goOn ending = iota
	drop
	reset
	stall
)

// Action is what a [Server] does at a stage instead of its duty.
type Action struct {
	reply  string
	ending ending
}

// Say answers with text and goes on, the command having had no effect. Lines of
// a reply of several are separated by "\n"; they are sent as they are, so that
// nonsense can be sent too. At InHandshake the text goes out in clear where the
// ServerHello should be, and the connection closes. At AtBanner a 554 makes the
// server answer everything but QUIT with 503, as RFC 5321 §3.1 wants it.
func Say(text string) Action { return Action{reply: text} }

// Drop closes the connection.
func Drop() Action { return Action{ending: drop} }

// Reset closes the connection with a TCP reset.
func Reset() Action { return Action{ending: reset} }

// Stall says nothing more and swallows what comes until the peer gives up or
// the server is closed.
func Stall() Action { return Action{ending: stall} }

// Then makes an action that speaks end as the other one does: Say("421 4.3.0
// going down").Then(Drop()).
func (a Action) Then(end Action) Action {
	a.ending = end.ending
	return a
}
