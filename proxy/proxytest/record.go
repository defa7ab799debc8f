package proxytest

import (
	"crypto/tls"
	"net"
	"slices"
)

// Session is what a [Server] saw of one connection.
type Session struct {
	ID         int      // from 1, in the order of arrival
	Remote     net.Addr // who connected
	Local      net.Addr // whom they meant
	Hellos     []string // "EHLO client.test", as they came
	Commands   []Command
	Replies    []string // all that was answered, line by line without CRLF
	Auth       []Auth
	Messages   []Message // accepted ones
	Unfinished []byte    // content of a message that was never ended, as it came
	Violations []string  // what the peer must not have done

	TLS          *tls.ConnectionState // nil without TLS, or if the handshake failed
	HandshakeErr error

	Ended bool
	End   string // how: "quit", "EOF", …
}

// Command is a line that a client sent.
type Command struct {
	Raw string // with its line ending
	TLS bool   // within TLS
}

// Auth is an attempt to log in.
type Auth struct {
	Mechanism string
	User      string
	Password  string
	TLS       bool
	OK        bool
}

// Message is a message that a [Server] accepted.
type Message struct {
	Session    int // its ID
	TLS        bool
	From       string // address of MAIL, without brackets
	FromParams string // as they came
	Recipients []Recipient
	Size       int64
	SHA256     [32]byte // of the content
	Content    []byte   // without stuffed dots; nil if discarded
	Wire       []byte   // bytes as they came, for DATA with the line that ends it; nil if discarded
	Chunks     []int64  // sizes of its BDAT chunks; nil for DATA
}

// Recipient is an accepted recipient.
type Recipient struct {
	Address string
	Params  string
}

// clone returns a copy that later changes of the session do not touch. What is
// in its slices is never changed, only added to.
func (s *Session) clone() Session {
	c := *s
	c.Hellos = slices.Clone(s.Hellos)
	c.Commands = slices.Clone(s.Commands)
	c.Replies = slices.Clone(s.Replies)
	c.Auth = slices.Clone(s.Auth)
	c.Messages = slices.Clone(s.Messages)
	c.Violations = slices.Clone(s.Violations)
	return c
}
