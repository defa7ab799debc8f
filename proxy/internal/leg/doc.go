// Package leg is one end of a session: a socket, the SMTP read from and written
// to it, the deadlines of both, the step from the clear phase into TLS, and what
// that step yielded.
//
// The clear phase and the TLS phase are two Conns. The second is made from the
// socket alone, so that nothing said in clear can be taken for something said
// inside TLS (RFC 3207 §4.2 and §6).
//
// A leg knows no rule, no reply and no sibling: what is offered in a handshake
// comes from its caller, and what it means that a handshake failed is judged by
// its caller from the Handshake that it returns.
package leg
