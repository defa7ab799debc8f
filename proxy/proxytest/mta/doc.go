// Package mta runs real mail servers inside the hosts of a
// [postern/proxy/proxytest/netlab] network, so that what a proxy does to mail
// is tried on programs that nobody here has written.
//
// [StartPostfix] starts the installed Postfix with a configuration, queue, log
// and mailbox of its own, in the host's network and in a process namespace. It
// receives for given domains and keeps every message whole, and it sends along
// given routes, without DNS, at a chosen level of TLS. [Enter] makes the lab
// such that Postfix can run in it, for root and for ordinary users alike: Postfix
// needs several user ids.
//
// It does not install anything, does not touch the Postfix that the machine may
// run for itself, and is not for mail that matters: queue and mailbox vanish
// with Stop.
package mta
