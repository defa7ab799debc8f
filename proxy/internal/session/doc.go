// Package session is the conversation: one client, one upstream, and what is
// said between them. It is the only room that sees both legs.
//
// In the order of the code: session.go holds the life of a session, greet.go the
// banner, the first EHLO and how the upstream is secured before the client is
// answered, clienttls.go the client's own STARTTLS, dispatch.go the commands,
// envelope.go MAIL and RCPT, content.go DATA and BDAT, replies.go the order in
// which replies reach the client, pump.go what comes of the upstream's, halt.go
// how that is stopped for a while, refuse.go verdicts and how they are spoken,
// words.go every reply that is Postern's own, facts.go what a handshake yielded,
// passthrough.go what observing does where Postern would stand in the way. Where a
// rule has TLS watched and not ended here, watch.go is how client and upstream come
// to it, watch_gate.go what holds it back until it was judged, watch_facts.go what
// came of it, and splice.go how octets pass.
//
// Two goroutines run a session. One reads the client and alone writes to the
// upstream; the other, started when the first EHLO has been answered, reads the
// upstream. Either may write to the client, in the order that replies keeps.
//
// It decides no policy (enforce does), parses no SMTP (smtpwire does) and has no
// queue: a message that the upstream has not accepted is still the sender's.
package session
