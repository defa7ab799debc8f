// Package dane finds the TLSA records of the hosts that take a domain's mail
// (RFC 7672 §2.2) and matches what a server shows with them (RFC 6698, RFC 7671).
//
// It decides nothing: what a missing, failed or different record means for a mail
// is said by enforce. It validates no DNSSEC signature (the resolver's servers
// do), looks at no revocation, and knows nothing of the usages 0 and 1, which have
// no meaning in mail (RFC 7672 §3.1.3).
package dane
