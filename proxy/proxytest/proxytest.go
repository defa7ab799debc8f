// Package proxytest has what it takes to try an SMTP proxy from outside, as
// net/http/httptest does for HTTP: a PKI with every certificate a test may want
// wrong, an SMTP [Server] that can be given any temper and keeps a record of
// all it saw, and an SMTP [Client] that hides nothing of what was said.
//
// The tests, the demo network and the benchmark use it. It shares no code with
// the proxy on purpose: lines, replies, dot-stuffing and chunks are read here a
// second time, independently, so that a mistake made in one place cannot hide
// in the other. For the same reason it is strict and writes down what it finds
// amiss ([Session].Violations) instead of being generous.
//
// It is no mail server and no mail program. Nothing is delivered, queued or
// retried, names are not resolved, and what it accepts from the network is
// bounded just well enough for a test; it must not face the Internet.
package proxytest
