// Package intercept is where Postern meets the kernel: how connections that
// were on their way to a mail server come to Postern instead, where they were
// going, and how the connection onwards is made in the client's name.
//
// It has two halves that run in different programs. [Gate] is the daemon's: it
// prepares listening sockets, finds the original destination of what they
// accept and dials upstream; it needs CAP_NET_RAW at most and never changes the
// system. [Plan] is the administrator's: Up, Down and Show set, remove and
// compare nftables rules and policy routing, and need CAP_NET_ADMIN.
//
// It does not accept connections, limit them or speak on them, it decides no
// policy, and it never touches a rule, route or table that is not its own.
package intercept
