// Package dnslab runs real DNS for tests: Knot DNS serves zones that a test makes
// up and signs those that it asks for, and Unbound resolves and validates them,
// with a trust anchor for each signed zone.
//
// Everything happens on loopback addresses, at ports that were free, below a
// directory of its own; it takes no root. Nothing leaves the machine: what is in
// no zone of the lab does not exist. It does not judge answers, and it imports
// nothing of what is tested with it.
package dnslab
