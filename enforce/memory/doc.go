// Package memory keeps what was seen of peers before, as a further fact for a
// verdict: so far the clients whose TLS handshake fell below the floor.
//
// It remembers and forgets, within bounds that no peer can widen. It judges
// nothing (enforce does), has no clock (the caller says what time it is), and
// writes nothing to disk: what it knows is gone with the process.
package memory
