// Package mta runs real mail servers inside the hosts of a
// [postern/proxy/proxytest/netlab] network, so that what a proxy does to mail
// is tried on programs that nobody here has written.
//
// [Programs] are Postfix, Exim, OpenSMTPD and sendmail. Each is started with a
// configuration, queue, log and mailbox of its own, in the host's network and in
// a process namespace, and is a [Server]: it receives for given domains and keeps
// every message whole, and it sends along given routes, without DNS, at a chosen
// level of TLS. Postfix is the installed one. The others, whose packages exclude
// it, are unpacked below build/mta by ".ci/test", and run in a root directory
// that lies over the machine's. [Enter] makes the lab such that they can run in
// it, for root and for ordinary users alike: they need several user ids.
//
// It does not install anything, does not touch the mail server that the machine
// may run for itself, and is not for mail that matters: queue and mailbox vanish
// with Stop.
package mta
