// Package published gathers what recipient domains publish about their mail
// servers (MX records, TLSA records, MTA-STS policies) and holds it against a
// server that a session talks to.
//
// An address never excuses: large hosts rotate theirs and give others elsewhere,
// and a forged one must not switch a policy off. A server is held as an MX host of
// the domain wherever it is; the addresses of the MX hosts only narrow the choice
// of names to ask it for.
//
// It asks nobody itself (the resolver and the policy cache do, and keep what they
// learn) and it judges nothing: enforce does.
package published
