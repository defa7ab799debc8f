// Package memory keeps what was seen of peers before, as a further fact for a
// verdict: what each destination and each recipient domain could do, and the
// clients whose TLS handshake fell below the floor.
//
// It remembers and forgets, within bounds that no peer can widen. Sessions ask
// and tell memory alone and never wait for a disk; a Store writes behind them,
// seconds later, into a bbolt file that other programs may read and change in
// between. Whatever is wrong with that file is reported and goes on without it.
//
// It judges nothing (enforce does), verifies nothing (it is told what verified),
// speaks to no network, and does not tell sessions what time it is: they tell it.
package memory
