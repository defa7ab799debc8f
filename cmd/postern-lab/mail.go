package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
)

// newToken makes a word that nothing else holds. It goes into sender and body of
// one message, so that it can be looked for in captured packets.
func newToken() string {
	var random [12]byte
	rand.Read(random[:]) // never fails (crypto/rand)
	return "token-" + hex.EncodeToString(random[:])
}

// letter makes a message of at least size octets that is easily damaged on the
// way: lines that begin with dots or are nothing but dots, blanks at the ends of
// lines, empty lines, and lines of the most octets that SMTP lets a line have
// (RFC 5321 §4.5.3.1.6).
func letter(token string, size int) []byte {
	const longest = 1000 - len("\r\n")
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: <%s@hospital.example>\r\nSubject: a letter\r\n\r\n", token)
	b.WriteString(".\r\n..\r\n. \r\n.begins with a dot\r\n\r\nblanks at the end \t \r\n")
	b.WriteString(strings.Repeat("x", longest) + "\r\n." + strings.Repeat("y", longest-2) + "\r\n")
	for n := 0; b.Len() < size; n++ {
		fmt.Fprintf(&b, "%06d %s\r\n", n, strings.Repeat("all work and no play ", 3))
	}
	b.WriteString(token + "\r\n.\r\n\r\n")
	return b.Bytes()
}

// scan makes a binary message (RFC 3030) of at least size octets: every octet
// there is, line ends of every kind, lines that would end a message sent by DATA,
// and no line end behind the last.
func scan(token string, size int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: <%s@hospital.example>\r\nSubject: a scan\r\nContent-Transfer-Encoding: binary\r\n\r\n", token)
	b.WriteString("\r\n.\r\n\n.\n\r.\r\r\n.\n\n.\r\n")
	for n := 0; b.Len() < size; n++ {
		for octet := range 256 {
			b.WriteByte(byte(octet ^ n))
		}
	}
	b.WriteString("\r\n.\r\n" + token)
	return b.Bytes()
}
