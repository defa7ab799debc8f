// Package cluster keeps what gateways learn on a Redis or Valkey server that they
// share, so that each knows within a second what another saw.
//
// Every record is a key of its own that runs out by itself. What changed is besides
// announced in a stream, with its value, so that nothing that was written over is
// lost to those who listen; what commands forget is kept in another. A Link reads
// both twice a second. After each new connection, and where it missed something, it
// reads the whole and gives the server whatever that lacks: a server that was away,
// or came back empty, is filled by whoever has it. Gateways join what they read and
// never overwrite what they know; the Records say how (package kept).
//
// No session waits for the server, and a server that is gone, full or hangs changes
// nothing but that others are not told meanwhile. What comes from it is bounded
// before it is read and checked before it is believed.
//
// It is for one server, or whatever stands under one address; it knows neither
// Redis Cluster nor Sentinel. It keeps nothing on disk and judges nothing.
package cluster
