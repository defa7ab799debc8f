// Package doctor says what on a machine keeps Postern from doing what a plan asks
// of it, why that matters, and the command that mends it. Each thing it looks at
// is a row of a table.
//
// It changes nothing, waits for nobody longer than a few seconds, and takes what
// it may not look at for unknown, never for good. It does not judge a policy, and
// it connects to nobody but the machine's resolvers and the server whose memory
// gateways share.
package doctor
