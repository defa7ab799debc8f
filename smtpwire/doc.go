// Package smtpwire is SMTP as bytes: lines, commands, paths, replies,
// capabilities and the framing of message content (RFC 5321, RFC 3030).
//
// It reads strictly and within bounds, because everything that it reads was
// written by somebody who may be hostile: a line ends with CRLF and nothing
// else, a reply has one code, an argument has no control characters. Each error
// names the rule that was broken.
//
// It cannot dial, wait or speak: it is given an io.Reader and the deadlines are
// somebody else's. It knows no session and no policy, and it never logs.
package smtpwire
