// Package probe looks at the servers that a domain's mail goes to, or at one server:
// what each address speaks, shows and lets through, what the domain publishes about
// it, and what a policy would say of it.
//
// It asks the questions that a session of the proxy has no need of (one connection
// for each version, suite and group), and offers TLS 1.0 and 1.1 and suites that are
// insecure to find out whether they are accepted: no mail goes over such a
// connection, no word but EHLO, STARTTLS and QUIT. Its verdict is that of enforce, on
// the facts of a connection that was offered what the proxy would offer.
//
// It sends no mail, logs in nowhere, writes no file and remembers nothing. It does
// not know what the proxy remembers of a server, and so never says
// starttls-stripped. What crypto/tls cannot speak it cannot find: finite-field DHE,
// CCM, Camellia, ARIA, CBC with SHA-384, SSL 3.0.
package probe
