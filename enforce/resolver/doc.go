// Package resolver asks DNS servers for what mail needs to know of domains: MX,
// address, TXT and TLSA records, and whether DNSSEC secures them. What it is told
// it keeps for as long as it holds, for all sessions, within bounds.
//
// It does not validate signatures: it believes the AD bit of the servers that it
// is told to believe, which validate (RFC 7672 §1.3.3, RFC 6840 §5.8). It judges
// nothing, and asks for nothing on its own.
package resolver
