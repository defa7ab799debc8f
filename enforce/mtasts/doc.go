// Package mtasts finds out what a recipient domain demands by MTA-STS (RFC 8461):
// the TXT record that says there is a policy, the policy itself over HTTPS, and a
// cache of policies in memory and on disk, refreshed before they run out.
//
// The order of trust: a policy that was fetched over a verified HTTPS connection
// holds until its max_age has run out, whatever DNS says meanwhile, whether the
// web server answers or not (RFC 8461 §3.3, §5.1). So an attacker has to be there
// from the first contact on. DNS alone can make the cache look for a newer policy
// and can never put one in or take one away; mode "none" over HTTPS takes it away
// (§8.3).
//
// It judges no session and refuses nobody: enforce does, from what a Policy says.
// It resolves no names (functions it is given do, and they decide which addresses
// may be reached), looks up no MX records, verifies no certificate of a mail
// server (MatchCertificate compares names, and a chain has to be verified
// besides), asks no parent domain (§3.4), checks no revocation of the web
// server's certificate and sends no reports.
package mtasts
